"""What an embedding model's folder holds, read from its files alone: identity, token limit, prompts, pooling.

Reads JSON and hashes bytes; imports no torch, so that a plan or a cache key costs a fraction of a second. It refuses
pickled weights, and modules that would run code from the folder.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raft_errors import BadInput

# Fields of config.json that say who saved the model, not what it computes.
_CLERICAL = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures", "use_cache"}
_NO_LIMIT = 1_000_000  # tokenizers write 1e30 for "no limit"


@dataclass(frozen=True)
class ModelFolder:
    """An inspected sentence-transformers (or plain transformers) folder.

    Attributes:
        path: the folder; it appears in no artefact.
        digest: hex sha256 over weights, tokenizer, configuration, pooling and prompts. Two copies of a model that
            differ only in who saved them have the same digest.
        max_tokens: longest input in tokens, special tokens included.
        query_prompt, passage_prompt: put before each text of that kind; usually empty.
        pad_id: token id used for padding.
        include_prompt: False where pooling leaves the prompt's tokens out.
        dim: length of a vector if the files state it, else 0: only the loaded model knows.
        pooling: `mean_tokens`, `cls_token` or another single mode where nothing but it and a normalisation follows the
            transformer, else "".
    """

    path: Path
    digest: str
    max_tokens: int
    query_prompt: str
    passage_prompt: str
    pad_id: int
    include_prompt: bool
    dim: int = 0
    pooling: str = ""


def inspect_model(folder: Path) -> ModelFolder:
    """Reads and hashes the folder. Raises BadInput where it is not a usable embedding model."""
    folder = Path(folder)
    layout = "a sentence-transformers folder with config.json, tokenizer.json and model.safetensors"
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise BadInput(f"Embedder folder {folder} has no {name}", expected=layout, do="check the embedder's path")
    config = _json(folder / "config.json")
    modules = _modules(folder)
    pooling = [_json(path / "config.json", {}) for kind, path in modules if kind.endswith("Pooling")]
    settings = _json(folder / "sentence_bert_config.json", {})
    prompts = _json(folder / "config_sentence_transformers.json", {}).get("prompts") or {}
    query = prompts.get("query") or ""
    passage = prompts.get("passage") or prompts.get("document") or ""
    limits = [
        settings.get("max_seq_length"),
        _json(folder / "tokenizer_config.json", {}).get("model_max_length"),
        config.get("max_position_embeddings"),
    ]
    usable = [int(limit) for limit in limits if limit and 0 < limit < _NO_LIMIT]
    identity = {
        "config": {k: v for k, v in config.items() if k not in _CLERICAL},
        "modules": [kind.rsplit(".", 1)[-1] for kind, _ in modules],
        "module_configs": [_json(path / "config.json", {}) for _, path in modules if path != folder],
        "lower_case": bool(settings.get("do_lower_case")),
        "max_tokens": min(usable, default=512),
        "prompts": [query, passage],
    }
    files = [folder / "tokenizer.json", *_weights(folder, modules)]
    return ModelFolder(
        path=folder,
        digest=_digest(identity, files),
        max_tokens=min(usable, default=512),
        query_prompt=query,
        passage_prompt=passage,
        pad_id=int(config.get("pad_token_id") or 0),
        include_prompt=all(p.get("include_prompt", True) for p in pooling),
        dim=_dim(config, modules, pooling),
        pooling=_pooling(modules, pooling),
    )


def _dim(config: dict[str, Any], modules: list[tuple[str, Path]], pooling: list[dict[str, Any]]) -> int:
    """The transformer's width if only one plain pooling and a normalisation follow it, which leave it as it is."""
    width = config.get("hidden_size")
    same = _pooling(modules, pooling) and pooling[0].get("word_embedding_dimension", width) == width
    return width if same and isinstance(width, int) else 0


def _pooling(modules: list[tuple[str, Path]], pooling: list[dict[str, Any]]) -> str:
    kinds = [kind.rsplit(".", 1)[-1] for kind, _ in modules]
    modes = [name for p in pooling for name, on in p.items() if name.startswith("pooling_mode_") and on]
    plain = kinds in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]) and len(modes) == 1
    return modes[0].removeprefix("pooling_mode_") if plain else ""


def _json(path: Path, default: Any = None) -> Any:
    if default is not None and not path.is_file():
        return default
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise BadInput(
            f"{path} cannot be read ({error})", expected="a JSON file", do="fetch the model again"
        ) from error


def _modules(folder: Path) -> list[tuple[str, Path]]:
    """(type, folder) of each sentence-transformers module; a plain transformers folder gets mean pooling."""
    rows = _json(folder / "modules.json", [])
    if not rows:
        return [("Transformer", folder), ("Pooling", folder)]
    for row in rows:
        if not str(row["type"]).startswith("sentence_transformers."):
            raise BadInput(
                f"Embedder folder {folder} wants module {row['type']}, which would run code from the folder",
                expected="modules of sentence_transformers itself",
                do="choose another embedder",
            )
    return [(row["type"], folder / row["path"]) for row in rows]


def _weights(folder: Path, modules: list[tuple[str, Path]]) -> list[Path]:
    """Weight files in a fixed order; refuses a module that has its weights only as a pickle."""
    files: list[Path] = []
    for place in dict.fromkeys(path for _, path in modules):
        here = sorted(place.glob("*.safetensors"))
        if not here and (place == folder or list(place.glob("*.bin"))):
            raise BadInput(
                f"Embedder folder {place} has no safetensors weights",
                expected="model.safetensors (pickled .bin weights are refused)",
                do="convert the model to safetensors or choose another",
            )
        files += here
    return files


def _digest(identity: dict[str, Any], files: list[Path]) -> str:
    total = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    for path in files:
        with path.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()

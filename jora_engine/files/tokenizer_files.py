"""What a model's folder says of its tokenizer: the backend, the names of its special tokens, ends and chat template.

Reads tokenizer.json, or a SentencePiece tokenizer.model where that is all there is. Renders and encodes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from jora_engine.files.gguf_tokenizer import build_tokenizer
from jora_engine.files.tensor_files import read_json
from raft_errors import BadInput


def read_backend(folder: Path, settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    if (folder / "tokenizer.json").exists():
        try:
            backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the package raises no narrower class
            raise BadInput(
                f"{folder / 'tokenizer.json'} cannot be read ({error})",
                expected="a tokenizers file",
                do="download it again",
            ) from error
        backend.no_padding()
        backend.no_truncation()
        return backend
    if (folder / "tokenizer.model").exists():
        return _from_sentencepiece(folder / "tokenizer.model", settings)
    raise BadInput(
        f"{folder} holds no tokenizer",
        expected="tokenizer.json or a SentencePiece tokenizer.model",
        do="add the tokenizer files that belong to the model",
    )


def _from_sentencepiece(file: Path, settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """A SentencePiece BPE model as Hugging Face converts it, checked against SentencePiece itself."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor()
    try:
        model.Load(str(file))
    except (OSError, RuntimeError) as error:
        raise BadInput(
            f"{file} cannot be read ({error})", expected="a SentencePiece model", do="get it again"
        ) from error
    ids = range(model.GetPieceSize())
    tokenizer = build_tokenizer(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": [model.IdToPiece(i) for i in ids],
            "tokenizer.ggml.scores": [model.GetScore(i) for i in ids],
            "tokenizer.ggml.token_type": [2 if model.IsUnknown(i) else 3 if model.IsControl(i) else 1 for i in ids],
            "tokenizer.ggml.unknown_token_id": model.unk_id(),
            "tokenizer.ggml.bos_token_id": model.bos_id(),
            "tokenizer.ggml.add_bos_token": bool(settings.get("add_bos_token", True)) and model.bos_id() >= 0,
        }
    )
    for text in ("The quick brown fox, 12.5 %.", "naïve Café: 東京 😀", "def f(x):\n    return x"):
        if tokenizer.encode(text, add_special_tokens=False).ids != model.EncodeAsIds(text):
            raise BadInput(
                f"{file} is not a SentencePiece BPE model of the Llama kind",
                expected="BPE with spaces as U+2581 and byte fallback",
                do="add the model's tokenizer.json",
            )
    return tokenizer


def special_tokens(folder: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """Special tokens by name; older folders keep them in special_tokens_map.json."""
    older = folder / "special_tokens_map.json"
    merged = {**(read_json(older) if older.exists() else {}), **settings}
    out = {}
    for name in ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"):
        value = merged.get(name)
        value = value.get("content") if isinstance(value, Mapping) else value
        if isinstance(value, str):
            out[name] = value
    return out


def config_eos(folder: Path) -> list[int]:
    """End ids that generation_config.json and config.json name."""
    ids: list[int] = []
    for name in ("generation_config.json", "config.json"):
        value = read_json(folder / name).get("eos_token_id") if (folder / name).exists() else None
        ids += value if isinstance(value, list) else [] if value is None else [value]
    return list(dict.fromkeys(ids))


def read_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    if (folder / "chat_template.jinja").exists():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if (folder / "chat_template.json").exists():
        return read_json(folder / "chat_template.json").get("chat_template")
    template = settings.get("chat_template")
    if isinstance(template, list):  # several named ones
        named = {entry["name"]: entry["template"] for entry in template}
        template = named.get("default")
    return template

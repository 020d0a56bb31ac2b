"""BERT with mean pooling in plain torch, the shape of most small embedding models, bit for bit as transformers has it.

It is here because importing sentence-transformers and transformers takes longer than embedding a day's changes.
Whatever is not exactly this shape is left to sentence-transformers, which stays the reference in the tests.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.model_folder import ModelFolder

Forward = Callable[[np.ndarray, np.ndarray, int], np.ndarray]

_HEADER_BYTES = 100_000_000  # safetensors' own limit
_EMBEDDINGS = ("word_embeddings", "position_embeddings", "token_type_embeddings")
_LINEAR = (
    *("attention.self.query", "attention.self.key", "attention.self.value"),
    *("attention.output.dense", "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm"),
)


def plain_bert(model: ModelFolder) -> dict[str, Any] | None:
    """The folder's config.json where `bert_forward` computes exactly this model, else None. Imports no torch."""
    config = json.loads((model.path / "config.json").read_text(encoding="utf-8"))
    modules = _json(model.path / "modules.json", [])
    kinds = [row["type"].rsplit(".", 1)[-1] for row in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]) or modules[0]["path"]:
        return None
    pooling = _json(model.path / modules[1]["path"] / "config.json", {})
    modes = {name for name, on in pooling.items() if name.startswith("pooling_mode") and on}
    asked = (
        config.get("model_type") == "bert",
        config.get("hidden_act") == "gelu",
        config.get("position_embedding_type", "absolute") == "absolute",
        not config.get("is_decoder") and not config.get("add_cross_attention"),
        not config.get("quantization_config"),
        modes == {"pooling_mode_mean_tokens"} or pooling.get("pooling_mode") == "mean",
        model.include_prompt,
        _tensor_names(model.path) >= _wanted(int(config.get("num_hidden_layers", 0))),
    )
    return config if all(asked) else None


def bert_forward(model: ModelFolder, config: dict[str, Any], *, device: str, precision: str) -> tuple[Forward, int]:
    """The forward function and its dimension, as `retrieval.sentence_model.load_forward` gives them."""
    import torch
    import torch.nn.functional as F
    from safetensors import safe_open

    layers, heads, width = config["num_hidden_layers"], config["num_attention_heads"], config["hidden_size"]
    names = sorted(_wanted(layers))
    with safe_open(str(model.path / "model.safetensors"), framework="pt") as file:
        weights = {name: file.get_tensor(name).to(device, getattr(torch, precision)) for name in names}

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        name = f"{name}.LayerNorm"
        return F.layer_norm(x, (width,), weights[f"{name}.weight"], weights[f"{name}.bias"], config["layer_norm_eps"])

    def layer(x: torch.Tensor, at: str, seen: torch.Tensor | None) -> torch.Tensor:
        shape = (*x.shape[:2], heads, width // heads)
        q, k, v = (linear(x, f"{at}.attention.self.{n}").view(shape).transpose(1, 2) for n in ("query", "key", "value"))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=(width // heads) ** -0.5)
        mixed = mixed.transpose(1, 2).reshape(x.shape).contiguous()
        x = norm(linear(mixed, f"{at}.attention.output.dense") + x, f"{at}.attention.output")
        return norm(linear(F.gelu(linear(x, f"{at}.intermediate.dense")), f"{at}.output.dense") + x, f"{at}.output")

    def forward(ids: np.ndarray, mask: np.ndarray, prompt_tokens: int) -> np.ndarray:
        rows, length = ids.shape
        with torch.inference_mode():
            tokens, kept = torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)
            words, places, kinds = (weights[f"embeddings.{name}.weight"] for name in _EMBEDDINGS)
            x = norm(F.embedding(tokens, words) + kinds[0] + places[:length], "embeddings")
            seen = None if mask.all() else kept.bool()[:, None, None, :].expand(rows, 1, length, length)
            for number in range(layers):
                x = layer(x, f"encoder.layer.{number}", seen)
            x, share = x.float(), kept.unsqueeze(-1).float()
            return ((x * share).sum(1) / share.sum(1).clamp(min=1e-9)).cpu().numpy()

    return forward, width


def _wanted(layers: int) -> set[str]:
    names = {f"embeddings.{name}.weight" for name in _EMBEDDINGS}
    parts = ["embeddings.LayerNorm", *(f"encoder.layer.{i}.{part}" for i in range(layers) for part in _LINEAR)]
    return names | {f"{part}.{kind}" for part in parts for kind in ("weight", "bias")}


def _tensor_names(folder: Path) -> set[str]:
    """Of the one weight file; a safetensors file begins with the length of its JSON header."""
    files = sorted(folder.glob("*.safetensors"))
    if [path.name for path in files] != ["model.safetensors"]:
        return set()
    try:
        with files[0].open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            return set(json.loads(file.read(min(size, _HEADER_BYTES))))
    except ValueError:
        return set()  # a damaged file: sentence-transformers says what is wrong with it


def _json(path: Path, default: Any) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else default

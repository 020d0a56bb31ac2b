"""The forward pass of a plain BERT embedder in NumPy, for the question that somebody waits for.

Importing torch and transformers costs some six seconds of CPU time, a short question through a small BERT some
hundredths. Vectors are float32 and differ from torch's by rounding, so that whatever is stored, keyed or compared byte
for byte is computed by `sentence_model` instead. Devlin et al., arXiv 1810.04805; the layout is that of transformers'
`BertModel`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from retrieval.embedding.model_folder import ModelFolder
from retrieval.embedding.sentence_model import Forward

_KNOWN = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
_POOLINGS = ("mean_tokens", "cls_token")


def numpy_forward(model: ModelFolder) -> Forward | None:
    """The model's forward function, or None where it is more than a plain BERT with one pooling."""
    config = json.loads((model.path / "config.json").read_text(encoding="utf-8"))
    plain = all(config.get(name, value) == value for name, value in _KNOWN.items()) and "model_type" in config
    if not plain or config.get("is_decoder") or model.pooling not in _POOLINGS or not model.include_prompt:
        return None
    try:
        forward = _forward(_weights(model.path / "model.safetensors"), config, model.pooling)
        forward(np.zeros((1, 2), np.int64), np.ones((1, 2), np.int64), 0)  # every weight is there, and fits
    except (KeyError, ValueError, OSError, SafetensorError):
        return None
    return forward


def _weights(path: Path) -> dict[str, np.ndarray]:
    """float32 tensors by name, without the prefix that some exports write."""
    with safe_open(path, framework="np") as file:
        return {name.removeprefix("bert."): file.get_tensor(name).astype(np.float32) for name in file.keys()}  # noqa: SIM118


def _forward(weights: dict[str, np.ndarray], config: dict[str, Any], pooling: str) -> Forward:
    heads, eps = config["num_attention_heads"], config["layer_norm_eps"]
    layers = [f"encoder.layer.{number}" for number in range(config["num_hidden_layers"])]
    token_type = weights["embeddings.token_type_embeddings.weight"][0]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + np.float32(eps))
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def attention(x: np.ndarray, allowed: np.ndarray, name: str) -> np.ndarray:
        rows, length, width = x.shape
        q, k, v = (
            linear(x, f"{name}.self.{part}").reshape(rows, length, heads, width // heads).swapaxes(1, 2)
            for part in ("query", "key", "value")
        )
        scores = q @ k.swapaxes(2, 3) / np.float32(math.sqrt(width // heads)) + allowed
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        context = (shares @ v).swapaxes(1, 2).reshape(rows, length, width)
        return norm(linear(context, f"{name}.output.dense") + x, f"{name}.output.LayerNorm")

    def forward(ids: np.ndarray, mask: np.ndarray, prompt_tokens: int) -> np.ndarray:
        x = weights["embeddings.word_embeddings.weight"][ids] + token_type
        x = norm(x + weights["embeddings.position_embeddings.weight"][: ids.shape[1]], "embeddings.LayerNorm")
        allowed = np.where(mask[:, None, None, :] == 1, np.float32(0), np.float32(-1e30))
        for layer in layers:
            x = attention(x, allowed, f"{layer}.attention")
            wide = linear(x, f"{layer}.intermediate.dense")
            wide *= (1 + _erf(wide / np.float32(math.sqrt(2)))) / 2
            x = norm(linear(wide, f"{layer}.output.dense") + x, f"{layer}.output.LayerNorm")
        if pooling == "cls_token":
            return x[:, 0]
        kept = mask[:, :, None].astype(np.float32)
        return (x * kept).sum(1) / kept.sum(1)

    return forward


def _erf(x: np.ndarray) -> np.ndarray:
    """The error function (Abramowitz and Stegun, 7.1.26: within 1.5e-7; with float32's rounding within 6e-7)."""
    size = np.abs(x)
    t = 1 / (1 + np.float32(0.3275911) * size)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.copysign(1 - series * np.exp(-size * size), x).astype(np.float32)

"""Adds a LoRA adapter to base weights: `W + scale * B @ A` in float32, one tensor at a time, from the files on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jora_engine.config.architecture import ModelConfig
from jora_engine.files.packed_weights import dense_reader
from jora_engine.files.tensor_sources import open_tensors
from jora_engine.files.weights import check_tensors, hf_tensors


def merged_reader(
    folder: Path,
    config: ModelConfig,
    lora: Mapping[str, Mapping[str, Any]],
    scale: float,
    precision: str = "bfloat16",
) -> tuple[Any, Callable[[str], np.ndarray]]:
    """The checked tensors of a model folder, and `read(name)` that returns one with the adapter added.

    A tensor that the adapter does not touch is returned as stored; one that it does, in float32. With a `precision`
    that packs weights, the numbers that the packed ones stand for take the place of the folder's, in float32.
    """
    tensors = open_tensors(folder, config)
    check_tensors(tensors, config)
    names = hf_tensors(config)
    of_base = dense_reader(tensors, config, precision, names)
    host = {name: {k: np.asarray(jax.device_get(v), np.float32) for k, v in ab.items()} for name, ab in lora.items()}

    def read(name: str) -> np.ndarray:
        weight = of_base(name)
        parameter, layer = names[name]
        if parameter.name not in host:
            return weight
        pair = host[parameter.name]
        return weight.astype(np.float32) + np.float32(scale) * (pair["b"][layer] @ pair["a"][layer])

    return tensors, read

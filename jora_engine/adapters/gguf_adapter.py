"""A PEFT adapter folder as a GGUF file for llama.cpp (`--lora`).

llama.cpp scales by `alpha / rank`, so an adapter whose factor is another (rsLoRA, patterns) must be in the canonical
form first; ours are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from jora_engine.adapters.peft_folder import ADAPTER_WEIGHTS, adapter_key, read_adapter_config
from jora_engine.config.architecture import ModelConfig
from jora_engine.config.parameters import linear_layers
from jora_engine.files.gguf_layout import ARCHITECTURES, gguf_name, to_gguf
from jora_engine.files.gguf_writer import model_metadata, write_file
from jora_engine.files.tensor_files import TensorFolder
from raft_errors import BadInput


def write_gguf_adapter(folder: Path, model: ModelConfig, file: Path) -> Path:
    """Writes an adapter's float32 factors as one GGUF file, replacing one that is there; returns it.

    Args:
        model: the base.

    Raises:
        BadInput: the adapter is more than plain LoRA, has rsLoRA's scale, or its base has no form in GGUF.
    """
    config = read_adapter_config(folder)
    if config.use_rslora:
        raise BadInput(
            f"{folder} has rsLoRA's scale, and llama.cpp scales by alpha / rank",
            expected="an adapter with its scale in alpha",
            do="write it anew first: raft export --check llama.cpp --out FOLDER",
        )
    model_metadata(model)  # refuses what has no form in GGUF
    tensors = TensorFolder(folder / ADAPTER_WEIGHTS)
    sources: dict[str, tuple[tuple[int, ...], str, Callable[[], np.ndarray]]] = {}
    for name in config.targets(model):
        for layer in config.layers(model.num_layers):
            for letter in "AB":
                key = adapter_key(model, name, layer, letter)

                def read(key: str = key, name: str = name, letter: str = letter) -> np.ndarray:
                    values = tensors.read(key).astype(np.float32)
                    return to_gguf(model, name, values) if letter == "B" else values

                target = f"{gguf_name(linear_layers(model)[name], layer)}.lora_{letter.lower()}"
                sources[target] = (tensors.shape(key), "float32", read)
    metadata = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": float(config.alpha)}
    return write_file(file, ARCHITECTURES[model.family], metadata, sources)

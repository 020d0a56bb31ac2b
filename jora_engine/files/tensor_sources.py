"""Opens the weights of a model folder, in any form: safetensors, bitsandbytes' NF4, or a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jora_engine.config.architecture import ModelConfig
from jora_engine.files.gguf_blocks import GgufTensors
from jora_engine.files.prequantised import Nf4Tensors
from jora_engine.files.tensor_files import GGUF_FILE, TensorFolder, read_json


def keeps_gguf(folder: Path) -> bool:
    """Whether a folder's weights are those of its GGUF file: safetensors beside it come first."""
    return (folder / GGUF_FILE).exists() and not any(folder.glob("*.safetensors"))


def open_tensors(folder: Path, config: ModelConfig) -> Any:
    """The folder's tensors under Hugging Face names, with the methods of `TensorFolder` that loading asks for."""
    if keeps_gguf(folder):
        return GgufTensors(folder, config)
    file = folder / "config.json"
    if file.exists() and read_json(file).get("quantization_config"):
        return Nf4Tensors(folder)
    return TensorFolder(folder)


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights, in order of name."""
    return [folder / GGUF_FILE] if keeps_gguf(folder) else TensorFolder(folder).files

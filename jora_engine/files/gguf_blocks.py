"""A model folder whose weights stand in a GGUF file: under Hugging Face names, in full or as the file's own blocks.

`gguf.keep_blocks` makes such a folder: config.json, the tokenizer's files and `model.gguf`. A tensor that is damaged or
of a type that is not known is refused by its name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from jora_engine.config.architecture import ModelConfig
from jora_engine.config.parameters import Parameter
from jora_engine.files.gguf import dequantise, require_type
from jora_engine.files.gguf_layout import ARCHITECTURES, ROPE_FACTORS, find_parameter, from_gguf
from jora_engine.files.gguf_reader import open_gguf
from jora_engine.files.packed_weights import dense_weight
from jora_engine.files.tensor_files import GGUF_FILE, dtype_named
from jora_engine.model.ggml_blocks import KINDS, Blocks, tile_of
from raft_errors import BadInput

PLAIN = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class GgufTensors:
    """The tensors of such a folder, with the methods of `tensor_files.TensorFolder` that loading asks for."""

    def __init__(self, path: Path, config: ModelConfig) -> None:
        self.path, self.file, self._config = path, path / GGUF_FILE, config
        self._tensors: dict[str, tuple[Parameter, Any]] = {}
        contents = open_gguf(self.file)
        arch, wanted = contents.meta.get("general.architecture"), ARCHITECTURES.get(config.family)
        if wanted is None or arch != wanted:
            raise BadInput(
                f"{self.file} holds a model of the architecture {arch!r}, beside a config.json of the family "
                f"{config.family!r}",
                expected=f"{wanted!r}, as config.json has it" if wanted else f"a family of {', '.join(ARCHITECTURES)}",
                do="make the folder anew of the file (keep_blocks)",
            )
        for tensor in contents.tensors:
            if tensor.name != ROPE_FACTORS:
                parameter, layer = find_parameter(config, tensor.name)
                self._tensors[parameter.hf_name(layer)] = parameter, tensor

    @property
    def files(self) -> list[Path]:
        return [self.file]

    def names(self) -> list[str]:
        return sorted(self._tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def file_of(self, name: str) -> Path:
        return self.file

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(int(n) for n in reversed(self._tensors[name][1].shape))

    def dtype(self, name: str) -> np.dtype:
        """That in which the numbers are written where they are written in full: bfloat16 for a quantised type.

        Raises:
            BadInput: the type cannot be read.
        """
        tensor = self._tensors[name][1]
        require_type(self.file, tensor)
        return dtype_named(PLAIN.get(tensor.tensor_type.name, "bfloat16"))

    def read(self, name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
        """The numbers that a tensor stands for, float32, or the part that `index` selects."""
        parameter, tensor = self._tensors[name]
        values = from_gguf(self._config, parameter.name, dequantise(self.file, tensor))
        return values[index] if index else values

    def stored_shape(self, parameter: Parameter, layers: int) -> Blocks | None:
        """The shape of a parameter's blocks, all layers stacked; None where every layer's are plain numbers."""
        kinds = self._kinds(parameter)
        if not set(kinds) - PLAIN.keys():
            return None
        tile, (rows, columns) = tile_of(kinds), parameter.shape
        return Blocks(
            jax.ShapeDtypeStruct((layers, rows, columns // tile.numbers, tile.bytes), np.dtype(np.uint8)),  # type: ignore[arg-type]
            jax.ShapeDtypeStruct((layers,), np.dtype(np.int32)),  # type: ignore[arg-type]
            kinds,
        )

    def stored(self, parameter: Parameter, layer: int) -> Blocks:
        """One layer's blocks, checked.

        Raises:
            BadInput: a scale is NaN or infinite.
        """
        _, tensor = self._tensors[parameter.hf_name(layer)]
        kinds, kind = self._kinds(parameter), tensor.tensor_type.name
        tile, (rows, columns) = tile_of(kinds), parameter.shape
        bytes_ = np.ascontiguousarray(tensor.data).view(np.uint8).reshape(rows, -1)
        own = from_gguf(self._config, parameter.name, bytes_).reshape(rows, columns // tile.numbers, -1)
        data = np.zeros((*own.shape[:2], tile.bytes), np.uint8)
        data[..., : own.shape[-1]] = own
        blocks = Blocks(data, np.int32(kinds.index(kind)), kinds)  # type: ignore[arg-type]
        if not np.isfinite(dense_weight(blocks)).all():
            raise BadInput(
                f"{self.file}: {tensor.name} holds a block of NaN or infinite values",
                expected="finite weights",
                do="download the file again",
            )
        return blocks

    def _kinds(self, parameter: Parameter) -> tuple[str, ...]:
        """The types of a parameter in all layers."""
        kinds = set()
        for layer in range(self._config.num_layers):
            _, tensor = self._tensors[parameter.hf_name(layer)]
            kind = tensor.tensor_type.name
            if kind not in KINDS:
                raise BadInput(
                    f"{self.file}: {tensor.name} is stored as {kind}, which cannot be kept packed",
                    expected="one of " + ", ".join(KINDS),
                    do="take another quantisation of the model, or set train.base_precision to nf4",
                )
            kinds.add(kind)
        return tuple(sorted(kinds))

"""Model folders that other programs quantised: bitsandbytes' NF4 is read exactly, anything else refused by name."""

from __future__ import annotations

import dataclasses
import json
import math
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jora_engine.config.parameters import Parameter
from jora_engine.files.packed_weights import dense_weight
from jora_engine.files.quantiser import from_pairs
from jora_engine.files.tensor_files import TensorFolder, dtype_named
from jora_engine.model.quantised import BLOCK, NESTED, NF4, NormalFloat, packed_shape
from raft_errors import BadInput

STATE = ".quant_state.bitsandbytes__nf4"
NESTED_PARTS = (".nested_absmax", ".nested_quant_map")
PARTS = (".absmax", ".quant_map", *NESTED_PARTS, STATE)


def require_readable(settings: Mapping[str, Any]) -> None:
    """Checks the `quantization_config` of a config.json.

    Raises:
        BadInput: it is not bitsandbytes' NF4; it says what to use instead.
    """
    method, kind = settings.get("quant_method"), settings.get("bnb_4bit_quant_type", "fp4")
    storage = settings.get("bnb_4bit_quant_storage", "uint8")
    if method == "bitsandbytes" and settings.get("load_in_4bit") and (kind, storage) == ("nf4", "uint8"):
        return
    words = str(method)
    if method == "bitsandbytes":
        bits = f"4 bits as {kind}, stored as {storage}" if settings.get("load_in_4bit") else "8 bits"
        words = f"bitsandbytes in {bits}"
    raise BadInput(
        f"a checkpoint quantised by {words} (quantization_config) is not read",
        expected="plain weights, bitsandbytes' NF4 stored as uint8, or a GGUF file",
        do="use the unquantised base model, with train.base_precision nf4 or int8 to hold it in fewer bits",
    )


class Nf4Tensors:
    """The tensors of a folder that bitsandbytes saved, with the methods of `TensorFolder` that loading asks for."""

    def __init__(self, path: Path) -> None:
        self.path, self._folder = path, TensorFolder(path)
        self._packed = {n.removesuffix(STATE) for n in self._folder.names() if n.endswith(STATE)}
        self._parts = {name + part for name in self._packed for part in PARTS}
        self._states: dict[str, dict[str, Any]] = {}

    @property
    def files(self) -> list[Path]:
        return self._folder.files

    def names(self) -> list[str]:
        return [name for name in self._folder.names() if name not in self._parts]

    def __contains__(self, name: str) -> bool:
        return name in self._folder and name not in self._parts

    def file_of(self, name: str) -> Path:
        return self._folder.file_of(name)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._state(name)["shape"]) if name in self._packed else self._folder.shape(name)

    def dtype(self, name: str) -> np.dtype:
        """That in which the numbers are written where they are written in full: what they were before."""
        return dtype_named(self._state(name)["dtype"]) if name in self._packed else self._folder.dtype(name)

    def read(self, name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
        """The numbers that a tensor stands for, or the part that `index` selects."""
        if name not in self._packed:
            return self._folder.read(name, index)
        values = dense_weight(self._read_packed(name))
        return values[index] if index else values

    def stored_shape(self, parameter: Parameter, layers: int) -> NormalFloat | None:
        """The shape of a parameter's packed weights, all layers stacked; None where they are plain.

        Raises:
            BadInput: some layers' are packed and some are not, or not all in the same way.
        """
        names = [parameter.hf_name(layer) for layer in range(layers)]
        packed = [name for name in names if name in self._packed]
        if not packed:
            return None
        nested = {name: "nested_offset" in self._state(name) for name in packed}
        odd = next((name for name in names if nested.get(name) != nested[packed[0]]), None)
        if odd is not None:
            raise BadInput(
                f"{self.file_of(odd)}: {odd} is not quantised as the other layers' are",
                expected="every layer of a module alike",
                do="set train.base_precision to nf4, which packs what is dequantised of it",
            )
        shape = packed_shape("nf4", parameter.shape, layers)
        assert isinstance(shape, NormalFloat)
        if nested[names[0]]:
            return shape
        scales = jax.ShapeDtypeStruct(shape.scales.shape, np.dtype(np.float32))
        return dataclasses.replace(shape, scales=scales, levels=None, nested=None, offset=None)  # type: ignore[arg-type]

    def stored(self, parameter: Parameter, layer: int) -> NormalFloat:
        """One layer's packed weight."""
        return self._read_packed(parameter.hf_name(layer))

    def _state(self, name: str) -> dict[str, Any]:
        """What bitsandbytes says of a packed weight: `shape`, `dtype`, the blocks, `nested_offset` where there is one.

        Raises:
            BadInput: it is damaged.
        """
        if name not in self._states:
            try:
                state = json.loads(self._folder.raw(name + STATE).tobytes())
                rows, columns = (operator.index(size) for size in state["shape"])
                offset = float(state.get("nested_offset", 0))
                if min(rows, columns) < 1 or not math.isfinite(offset):
                    raise ValueError(f"shape {[rows, columns]}, nested_offset {offset}")
                dtype_named(state["dtype"])
            except (ValueError, TypeError, LookupError, AttributeError, BadInput) as error:
                raise self._refusal(name, f"{name + STATE} is damaged: {type(error).__name__} {error}") from error
            self._states[name] = state
        return self._states[name]

    def _refusal(self, name: str, why: str) -> BadInput:
        return BadInput(
            f"{self.file_of(name)}: {name} is packed otherwise than is read here ({why})",
            expected=f"bitsandbytes' NF4 in blocks of {BLOCK} within rows, scales plain or in blocks of {NESTED}",
            do="download the model again, or use the unquantised one",
        )

    def _read_packed(self, name: str) -> NormalFloat:
        """Raises:
        BadInput: another block, another map of values, a part that is missing, of the wrong type or of the wrong size.
        """
        state, nested = self._state(name), "nested_offset" in self._state(name)
        rows, columns = state["shape"]
        wanted = {"blocksize": BLOCK, "quant_type": "nf4", **({"nested_blocksize": NESTED} if nested else {})}
        wrong = [f"{key} {state.get(key)}" for key, value in wanted.items() if state.get(key) != value]
        wrong += [f"rows of {columns} numbers"] if columns % BLOCK else []
        count = rows * columns // BLOCK
        sizes = {"": rows * columns // 2, ".absmax": count, ".quant_map": 16}
        sizes |= {".nested_absmax": -(-count // NESTED), ".nested_quant_map": 256} if nested else {}
        parts = {part: self._folder.raw(name + part).reshape(-1) for part in sizes if name + part in self._folder}
        wrong += [f"no {name + part}" for part in sizes if part not in parts]
        wrong += [f"{size} in {name + part}" for part, one in parts.items() if (size := one.size) != sizes[part]]
        for part, one in parts.items():
            kind = "uint8" if part == "" or (part == ".absmax" and nested) else "float32"
            wrong += [] if one.dtype == kind else [f"{name + part} is {one.dtype} where {kind} is expected"]
        if not nested:
            wrong += [f"{name + part} without nested_offset" for part in NESTED_PARTS if name + part in self._folder]
        if not wrong:
            wrong += [] if np.array_equal(parts[".quant_map"], np.asarray(NF4, np.float32)) else ["another map"]
            odd = [part for part, one in parts.items() if not np.isfinite(one).all()]
            wrong += [f"NaN or infinite values in {name + part}" for part in odd]
        if wrong:
            raise self._refusal(name, "; ".join(wrong))
        codes, scales = from_pairs(parts[""], rows, columns), parts[".absmax"].reshape(rows, -1)
        values = parts[".quant_map"]
        if not nested:
            return NormalFloat(codes, scales.astype(np.float32), values, None, None, None)  # type: ignore[arg-type]
        offset = np.float32(state["nested_offset"])
        levels, own = parts[".nested_quant_map"], parts[".nested_absmax"]
        return NormalFloat(codes, scales, values, levels, own, offset)  # type: ignore[arg-type]

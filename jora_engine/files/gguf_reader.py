"""Reads a GGUF file: its metadata, and its tensors as views of the mapped file.

Every length in the file is held against the file's size before anything is read or made by it, so a file that is cut
short or that lies about itself is refused in words of its own and costs neither memory nor time. The format is that of
ggml's docs/gguf.md, versions 2 and 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raft_errors import BadInput

MOST_VALUES = 1 << 22  # of one list: the largest vocabularies have a quarter of a million tokens
MOST_DIMENSIONS = 4  # ggml's

_NUMBERS = {
    0: "u1",
    1: "i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
"""The kinds of numbers in the metadata, as numpy has them."""
_STRING, _ARRAY = 8, 9
_WHOLE = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}
"""Types of tensors that numpy has; the others are bytes."""


@dataclass(frozen=True)
class GgufTensor:
    """One tensor.

    Attributes:
        tensor_type: of `gguf.GGMLQuantizationType`.
        shape: the fastest dimension first, as GGUF has it.
        data_offset: in the file, bytes; n_bytes: its length there.
        data: as stored, `[..., slowest to fastest]`; of packed types uint8, the last dimension in bytes.
    """

    name: str
    tensor_type: Any
    shape: tuple[int, ...]
    data_offset: int
    n_bytes: int
    data: np.ndarray


@dataclass(frozen=True)
class GgufContents:
    """What a file holds: metadata by key, and tensors in their order."""

    meta: dict[str, Any]
    tensors: list[GgufTensor]


class _Damage(Exception):
    """What is wrong with a file."""


def open_gguf(gguf_file: Path) -> GgufContents:
    """The contents of a file, of which every tensor lies in the file.

    Raises:
        BadInput: it is not there, or damaged; the key or tensor is named at which that shows.
    """
    if not gguf_file.is_file():
        raise BadInput(f"{gguf_file} is not there", expected="a GGUF file", do="check the path")
    try:
        if not gguf_file.stat().st_size:
            raise _Damage("it is empty")
        return _contents(_Header(np.asarray(np.memmap(gguf_file, np.uint8, mode="r"))))
    except _Damage as error:
        raise damaged(gguf_file, str(error)) from error
    except OSError as error:
        raise damaged(gguf_file, error.strerror or type(error).__name__) from error


def damaged(gguf_file: Path, why: str) -> BadInput:
    """The error for a file that is not what it should be."""
    return BadInput(f"{gguf_file} cannot be read ({why})", expected="a complete GGUF file", do="download it again")


def _contents(header: _Header) -> GgufContents:
    header.part = "its first bytes"
    if bytes(header.take(min(4, header.left))) != b"GGUF":
        raise _Damage("it does not begin as a GGUF file does")
    version = header.whole(4)
    if not version & 0xFFFF:
        raise _Damage("its bytes are in the other order, big end first")
    if version not in (2, 3):
        raise _Damage(f"it is of version {version}, and 2 and 3 are known")
    count, pairs = header.whole(8), header.whole(8)
    meta: dict[str, Any] = {}
    for number in range(pairs):
        header.part = f"metadata entry {number + 1} of {pairs}"
        key = header.text()
        header.part = f"the metadata {_shown(key)}"
        if key in meta:
            raise _Damage(f"{header.part} is there twice")
        meta[key] = header.value(header.whole(4))
    entries = []
    for number in range(count):
        header.part = f"the description of tensor {number + 1} of {count}"
        entries.append(header.tensor())
    if not entries:
        raise _Damage("it holds no tensor")
    alignment = meta.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise _Damage(f"general.alignment is {_shown(alignment)}, and no power of two")
    begin = -(-header.place // alignment) * alignment
    names: set[str] = set()
    for name, *_ in entries:
        if name in names:
            raise _Damage(f"tensor {_shown(name)}: it is there twice")
        names.add(name)
    tensors = [_tensor(header.data, begin, *entry) for entry in entries]
    _require_one_after_the_other(tensors, begin, alignment)
    return GgufContents(meta, tensors)


def _require_one_after_the_other(tensors: Sequence[GgufTensor], begin: int, alignment: int) -> None:
    """Checks that the tensors lie one behind the other, as ggml's own reader does: otherwise two share bytes, or one is
    not of the type that is said."""
    end = begin
    for before, tensor in zip([None, *tensors], tensors, strict=False):
        if tensor.data_offset != end:
            who = "it" if before is None else f"it follows {_shown(before.name)} of {before.n_bytes} bytes, and"
            where = f"begins at byte {tensor.data_offset} where {end} was to come"
            raise _Damage(f"tensor {_shown(tensor.name)}: {who} {where}")
        end = -(-(end + tensor.n_bytes) // alignment) * alignment


class _Header:
    """A place in the mapped file that goes on with every value read.

    Attributes:
        data: uint8 [bytes of the file].
        part: what is being read, for errors.
    """

    def __init__(self, data: np.ndarray) -> None:
        self.data, self.place, self.part = data, 0, ""

    @property
    def left(self) -> int:
        return len(self.data) - self.place

    def take(self, count: int) -> np.ndarray:
        """The next bytes, uint8 [count]."""
        if count > self.left:
            raise _Damage(f"the file ends within {self.part}: {count} bytes are to follow, {self.left} are there")
        self.place += count
        return self.data[self.place - count : self.place]

    def whole(self, size: int) -> int:
        """An unsigned number of so many bytes."""
        return int.from_bytes(self.take(size).tobytes(), "little")

    def text(self) -> str:
        raw = self.take(self.whole(8)).tobytes()
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise _Damage(f"{self.part}: its metadata is damaged: a text is no UTF-8") from error

    def value(self, kind: int) -> Any:
        """A value of the metadata; numbers and lists as Python has them."""
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self._values(self.whole(4), self.whole(8))
        return self._numbers(kind, 1)[0]

    def _values(self, kind: int, count: int) -> list[Any]:
        least = 8 if kind == _STRING else np.dtype(self._numpy(kind)).itemsize
        if count * least > self.left:
            raise _Damage(f"the file ends within {self.part}: {count} values are to follow in {self.left} bytes")
        if count > MOST_VALUES:
            raise _Damage(f"{self.part} has {count} values, and at most {MOST_VALUES} are read")
        return [self.text() for _ in range(count)] if kind == _STRING else self._numbers(kind, count)

    def _numbers(self, kind: int, count: int) -> list[Any]:
        dtype = np.dtype(self._numpy(kind))
        raw = self.take(count * dtype.itemsize)
        return (raw != 0 if dtype.kind == "b" else raw.view(dtype)).tolist()

    def _numpy(self, kind: int) -> str:
        if kind not in _NUMBERS:
            raise _Damage(f"{self.part} is of kind {kind}, which is not known here")
        return _NUMBERS[kind]

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """(name, shape, type, offset) of a tensor."""
        name = self.text()
        self.part = f"the description of tensor {_shown(name)}"
        dimensions = self.whole(4)
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise _Damage(f"tensor {_shown(name)}: it has {dimensions} dimensions")
        shape = tuple(self.whole(8) for _ in range(dimensions))
        return name, shape, self.whole(4), self.whole(8)


def _tensor(data: np.ndarray, begin: int, name: str, shape: tuple[int, ...], kind: int, offset: int) -> GgufTensor:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType  # slow to import, needed for GGUF alone

    try:
        type_ = GGMLQuantizationType(kind)
        block, size = GGML_QUANT_SIZES[type_]
    except (ValueError, KeyError) as error:
        raise _Damage(f"tensor {_shown(name)}: {kind} is not a valid type of numbers") from error
    if not all(shape) or shape[0] % block:
        raise _Damage(f"tensor {_shown(name)}: its shape {list(shape)} is none of {type_.name}")
    place, length = begin + offset, math.prod(shape) // block * size
    if place + length > len(data):
        raise _Damage(f"tensor {_shown(name)}: the file ends before it does")
    dtype = np.dtype(_WHOLE.get(type_.name, "u1"))
    rows = shape[:0:-1]
    stored = data[place : place + length].view(dtype).reshape(*rows, length // math.prod(rows) // dtype.itemsize)
    return GgufTensor(name, type_, shape, place, length, stored)


def _shown(value: Any) -> str:
    """A text of a file as it may stand in a message."""
    text = str(value)[:80]
    return text if text.isprintable() else text.encode("unicode_escape").decode()

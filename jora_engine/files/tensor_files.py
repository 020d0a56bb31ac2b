"""Named tensors in safetensors files: a reader over one file or a sharded folder, and a streaming writer.

The reader maps files into memory and reads single slices; the writer holds one tensor at a time, puts bytes in a fixed
order and renames into place, so a killed run leaves no half file. Knows nothing of models.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from raft_errors import BadInput

DTYPES = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
GGUF_FILE = "model.gguf"
"""The file of a folder that keeps the blocks of a GGUF file."""


def dtype_named(name: str) -> np.dtype:
    """numpy dtype of "bfloat16", "float16", "float32" or "float64". Any other name is a `BadInput`."""
    for dtype in _CODES:
        if dtype.name == name:
            return dtype
    raise BadInput(f"no dtype {name!r}", expected=", ".join(d.name for d in _CODES), do="name one of them")


class TensorFolder:
    """Reads the tensors of a model folder (`model.safetensors` or an index with shards) or of one safetensors file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: dict[Path, Any] = {}
        self._file_of: dict[str, Path] = _locate(path)
        for file in self.files:
            present = set(self._handle(file).keys())
            missing = sorted(name for name, where in self._file_of.items() if where == file and name not in present)
            if missing:
                raise BadInput(
                    f"{file}: tensor {missing[0]} is missing ({len(missing)} in all)",
                    expected=f"every tensor that {INDEX} lists for this file",
                    do="download the shard again",
                )
            if not self._indexed:
                self._file_of |= dict.fromkeys(sorted(present), file)

    @property
    def _indexed(self) -> bool:
        return bool(self._file_of)

    @property
    def files(self) -> list[Path]:
        """The safetensors files, in order of name."""
        return sorted(set(self._file_of.values())) or [_single(self.path)]

    def names(self) -> list[str]:
        return sorted(self._file_of)

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def file_of(self, name: str) -> Path:
        return self._file_of[name]

    def names_in(self, file: Path) -> list[str]:
        """Tensor names of one file, sorted."""
        return sorted(name for name, where in self._file_of.items() if where == file)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._slice(name).get_shape())

    def dtype(self, name: str) -> np.dtype:
        return self._dtype(name, self._slice(name).get_dtype())

    def _dtype(self, name: str, code: str) -> np.dtype:
        if code not in DTYPES:
            raise BadInput(
                f"{self._file_of[name]}: {name} is stored as {code}",
                expected="one of " + ", ".join(DTYPES),
                do="use the unquantised base model",
            )
        return DTYPES[code]

    def read(self, name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
        """The tensor, or the part that `index` (a slice per leading axis) selects; only that part is read from disk.

        Raises:
            BadInput: a value is NaN or infinite.
        """
        part = self._slice(name)
        self._dtype(name, part.get_dtype())
        array = np.asarray(part[index if index else (slice(None),)])
        if not all_finite(array):
            raise BadInput(
                f"{self._file_of[name]}: {name} holds NaN or infinite values",
                expected="finite weights",
                do="download or make the file again",
            )
        return array

    def raw(self, name: str) -> np.ndarray:
        """A tensor of any type that numpy has, unchecked."""
        return np.asarray(self._slice(name)[:])

    def metadata(self, file: Path) -> dict[str, str]:
        return dict(self._handle(file).metadata() or {})

    def _slice(self, name: str) -> Any:
        return self._handle(self._file_of[name]).get_slice(name)

    def _handle(self, file: Path) -> Any:
        if file not in self._open:
            try:
                self._open[file] = safe_open(str(file), framework="np")
            except (SafetensorError, OSError) as error:
                raise BadInput(
                    f"{file} cannot be read as safetensors ({error})",
                    expected="a complete safetensors file",
                    do="download or make the file again",
                ) from error
        return self._open[file]


def all_finite(array: np.ndarray) -> bool:
    """True when no value is NaN or infinite; bfloat16 is tested on its bits, which is much faster."""
    if array.dtype == DTYPES["BF16"]:
        return not bool(np.any((array.view(np.uint16) & 0x7F80) == 0x7F80))
    return bool(np.isfinite(array).all())


@dataclass(frozen=True)
class TensorSpec:
    """One tensor to be written."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def write_tensors(
    file: Path,
    specs: Sequence[TensorSpec],
    read: Callable[[str], np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a safetensors file, asking `read(name)` for one tensor at a time.

    The bytes depend on nothing but the arguments. `metadata` gets `{"format": "pt"}`, which transformers asks for.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    offset = 0
    for spec in specs:
        header[spec.name] = {
            "dtype": _CODES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [offset, offset + spec.nbytes],
        }
        offset += spec.nbytes
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    temporary = file.with_name(f".{file.name}.partial")
    try:
        with temporary.open("wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            for spec in specs:
                array = np.ascontiguousarray(read(spec.name))
                if array.shape != spec.shape or array.dtype != spec.dtype:
                    raise AssertionError(f"{spec.name}: promised {spec}, got {array.shape} {array.dtype}")
                out.write(array.reshape(-1).view(np.uint8).data)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def write_model(
    folder: Path,
    specs: Sequence[TensorSpec],
    read: Callable[[str], np.ndarray],
    max_shard_bytes: int = 5 * 10**9,
) -> list[Path]:
    """Writes `model.safetensors`, or shards of at most `max_shard_bytes` with an index; returns the files.

    A tensor larger than the limit gets a shard of its own. The order of `specs` is kept.
    """
    shards: list[list[TensorSpec]] = [[]]
    for spec in specs:
        if shards[-1] and sum(s.nbytes for s in shards[-1]) + spec.nbytes > max_shard_bytes:
            shards.append([])
        shards[-1].append(spec)
    if len(shards) == 1:
        write_tensors(folder / SINGLE, shards[0], read)
        return [folder / SINGLE]
    files = [folder / f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    for file, shard in zip(files, shards, strict=True):
        write_tensors(file, shard, read)
    weight_map = {spec.name: file.name for file, shard in zip(files, shards, strict=True) for spec in shard}
    index = {"metadata": {"total_size": sum(s.nbytes for s in specs)}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(folder / INDEX, index)
    return [*files, folder / INDEX]


def write_json(file: Path, value: object) -> None:
    """Writes indented JSON with a final newline, atomically."""
    write_text(file, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(file: Path, text: str) -> None:
    """Writes UTF-8 text, atomically."""
    temporary = file.with_name(f".{file.name}.partial")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    temporary.replace(file)


def read_json(file: Path) -> dict[str, Any]:
    """Reads a JSON object. A missing or damaged file is a `BadInput` that names it."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{file} cannot be read ({error})", expected="a JSON object", do="give the original file"
        ) from error
    if not isinstance(value, dict):
        raise BadInput(f"{file} is not a JSON object", expected="a JSON object", do="give the original file")
    return value


class replacing:  # noqa: N801  used as a statement
    """A temporary sibling folder that takes the place of `folder` when the block ends well."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.temporary = folder.with_name(f".{folder.name}.partial")

    def __enter__(self) -> Path:
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir(parents=True)
        return self.temporary

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            old = self.folder.with_name(f".{self.folder.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            if self.folder.exists():
                self.folder.rename(old)
            os.replace(self.temporary, self.folder)  # noqa: PTH105
            shutil.rmtree(old, ignore_errors=True)
        else:
            shutil.rmtree(self.temporary, ignore_errors=True)


def no_weights(folder: Path) -> BadInput:
    """The error for a folder without weights that can be read; one may have kept a GGUF file's blocks before."""
    others = sorted(path.name for path in folder.glob("*.gguf"))
    pickled = sorted(path.name for path in folder.glob("*.bin"))
    do = "put the file back, or download the model again"
    if others:
        do = f"name {others[0]} {GGUF_FILE} if these are its weights, or make the folder anew of it (keep_blocks)"
    elif pickled:
        do = f"convert {pickled[0]} to safetensors: pickled weights are not loaded"
    return BadInput(
        f"Model folder {folder}: its weights are missing, neither {SINGLE} nor {GGUF_FILE} is there",
        expected=f"{SINGLE}, {INDEX} with its shards, or {GGUF_FILE} where a GGUF file's blocks are kept",
        do=do,
    )


def _single(path: Path) -> Path:
    return path if path.is_file() else path / SINGLE


def _locate(path: Path) -> dict[str, Path]:
    """Tensor name -> file from the index; empty where there is one file only."""
    if path.is_file() or (not (path / INDEX).exists() and (path / SINGLE).exists()):
        return {}
    if not (path / INDEX).exists():
        raise no_weights(path)
    weight_map = read_json(path / INDEX).get("weight_map") or {}
    if (path / SINGLE).exists() and set(weight_map.values()) != {SINGLE}:
        raise BadInput(
            f"{path} holds two sets of weights: {SINGLE}, and the shards that {INDEX} lists",
            expected="one of them: transformers takes the single file, other programs the shards",
            do="keep the one that is meant and remove the other",
        )
    missing = sorted({name for name in weight_map.values() if not (path / name).exists()})
    if missing or not weight_map:
        raise BadInput(
            f"{path}: {'shard ' + missing[0] + ' is missing' if missing else INDEX + ' lists no tensors'}",
            expected=f"every file that {INDEX} names",
            do="download the missing files",
        )
    return {name: path / file for name, file in weight_map.items()}

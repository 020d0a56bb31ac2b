"""All tensors of one safetensors file as views of the mapped file: for an adapter's many small ones, much the fastest.

The header is held against the file before anything is made of it. Values are not looked at.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from jora_engine.files.tensor_files import DTYPES
from raft_errors import BadInput

LONGEST_HEADER = 100_000_000  # bytes, the format's own limit


def mapped_tensors(file: Path) -> dict[str, np.ndarray]:
    """Arrays by name, read-only, in the order of the header.

    Raises:
        BadInput: no whole safetensors file, or a tensor is stored as what is no floating type.
    """
    try:
        data = np.asarray(np.memmap(file, np.uint8, mode="r"))  # the plain class: views of `memmap` cost ten times more
        begin, header = _header(data)
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(file, str(error)) from error
    out, size, places = {}, len(data) - begin, []
    for name, entry in header.items():
        try:
            code, shape, (first, last) = str(entry["dtype"]), entry["shape"], entry["data_offsets"]
            whole = all(type(n) is int and n >= 0 for n in (*shape, first, last))
        except (TypeError, KeyError, ValueError) as error:
            raise _damaged(file, f"{name} is not described as a tensor") from error
        if code not in DTYPES:
            raise BadInput(
                f"{file}: {name} is stored as {code}",
                expected="one of " + ", ".join(DTYPES),
                do="use the unquantised base model",
            )
        if not whole or last > size or last - first != math.prod(shape) * DTYPES[code].itemsize:
            raise _damaged(file, f"{name} does not fill its place, bytes {first} to {last} of {size}")
        out[name] = data[begin + first : begin + last].view(DTYPES[code]).reshape(shape)
        places.append((first, last))
    end = 0
    for first, last in sorted(places):
        if first != end:
            break
        end = last
    if end != size:
        raise _damaged(file, f"behind byte {end} of {size} its tensors overlap or leave a gap")
    return out


def _header(data: np.ndarray) -> tuple[int, dict[str, Any]]:
    """Where the tensors begin, and what is said of each."""
    length = int.from_bytes(data[:8].tobytes(), "little")
    if len(data) < 8 or length > min(len(data) - 8, LONGEST_HEADER):
        raise ValueError(f"a header of {length} bytes in a file of {len(data)}")
    header = json.loads(data[8 : 8 + length].tobytes())
    if not isinstance(header, dict):
        raise ValueError("the header is no JSON object")
    header.pop("__metadata__", None)
    return 8 + length, header


def _damaged(file: Path, why: str) -> BadInput:
    return BadInput(
        f"{file} cannot be read as safetensors ({why})",
        expected="a complete safetensors file",
        do="download or make the file again",
    )

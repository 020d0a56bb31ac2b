"""Rows of Parquet files and of folders that `datasets` saved, read through `datasets`.

Data sets of the Hub are reached as remote Parquet files (`hf://datasets/...`) like any other URL.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data.loading.formats.rows import Row
from data.loading.options import LoadOptions, Refused

_MARKS = ({"state.json", "dataset_info.json"}, {"dataset_dict.json"})


def is_dataset_folder(path: Path) -> bool:
    """Whether `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote this folder."""
    return path.is_dir() and any(all((path / name).is_file() for name in names) for names in _MARKS)


def folder_files(path: Path) -> dict[str, Path]:
    """The files of a folder by their names in it, in the order in which `folder_sha256` takes them."""
    files = {entry.relative_to(path).as_posix(): entry for entry in path.rglob("*") if entry.is_file()}
    return dict(sorted(files.items()))


def folder_sha256(path: Path, options: LoadOptions) -> str:
    """Of the names and bytes of the folder's files.

    Raises:
        Refused: `too-large` or `unreadable`.
    """
    total, whole = 0, hashlib.sha256()
    try:
        for name, file in folder_files(path).items():
            total += file.stat().st_size
            if total > options.max_file_bytes:
                raise Refused("too-large", f"over the limit of {options.max_file_bytes} bytes; raise max_file_bytes")
            with file.open("rb") as stream:
                inner = hashlib.file_digest(stream, "sha256").hexdigest()
            whole.update(f"{name}\0{inner}\n".encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise Refused("unreadable", f"it cannot be opened ({error.strerror}); check its rights") from error
    return whole.hexdigest()


def folder_rows(path: Path) -> Iterator[Row]:
    """Rows of a saved data set, the splits one after the other.

    Raises:
        Refused: `unreadable`.
    """
    import datasets

    datasets.disable_progress_bars()
    _refuse_outside(path)
    try:
        saved = datasets.load_from_disk(str(path))
        number = 0
        for split in saved.values() if isinstance(saved, datasets.DatasetDict) else [saved]:
            for row in split:
                number += 1
                yield Row(number, _without_bytes(row))
    except MemoryError:
        raise
    except Exception as error:  # datasets wraps every reader's errors in its own
        raise Refused("unreadable", f"its saved data set is damaged ({type(error).__name__}); save it anew") from error


def _refuse_outside(path: Path) -> None:
    """A saved data set names its data files: they must lie beside the list, and not anywhere on this machine."""
    for state in path.rglob("state.json"):
        try:
            names = [str(entry["filename"]) for entry in json.loads(state.read_bytes())["_data_files"]]
        except (OSError, ValueError, LookupError, TypeError):
            continue  # whatever it is, `datasets` refuses it
        if any(name in ("", "..") or "/" in name or "\\" in name for name in names):
            raise Refused("unreadable", "it names data files outside its own folder; do not trust this data set")


def parquet_rows(raw: bytes) -> Iterator[Row]:
    """Rows of a Parquet file, streamed: nothing is written to the cache of `datasets`.

    Raises:
        Refused: `unreadable`.
    """
    import datasets

    datasets.disable_progress_bars()
    with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
        file.write(raw)
        file.flush()
        try:
            stream = datasets.load_dataset("parquet", data_files=file.name, split="train", streaming=True)
            for number, row in enumerate(stream, 1):
                yield Row(number, _without_bytes(row))
        except MemoryError:
            raise
        except Exception as error:
            name = type(error).__name__
            raise Refused("unreadable", f"its Parquet data is damaged ({name}); write it anew") from error


def _without_bytes(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not isinstance(value, bytes)}

"""Rows of Parquet files and of folders that `datasets` saved, read through `datasets`.

Whoever wrote such a folder or file chooses what is in it, and no more: nothing that it names is opened, neither files
beyond the folder nor the pictures and recordings that its rows point to. Data sets of the Hub are reached as remote
Parquet files (`hf://datasets/...`) like any other URL.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data.loading.formats.rows import Row
from data.loading.options import LoadOptions, Refused

_MARKS = ({"state.json", "dataset_info.json"}, {"dataset_dict.json"})
_ROWS_AT_ONCE = 1000


def is_dataset_folder(path: Path) -> bool:
    """Whether `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote this folder."""
    return path.is_dir() and any(all((path / name).is_file() for name in names) for names in _MARKS)


def folder_entries(path: Path) -> Iterator[Path]:
    """All that `datasets` may open of a saved data set: what lies in the folder and in its splits, links followed."""
    for entry in _listed(path):
        yield entry
        if entry.is_dir():
            yield from _listed(entry)


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:  # without rights: `datasets` says so when it opens it
        return []


def folder_files(path: Path) -> dict[str, Path]:
    """The files of a folder by their names in it, in the order in which `folder_sha256` takes them."""
    files = {entry.relative_to(path).as_posix(): entry for entry in folder_entries(path) if entry.is_file()}
    return dict(sorted(files.items()))


def folder_sha256(path: Path, options: LoadOptions) -> str:
    """Of the names and bytes of the folder's files.

    Raises:
        Refused: `too-large` or `unreadable`.
    """
    _refuse_special(path)
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
    _refuse_special(path)
    _refuse_outside(path)
    try:
        saved = datasets.load_from_disk(str(path.absolute()))
        number = 0
        for split in saved.values() if isinstance(saved, datasets.DatasetDict) else [saved]:
            for row in _plain_rows(split.with_format("arrow", columns=split.format["columns"])):
                number += 1
                yield Row(number, row)
    except MemoryError:
        raise
    except Exception as error:  # datasets wraps every reader's errors in its own
        raise Refused("unreadable", f"its saved data set is damaged ({type(error).__name__}); save it anew") from error


def _refuse_special(path: Path) -> None:
    """Whoever opens a pipe waits for what is written into it, which may never come."""
    for entry in folder_entries(path):
        with contextlib.suppress(OSError):  # a link to nothing
            mode = entry.stat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                name = entry.relative_to(path).as_posix()
                detail = f"{name} in it is not a regular file (a pipe, a socket or a device?); take it out"
                raise Refused("unreadable", detail)


def _refuse_outside(path: Path) -> None:
    """A saved data set names its splits and data files: they must lie in it, and not anywhere on this machine."""
    if "::" in str(path.absolute()):
        raise Refused("unreadable", "`datasets` takes a path with :: for a chain of URLs; rename the folder")
    for file, what in ((file, _NAMING[file.name]) for file in folder_entries(path) if file.name in _NAMING):
        try:
            body = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # `datasets` refuses it
        try:
            names = [name for key in what if key in body for name in _names(body[key])]
        except (LookupError, TypeError) as error:
            raise Refused("unreadable", f"its {file.name} is damaged ({type(error).__name__}); save it anew") from error
        if not all(_is_plain(name) for name in names):
            raise Refused("unreadable", f"its {file.name} names what is not in its folder; do not trust this data set")


_NAMING = {
    "dataset_dict.json": ("splits",),
    "state.json": ("_data_files", "_indices_files", "_indices_data_files"),  # the latter of older versions
}


def _names(entries: Any) -> list[Any]:
    if not isinstance(entries, list):
        raise TypeError("not a list")
    return [entry["filename"] if isinstance(entry, dict) else entry for entry in entries]


def _is_plain(name: Any) -> bool:
    """Whether it names something in a folder: no path, and nothing that fsspec takes for a URL."""
    return isinstance(name, str) and name not in ("", ".", "..") and not any(mark in name for mark in "/\\:\0")


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
            for number, row in enumerate(_plain_rows(stream.with_format("arrow")), 1):
                yield Row(number, row)
        except MemoryError:
            raise
        except Exception as error:
            name = type(error).__name__
            raise Refused("unreadable", f"its Parquet data is damaged ({name}); write it anew") from error


def _plain_rows(tables: Any) -> Iterator[dict[str, Any]]:
    """Rows as Arrow holds them: `datasets` would open the picture or recording that a row names, wherever it lies."""
    for table in tables.iter(_ROWS_AT_ONCE):
        columns = [field.name for field in table.schema if getattr(field.type, "extension_name", "") == "arrow.json"]
        for row in table.to_pylist():
            texts = {name: row[name] for name in columns if isinstance(row[name], str)}
            yield _without_bytes(row | {name: json.loads(text) for name, text in texts.items()})


def _without_bytes(value: Any) -> Any:
    """Pictures and recordings are no text, at any depth."""
    if isinstance(value, Mapping):
        return {key: _without_bytes(entry) for key, entry in value.items() if not isinstance(entry, bytes)}
    if isinstance(value, list):
        return [_without_bytes(entry) for entry in value if not isinstance(entry, bytes)]
    return value

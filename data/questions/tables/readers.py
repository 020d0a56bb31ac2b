"""Question files of every format, row by row: JSON Lines, JSON, CSV, TSV, Parquet, folders saved by `datasets`.

A row is a mapping, or a word that says what is wrong with its line. Knows no columns.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data.questions.tables.layouts import table_rows
from raft_errors import BadInput

log = logging.getLogger("raft.data")

Numbered = Iterator[tuple[int, Any]]


def read_file(path: Path) -> Numbered:
    """(row number, mapping) or (row number, text that says what is wrong with the row)."""
    if path.is_dir():
        return _from_folder(path)
    if not path.is_file():
        raise BadInput(f"no question file {path}", do="correct the path")
    kind = path.suffix.lower()
    if kind == ".parquet":
        return _from_parquet(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadInput(
            f"the question file {path} cannot be read ({error.strerror})", do="correct its rights"
        ) from error
    if kind in (".jsonl", ".ndjson"):
        return _from_lines(path, raw)
    if kind == ".json":
        return _from_json(path, raw)
    if kind in (".csv", ".tsv"):
        return _from_table(path, raw, "\t" if kind == ".tsv" else ",")
    raise BadInput(
        f"{path}: question files do not end in {kind or 'nothing'}", expected=".jsonl .json .csv .tsv .parquet"
    )


def _from_lines(path: Path, raw: bytes) -> Numbered:
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raw = _decoded(path, raw).encode()
    rows = list(_lines(raw.removeprefix(b"\xef\xbb\xbf")))
    if rows and not any(isinstance(row, Mapping) for _, row in rows):  # a list, say, under the name of lines
        with contextlib.suppress(BadInput):
            rows = list(_from_json(path, raw))
    return iter(rows)


def _lines(raw: bytes) -> Numbered:
    for number, line in enumerate(raw.split(b"\n"), 1):
        if line.strip():
            try:
                row = json.loads(line.decode("utf-8"))
                yield number, row if isinstance(row, Mapping) else "bad_json"
            except UnicodeDecodeError:
                yield number, "bad_encoding"
            except (ValueError, RecursionError):
                yield number, "bad_json"


def _from_json(path: Path, raw: bytes) -> Numbered:
    text = _decoded(path, raw)
    try:
        yield from enumerate(table_rows(json.loads(text)), 1)
    except (ValueError, RecursionError) as error:
        rows = _one_after_the_other(text)
        if not rows:
            lines = list(_lines(text.encode()))
            if 2 * sum(isinstance(row, Mapping) for _, row in lines) > len(lines) > 1:
                yield from lines
                return
            raise BadInput(
                f"{path} is not JSON ({error})", expected="a list of rows, or .jsonl with one a line"
            ) from error
        yield from enumerate(rows, 1)


def _one_after_the_other(text: str) -> list[Any]:
    """Objects that follow one another, one a line (as `Dataset.to_json` writes them) or over several; [] if not so."""
    decoder, rows, at = json.JSONDecoder(), [], 0
    separator = re.compile(r"[\s,]*")
    while (at := separator.match(text, at).end()) < len(text):  # type: ignore[union-attr]
        try:
            row, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return []
        if not isinstance(row, Mapping):
            return []
        rows.append(row)
    return rows


def _from_table(path: Path, raw: bytes, separator: str) -> Numbered:
    text = _decoded(path, raw)
    head = text.split("\n", 1)[0]
    if separator == "," and separator not in head:
        separator = next((s for s in (";", "\t", "|") if s in head), ",")
    csv.field_size_limit(10_000_000)
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=separator))
    except csv.Error as error:
        raise BadInput(f"{path} is not a table ({error})", expected="a header line and one row a question") from error
    for number, row in enumerate(rows, 2):
        yield number, {k: v for k, v in row.items() if k is not None and k.strip()}


def _from_parquet(path: Path) -> Numbered:
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is not a Parquet file ({error})") from error
    yield from enumerate(rows, 1)


def _from_folder(path: Path) -> Numbered:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except (FileNotFoundError, ValueError) as error:
        raise BadInput(f"{path} is not a folder saved by `datasets`", do="give the question file itself") from error
    parts = [loaded[name] for name in sorted(loaded)] if isinstance(loaded, Mapping) else [loaded]
    yield from enumerate((row for part in parts for row in part), 1)


def _decoded(path: Path, raw: bytes) -> str:
    """UTF-8, UTF-16 by its mark, or one consistent older encoding; never two at once."""
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        try:
            return raw.decode("utf-16")
        except UnicodeDecodeError as error:
            raise BadInput(
                f"{path} begins as UTF-16 and is cut or damaged at byte {error.start + 1}", do="save the file as UTF-8"
            ) from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        if re.search(rb"[\xc3-\xf4][\x80-\xbf]", raw):
            raise BadInput(
                f"{path}, line {line}: not UTF-8, while other lines are",
                expected="one encoding for the whole file",
                do="save the file as UTF-8",
            ) from error
        import charset_normalizer

        best = charset_normalizer.from_bytes(raw).best()
        if best is None:
            raise BadInput(f"{path}, line {line}: not UTF-8", do="save the file as UTF-8") from error
        log.warning("%s is not UTF-8; read as %s", path, best.encoding)
        return str(best)

"""Rows to documents: JSON Lines, JSON arrays and CSV, with fields mapped to text, title and id.

JSON Lines and CSV are read line by line, so that a bad line costs that line and is named by its number; `hf_datasets`
reads the rows of other tables. A row is the document `file.jsonl#<id or row number>`.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, time, timedelta
from decimal import Decimal
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from data.loading.draft import Draft, finish
from data.loading.formats.headers import numbered_columns
from data.loading.formats.office.cell_values import plain_number, shown_value
from data.loading.options import LoadOptions, Quarantined, Refused
from data.loading.redaction import redact_name
from data.nouns import Document

TEXT_FIELDS = ("text", "content", "contents", "body", "page_content", "passage", "context", "document", "abstract",
               "article", "markdown", "paragraph", "chunk")  # fmt: skip
TITLE_FIELDS = ("title", "name", "heading", "headline", "subject")
ID_FIELDS = ("id", "_id", "doc_id", "docid", "document_id", "uuid", "key", "pmid")
_LOOK_AT = 100
_SEPARATOR = re.compile(r"\"?sep=([^\n\"\w])\"?[,;\t ]*(?=\n)", re.IGNORECASE)
_LONG_VALUE = 1000


@dataclass(frozen=True)
class Row:
    """One row: its number (line number or position, from 1) and its value, or why it has none."""

    number: int
    value: Any = None
    bad: str = ""


@dataclass(frozen=True)
class Fields:
    """Which columns hold text, title and id; `text` None renders all columns as `name: value` lines."""

    text: str | None
    title: str | None
    id: str | None


def load_rows(
    rows: Iterable[Row], source: str, media_type: str, options: LoadOptions, metadata: Mapping[str, Any]
) -> tuple[list[Document], list[Quarantined]]:
    """Makes a document of each row; rows that cannot be used are quarantined one by one."""
    rows = list(rows)
    fields = _find_fields([row.value for row in rows if isinstance(row.value, Mapping)][:_LOOK_AT], options)
    documents: list[Document] = []
    quarantined: list[Quarantined] = []
    seen: dict[str, int] = {}
    for row in rows:
        name = f"{source}#{_row_name(row, fields, seen, options)}"
        try:
            documents.append(finish(_draft(row, fields, media_type, metadata, source, options), name, options))
        except Refused as refusal:
            reason = refusal.reason
            quarantined.append(Quarantined(name, reason, f"row {row.number}: {refusal.detail}"))
    return documents, quarantined


def _row_name(row: Row, fields: Fields, seen: dict[str, int], options: LoadOptions) -> str:
    value = row.value.get(fields.id) if fields.id and isinstance(row.value, Mapping) else None
    stated = str(value).strip() if isinstance(value, str | int) else ""
    name = redact_name(stated, options.redact, options.redact_patterns) or str(row.number)
    name = name.encode("utf-8", "replace").decode()[:200]
    seen[name] = seen.get(name, 0) + 1
    return name if seen[name] == 1 else f"{name}~{seen[name]}"


def _find_fields(rows: list[Mapping[str, Any]], options: LoadOptions) -> Fields:
    names: dict[str, int] = {}
    for row in rows:
        for key, value in row.items():
            if value not in (None, "", [], {}):
                names[key] = names.get(key, 0) + 1

    def usual(candidates: tuple[str, ...], kind: type | tuple[type, ...]) -> str | None:
        by_lower = {key.lower(): key for key in reversed(list(names)) if isinstance(key, str)}
        for candidate in candidates:
            key = by_lower.get(candidate)
            if key and names[key] * 2 >= len(rows) and any(isinstance(row.get(key), kind) for row in rows):
                return key
        return None

    return Fields(
        options.text_field or usual(TEXT_FIELDS, (str, list)),
        options.title_field or usual(TITLE_FIELDS, str),
        options.id_field or usual(ID_FIELDS, (str, int)),
    )


def _draft(
    row: Row, fields: Fields, media_type: str, metadata: Mapping[str, Any], source: str, options: LoadOptions
) -> Draft:
    if row.bad:
        raise Refused("bad-line", row.bad)
    value = {fields.text or "text": row.value} if isinstance(row.value, str) else row.value
    if not isinstance(value, Mapping):
        raise Refused("bad-line", f"a {type(row.value).__name__} and not an object with fields; repair or remove it")
    if fields.text is None:
        text = "\n".join(f"{key}: {_plain(entry)}" for key, entry in value.items() if not _is_empty(entry))
    else:
        if value.get(fields.text) is None:
            do = "repair it" if options.text_field is None else "repair it or set text_field to a field that is there"
            raise Refused("bad-line", f"it has no field {fields.text!r}; {do}")
        text = _plain(value[fields.text])
    title = value.get(fields.title) if fields.title else None
    kept = {
        str(key): entry
        for key, entry in value.items()
        if fields.text is not None
        and key not in (fields.text, fields.title, fields.id)
        and isinstance(entry, str | int | float | bool)
        and len(str(entry)) <= _LONG_VALUE
        and entry == entry  # NaN is not JSON
    }
    return Draft(
        [text],
        media_type,
        title=str(title) if title is not None else f"{PurePosixPath(source).stem} {row.number}",
        metadata={**metadata, "row": row.number, **({"fields": kept} if kept else {})},
    )


def _is_empty(value: Any) -> bool:
    return value in (None, "", [], {}) or value != value  # NaN is how tables of numbers say that there is none


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):  # a column of whole numbers with gaps was made one of floats by whoever wrote it
        return plain_number(value)
    if isinstance(value, date | time | timedelta):
        return shown_value(value)
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "\n".join(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def json_lines(text: str, options: LoadOptions) -> Iterator[Row]:
    """Rows of JSON Lines; blank lines are not rows."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        if len(line) > options.max_chars:
            yield Row(number, bad=f"the line has {len(line)} characters, over max_chars {options.max_chars}")
            continue
        try:
            yield Row(number, json.loads(line))
        except (ValueError, RecursionError) as error:
            yield Row(number, bad=f"not valid JSON ({error}); repair or remove the line")


def json_rows(text: str, options: LoadOptions) -> list[Row] | None:
    """Rows of a JSON file: an array of objects or strings, or one object with a text field; None = not rows.

    Raises:
        Refused: `unreadable` when it is not JSON.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        lines = list(json_lines(text, options))
        if len(lines) > 1 and sum(not row.bad for row in lines) * 2 > len(lines):
            return lines  # JSON Lines named .json
        raise Refused("unreadable", f"it is not valid JSON ({error}); repair it") from error
    if isinstance(value, Mapping):
        field = options.text_field or next((key for key in value if str(key).lower() in TEXT_FIELDS), None)
        if field is not None and isinstance(value.get(field), str):
            return [Row(1, value)]
        lists = [entry for entry in value.values() if _is_table(entry)]
        value = lists[0] if len(lists) == 1 else None
    if not _is_table(value):
        return None
    return [Row(number, entry) for number, entry in enumerate(value, 1)]


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(entry, Mapping | str) for entry in value)


def load_csv(
    text: str, source: str, options: LoadOptions, metadata: Mapping[str, Any]
) -> tuple[list[Document], list[Quarantined]]:
    """Makes a document of each row of a CSV or TSV file; where no row names the columns, the first one says so."""
    text, delimiter = _with_delimiter(text, source)
    header = numbered_columns(_first_rows(text, delimiter))
    documents, quarantined = load_rows(_csv_rows(text, delimiter, header), source, "text/csv", options, metadata)
    if header and documents:
        warning = "the first row looks like data and not like names: the columns are named column_1, column_2, …"
        noted = {**documents[0].metadata, "warnings": [*documents[0].metadata.get("warnings", ()), warning]}
        documents[0] = replace(documents[0], metadata=noted)
    return documents, quarantined


def _with_delimiter(text: str, name: str) -> tuple[str, str]:
    text = text.lstrip("\ufeff")
    if instruction := _SEPARATOR.match(text):  # an instruction of Excel's; its line end stays, to count the lines
        return text[instruction.end() :], instruction[1]
    return text, "\t" if name.lower().endswith(".tsv") else _delimiter(text)


def _first_rows(text: str, delimiter: str) -> list[list[str]]:
    csv.field_size_limit(1 << 30)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        return list(islice((row for row in rows if any(cell.strip() for cell in row)), _LOOK_AT))
    except csv.Error:  # told of when the rows are read
        return []


def _csv_rows(text: str, delimiter: str, header: list[str] | None) -> Iterator[Row]:
    """Rows of a CSV file, named by its first row where no header is given; the number is that of a row's last line."""
    csv.field_size_limit(1 << 30)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Row(reader.line_num, bad=f"not a valid CSV row ({error}); repair or remove it")
            continue
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            header = [cell.strip() or f"column_{number}" for number, cell in enumerate(cells, 1)]
        elif len(cells) > len(header):
            bad = f"{len(cells)} cells under a header of {len(header)}; quote the cells that hold {delimiter!r}"
            yield Row(reader.line_num, bad=bad)
        else:
            yield Row(reader.line_num, dict(zip(header, cells, strict=False)))


def _delimiter(text: str) -> str:
    head = next((line for line in text.split("\n") if line.strip()), "")
    return max((",", ";", "\t", "|"), key=head.count)  # the first of equals: a comma

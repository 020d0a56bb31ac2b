"""Reads question files of many layouts into rows of one shape.

JSON Lines, JSON, CSV, TSV, Parquet, folders saved by `datasets`, the nested layouts of SQuAD, HotpotQA, PubMedQA and
gorilla's RAFT, and logs of RAG systems (question, retrieved, answer, thumbs). Says which columns it found and which it
wants; knows no chunks.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raft_errors import BadInput

log = logging.getLogger("raft.data")

COLUMNS: dict[str, tuple[str, ...]] = {
    "question": ("question", "query", "user_question", "prompt", "instruction", "user_input"),
    "answers": (
        "answers",
        "answer",
        "final_answer",
        "final_decision",
        "reference",
        "ground_truth",
        "response",
        "output",
    ),
    "documents": (
        *("gold_doc_ids", "gold_document_ids", "gold_documents", "gold_document", "document_ids", "document_id"),
        *("doc_id", "document", "source", "file", "path", "title"),
    ),
    "quotes": ("quotes", "quote", "evidence", "supporting_text", "oracle_context"),
    "context": ("context", "passage", "contexts"),
    "reasoning": ("long_answer", "reasoning", "rationale", "explanation", "cot_answer"),
    "facts": ("supporting_facts",),
    "retrieved": ("retrieved", "retrieved_contexts", "retrieved_documents", "retrieved_chunks", "hits"),
    "verdict": ("thumbs", "thumb", "feedback", "rating", "vote"),
    "id": ("id", "question_id", "qid", "_id", "key"),
}
"""What a row can say, and the column names that are taken for it: in each row the first that is not empty."""


@dataclass(frozen=True)
class Row:
    """One row of a question file.

    Attributes:
        number: counts from 1. fault: why the row cannot be used ("" if it can).
        documents: names of the gold documents. facts: (title, sentence number from 0), as in HotpotQA.
        retrieved: what a RAG system had found: chunk ids, sources or texts. disliked: its user was not content.
    """

    number: int
    id: str
    question: str = ""
    answers: tuple[str, ...] = ()
    documents: tuple[str, ...] = ()
    quotes: tuple[str, ...] = ()
    context: str = ""
    reasoning: str = ""
    facts: tuple[tuple[str, int], ...] = ()
    retrieved: tuple[str, ...] = ()
    disliked: bool = False
    answerable: bool = True
    fault: str = ""


def read_rows(source: Path | Iterable[Mapping[str, Any]], *, columns: Mapping[str, str] | None = None) -> list[Row]:
    """All rows of a file, a folder saved by `datasets`, or any iterable of mappings (a `datasets.Dataset` is one).

    Args:
        columns: what -> column name, over the names of `COLUMNS`; the rest is found by name.

    Raises:
        BadInput: no such file, not readable in its format, mixed encodings in a table, or no column for question or
            answers.
    """
    where = str(source) if isinstance(source, Path) else "the data set"
    raw = list(_read(source)) if isinstance(source, Path) else list(enumerate(source, 1))
    good = [row for _, row in raw if isinstance(row, Mapping)]
    if not good:
        raise BadInput(f"{where} holds no rows", expected="one object with a question and an answer a row")
    found = sorted({str(k) for row in good for k in row})
    chosen = _choose_columns(where, found, columns or {})
    return [_row(n, r, chosen) if isinstance(r, Mapping) else Row(n, str(n), fault=str(r)) for n, r in raw]


def _choose_columns(where: str, found: list[str], asked: Mapping[str, str]) -> dict[str, list[str]]:
    if unknown := sorted(set(asked) - set(COLUMNS)):
        raise BadInput(f"columns: {unknown[0]!r} is nothing a row can say", expected="one of " + ", ".join(COLUMNS))
    by_name = {name.lower().strip().replace(" ", "_").replace("-", "_"): name for name in reversed(found)}
    chosen: dict[str, list[str]] = {}
    for what, names in COLUMNS.items():
        if what in asked:
            if asked[what] not in found:
                raise BadInput(
                    f"{where} has no column {asked[what]!r} (asked for as {what})",
                    expected="one of " + ", ".join(found),
                )
            chosen[what] = [asked[what]]
        elif match := [by_name[n] for n in names if n in by_name]:
            chosen[what] = match
    for what in ("question", "answers"):
        if what not in chosen and not (what == "answers" and "reasoning" in chosen):
            raise BadInput(
                f"{where} has no column for the {what}: found {', '.join(found)}",
                expected=f"one of {', '.join(COLUMNS[what])}",
                do=f"rename the column, or set columns: {{{what}: <name>}}",
            )
    return chosen


def _row(number: int, raw: Mapping[str, Any], chosen: Mapping[str, list[str]]) -> Row:
    def value(what: str) -> Any:
        given = (raw.get(name) for name in chosen.get(what, ()))
        return next((v for v in given if isinstance(v, bool | int | float) or v), None)

    reasoning = "\n".join(_texts(value("reasoning")))
    answers, quotes = _texts(value("answers")), _texts(value("quotes"))
    if "<ANSWER>" in reasoning:  # gorilla's RAFT: quotes and final answer inside the reasoning
        quotes = [*re.findall(r"##begin_quote##(.*?)##end_quote##", reasoning, re.DOTALL), *quotes]
        head, _, final = reasoning.partition("<ANSWER>")
        answers = [final.lstrip(": ").strip(), *answers]
        reasoning = re.sub(r"##(?:begin|end)_quote##", "", head).strip()
    flag = raw.get("answerable", not raw.get("is_impossible", False))
    facts = value("facts")
    if isinstance(facts, Mapping):  # the layout of `datasets`: {"title": [...], "sent_id": [...]}
        facts = list(zip(facts.get("title", []), facts.get("sent_id", []), strict=False))
    row_id = value("id")
    return Row(
        number=number,
        id=str(row_id) if row_id not in (None, "") else str(number),
        question=" ".join(_texts(value("question"))[:1]).strip(),
        answers=tuple(dict.fromkeys(a.strip() for a in answers if a.strip())),
        documents=tuple(dict.fromkeys(d.strip() for d in _texts(value("documents")) if d.strip())),
        quotes=tuple(q.strip() for q in quotes if q.strip()),
        context="\n".join(_texts(value("context"))),
        reasoning=reasoning,
        facts=tuple((str(t), int(n)) for t, n in facts or () if str(n).isdigit()),
        retrieved=tuple(r for r in _retrieved(value("retrieved")) if r),
        disliked=str(value("verdict")).strip().lower() in _THUMBS_DOWN,
        answerable=flag not in (False, "false", "False", 0, "0"),
    )


_THUMBS_DOWN = frozenset(
    {"down", "thumbs_down", "thumbs down", "bad", "negative", "dislike", "-1", "0", "no", "false", "👎"}
)


def _retrieved(value: Any) -> list[str]:
    """Ids, sources or texts of what was retrieved: a list of texts or of {"chunk_id" | "source" | "text": ...}."""
    if isinstance(value, Mapping):
        names = ("chunk_id", "id", "source", "text", "content", "page_content")
        return [str(value[name]) for name in names if value.get(name)][:1]
    if isinstance(value, list | tuple):
        return [one for item in value for one in _retrieved(item)]
    return _texts(value)


def _texts(value: Any) -> list[str]:
    """Texts in whatever a column holds: a text, a number, a list, SQuAD's {"text": [...]}, {"contexts": [...]}."""
    if value is None:
        return []
    if isinstance(value, str):
        if value[:1] == "[" and value[-1:] == "]":  # a list written into a CSV cell
            try:
                return _texts(json.loads(value))
            except ValueError:
                return [value]
        return [value]
    if isinstance(value, bool):
        return ["yes" if value else "no"]
    if isinstance(value, int | float):
        return [] if value != value else [f"{value:g}" if isinstance(value, float) else str(value)]
    if isinstance(value, Mapping):
        inner = next((value[k] for k in ("text", "contexts", "content", "sentences") if k in value), None)
        return _texts(inner)
    return [text for item in value for text in _texts(item)]


Numbered = Iterator[tuple[int, Any]]


def _read(path: Path) -> Numbered:
    """(row number, mapping) or (row number, text that says what is wrong with the row)."""
    if path.is_dir():
        return _from_folder(path)
    if not path.is_file():
        raise BadInput(f"no question file {path}", do="correct the path")
    kind = path.suffix.lower()
    if kind == ".parquet":
        return _from_parquet(path)
    raw = path.read_bytes()
    if kind in (".jsonl", ".ndjson"):
        return _from_lines(raw)
    if kind == ".json":
        return _from_json(path, raw)
    if kind in (".csv", ".tsv"):
        return _from_table(path, raw, "\t" if kind == ".tsv" else ",")
    raise BadInput(
        f"{path}: question files do not end in {kind or 'nothing'}", expected=".jsonl .json .csv .tsv .parquet"
    )


def _from_lines(raw: bytes) -> Numbered:
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if line.strip():
            try:
                row = json.loads(line.decode("utf-8"))
                yield number, row if isinstance(row, Mapping) else "bad_json"
            except UnicodeDecodeError:
                yield number, "bad_encoding"
            except ValueError:
                yield number, "bad_json"


def _from_json(path: Path, raw: bytes) -> Numbered:
    try:
        whole = json.loads(_decoded(path, raw))
    except ValueError as error:
        raise BadInput(f"{path} is not JSON ({error})", expected="a list of rows, or .jsonl with one a line") from error
    yield from enumerate(_nested(whole), 1)


def _nested(whole: Any) -> Iterator[Any]:
    """Rows of a JSON file: a list, {"data": [...]}, SQuAD's articles, HotpotQA's contexts, PubMedQA's table by id."""
    if isinstance(whole, Mapping) and isinstance(whole.get("data"), list):
        whole = whole["data"]
    if isinstance(whole, Mapping):
        if whole and all(isinstance(v, Mapping) and "QUESTION" in v for v in whole.values()):
            for key, row in whole.items():
                yield {
                    "id": key, "question": row["QUESTION"], "answer": row.get("final_decision"), "document_id": key,
                    "long_answer": row.get("LONG_ANSWER"),
                }  # fmt: skip
            return
        whole = [{"id": k, **v} if isinstance(v, Mapping) else v for k, v in whole.items()]
    for row in whole if isinstance(whole, list) else []:
        if isinstance(row, Mapping) and "paragraphs" in row:
            for paragraph in row["paragraphs"]:
                for asked in paragraph["qas"]:
                    yield {"title": row.get("title", ""), "context": paragraph["context"], **asked}
        elif isinstance(row, Mapping) and "supporting_facts" in row and isinstance(row.get("context"), list):
            by_title = {title: list(said) for title, said in row["context"]}
            facts = [(t, n) for t, n in row["supporting_facts"] if n < len(by_title.get(t, []))]
            yield {
                **{k: v for k, v in row.items() if k not in ("context", "supporting_facts")},
                "gold_documents": list(dict.fromkeys(t for t, _ in facts)),
                "quotes": [by_title[t][n].strip() for t, n in facts],
            }
        else:
            yield row


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
        return raw.decode("utf-16")
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

"""Reads question files of many layouts into rows of one shape.

Files and layouts are those of `data.questions.tables`; gorilla's RAFT and logs of RAG systems (question, retrieved,
answer, thumbs) are read by their columns. Says which columns it found and which it wants; knows no chunks.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from data.loading.text import whole_characters
from data.nouns import FEEDBACK
from data.questions.tables.cells import is_missing, texts, truth, written
from data.questions.tables.layouts import unnested
from data.questions.tables.readers import Numbered, read_file
from raft_errors import BadInput

A_ROW = "for each question a row, or an object, that holds it and its answer"

COLUMNS: dict[str, tuple[str, ...]] = {
    "question": ("question", "query", "user_question", "prompt", "instruction", "user_input", "input"),
    "answers": (
        *("ground_truths", "ground_truth", "expected_output", "expected_answer", "reference_answer"),
        *("answers", "answer", "final_answer", "final_decision", "reference", "response", "output"),
    ),
    "documents": (
        *("gold_doc_ids", "gold_document_ids", "gold_documents", "gold_document", "document_ids", "document_id"),
        *("doc_id", "document", "source_file", "source", "file", "path", "title"),
    ),
    "quotes": ("quotes", "quote", "evidence", "supporting_text", "oracle_context"),
    "passages": ("gold_passages", "reference_contexts", "gold_contexts"),
    "context": ("context", "passage", "contexts"),
    "reasoning": ("long_answer", "reasoning", "rationale", "explanation", "cot_answer"),
    "facts": ("supporting_facts",),
    "retrieved": ("retrieved", "retrieved_contexts", "retrieved_documents", "retrieved_chunks", "hits"),
    "verdict": ("thumbs", "thumb", "feedback", "rating", "vote"),
    "answerable": ("answerable", "is_answerable", "has_answer"),
    "impossible": ("is_impossible", "impossible", "unanswerable", "is_unanswerable", "no_answer"),
    "origin": ("origin",),
    "id": ("id", "question_id", "qid", "_id", "key"),
}
"""What a row can say, and the column names that are taken for it: in each row the first that is not empty.

What is known to be right comes before what a system answered, as in RAGAS' old tables, which have both.
"""


@dataclass(frozen=True)
class Row:
    """One row of a question file.

    Attributes:
        number: counts from 1. fault: why the row cannot be used ("" if it can).
        documents: names of the gold documents. facts: (title, sentence number from 0), as in HotpotQA.
        passages: texts of which each is needed for the answer, with what each of them answers ("" = the answer).
        context: text in which the answer may be looked for.
        retrieved: what a RAG system had found: chunk ids, sources or texts. disliked: its user was not content.
        feedback: whether it is accepted feedback (`origin: feedback`), which is never examined.
    """

    number: int
    id: str
    question: str = ""
    answers: tuple[str, ...] = ()
    documents: tuple[str, ...] = ()
    quotes: tuple[str, ...] = ()
    passages: tuple[tuple[str, str], ...] = ()
    context: str = ""
    reasoning: str = ""
    facts: tuple[tuple[str, int], ...] = ()
    retrieved: tuple[str, ...] = ()
    disliked: bool = False
    answerable: bool = True
    feedback: bool = False
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
    raw = list(read_file(source)) if isinstance(source, Path) else list(enumerate(source, 1))
    raw = [(number, row) for number, nested in raw for row in _unnested(nested)]
    good = [row for _, row in raw if isinstance(row, Mapping)]
    if not good:
        first = f": line {raw[0][0]} and all others cannot be read ({in_words(str(raw[0][1]))})" if raw else ""
        raise BadInput(f"{where} holds no rows{first}", expected=A_ROW)
    names = sorted({str(k) for row in good for k in row})
    chosen = _choose_columns(where, names, columns or {})
    rows = [
        _row(number, row, chosen) if isinstance(row, Mapping) else Row(number, str(number), fault=str(row))
        for number, row in _numbered(raw)
    ]
    return _with_verdicts([_whole(row) for row in rows])


def in_words(reason: str) -> str:
    """The code of a reason as a person reads it."""
    return reason.replace("_", " ").replace("json", "JSON")


def _whole(row: Row) -> Row:
    """The row without half characters, which are as documents have them."""

    def whole(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(whole(item) for item in value)
        return whole_characters(value) if isinstance(value, str) else value

    return replace(row, **{one.name: whole(getattr(row, one.name)) for one in fields(row)})


_BOOLEANS = {"true": "yes", "false": "no"}
_ASKS_WHETHER = re.compile(
    r"(?:is|are|was|were|am|do|does|did|has|have|had|can|could|may|might|must|shall|should|will|would)(?:n['’]t)? ",
    re.IGNORECASE,
)
_ASKS_FOR = re.compile(r"(?:what|which|who|whom|whose|when|where|why|how)\b|.*\btrue or false\b", re.IGNORECASE)


def _with_verdicts(rows: list[Row]) -> list[Row]:
    """TRUE and FALSE that a table wrote as texts become yes and no, as booleans do: where the question asks whether, or
    where the column says nothing else and the question does not ask for a thing, which a "true" may well be in code."""
    answers = {answer.lower() for row in rows for answer in row.answers}
    alone = bool(answers) and answers <= _BOOLEANS.keys()

    def is_verdict(row: Row) -> bool:
        if not row.answers or any(answer.lower() not in _BOOLEANS for answer in row.answers):
            return False
        return _ASKS_WHETHER.match(row.question) is not None or (alone and not _ASKS_FOR.match(row.question))

    def as_verdict(row: Row) -> Row:
        return replace(row, answers=tuple(dict.fromkeys(_BOOLEANS[answer.lower()] for answer in row.answers)))

    return [as_verdict(row) if is_verdict(row) else row for row in rows]


def _unnested(nested: Any) -> list[Any]:
    try:
        return list(unnested(nested))
    except (AttributeError, KeyError, TypeError, ValueError):
        return ["bad_layout"]  # it looks like a published set and is built otherwise


def _numbered(raw: list[tuple[int, Any]]) -> Numbered:
    """Rows by their line; by their place where one line or value held several."""
    lines = {number for number, _ in raw}
    yield from raw if len(lines) == len(raw) else ((place, row) for place, (_, row) in enumerate(raw, 1))


def _choose_columns(where: str, found: list[str], asked: Mapping[str, str]) -> dict[str, list[str]]:
    if unknown := sorted(set(asked) - set(COLUMNS)):
        raise BadInput(f"columns: {unknown[0]!r} is nothing a row can say", expected="one of " + ", ".join(COLUMNS))
    by_name = {_column_name(name): name for name in reversed(found)}
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
                do=f"rename the column, or name yours: questions.columns: {{{what}: {_nearest(what, found)}}}",
            )
    return chosen


def _nearest(what: str, found: list[str]) -> str:
    """The column that is probably meant; a blank where none is like the names that are known."""
    like = {close: name for name in found for close in difflib.get_close_matches(_column_name(name), COLUMNS[what], 1)}
    return next((like[known] for known in COLUMNS[what] if known in like), "...")


def _column_name(name: str) -> str:
    """A header as `COLUMNS` has it: "Is impossible?", "is-impossible" and "isImpossible" are one."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    inner = re.sub(r"\W+", "_", name).strip("_").lower()
    return f"_{inner}" if name.startswith("_") else inner


def _row(number: int, raw: Mapping[str, Any], chosen: Mapping[str, list[str]]) -> Row:
    def value(what: str) -> Any:
        return next((v for name in chosen.get(what, ()) if not is_missing(v := raw.get(name))), None)

    row_id = value("id")
    row_id = " ".join(texts(row_id)) or str(number)
    try:
        flags = truth(value("answerable")), truth(value("impossible"))
    except ValueError as error:
        return Row(number, row_id, fault=f"bad_flag: {error} says neither yes nor no")
    reasoning = "\n".join(_composed(value("reasoning")))
    answers, quotes = _composed(value("answers")), _composed(value("quotes"))
    if "<ANSWER>" in reasoning:  # gorilla's RAFT: quotes and final answer inside the reasoning
        quotes = [*re.findall(r"##begin_quote##(.*?)##end_quote##", reasoning, re.DOTALL), *quotes]
        head, _, final = reasoning.partition("<ANSWER>")
        answers = [final.lstrip(": ").strip(), *answers]
        reasoning = re.sub(r"##(?:begin|end)_quote##", "", head).strip()
    facts = value("facts")
    if isinstance(facts, Mapping):  # the layout of `datasets`: {"title": [...], "sent_id": [...]}
        facts = list(zip(facts.get("title", []), facts.get("sent_id", []), strict=False))
    context = "\n".join(_composed(value("context")))
    passages = tuple(_passages(value("passages")))
    unanswerable = flags[0] is False or flags[1] is True
    if flags == (None, None) and not reasoning:
        if answers and all(_column_name(answer) in _NO_ANSWER for answer in answers):
            unanswerable = True
        elif not any(answer.strip() for answer in answers) and (context or passages):
            unanswerable = any(_is_empty_list(raw.get(name)) for name in chosen.get("answers", ()))
    return Row(
        number=number,
        id=row_id,
        question=" ".join(_composed(value("question"))[:1]).strip(),
        answers=tuple(dict.fromkeys(a.strip() for a in answers if a.strip())),
        documents=tuple(dict.fromkeys(d.strip() for d in _composed(value("documents")) if d.strip())),
        quotes=tuple(q.strip() for q in quotes if q.strip()),
        passages=passages,
        context=context,
        reasoning=reasoning,
        facts=tuple((str(f[0]), int(f[1])) for f in facts or () if _is_fact(f)),
        retrieved=tuple(r for r in _retrieved(value("retrieved")) if r),
        disliked=str(value("verdict")).strip().lower() in _THUMBS_DOWN,
        answerable=not unanswerable,
        feedback=value("origin") == FEEDBACK,
    )


_THUMBS_DOWN = frozenset(
    {"down", "thumbs_down", "thumbs down", "bad", "negative", "dislike", "-1", "0", "no", "false", "👎"}
)


def _composed(value: Any) -> list[str]:
    """The texts of a cell with composed letters, as ingest leaves those of the documents."""
    return [unicodedata.normalize("NFC", text) for text in texts(value)]


def _is_fact(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and str(value[1]).isdigit()


def _is_empty_list(value: Any) -> bool:
    """Whether a cell says outright that there is no answer, as SQuAD 2.0 does in `datasets`: [] or {"text": []}."""
    if isinstance(value, str):
        value = written(value)
    if isinstance(value, Mapping):
        value = value.get("text")
    return value is not None and not isinstance(value, str) and hasattr(value, "__len__") and not any(texts(value))


_NO_ANSWER = frozenset({"cannotanswer", "unanswerable", "not_answerable", "no_answer", "noanswer"})
"""What some sets write in place of an answer: QuAC and CoQA, Qasper, and others."""


def _passages(value: Any) -> Iterator[tuple[str, str]]:
    """Each gold passage and what it answers."""
    if isinstance(value, str):
        value = written(value) or value
    for item in [value] if isinstance(value, str | Mapping) else value if value is not None else ():
        answer = " ".join(texts(item.get("answer"))[:1]) if isinstance(item, Mapping) else ""
        for text in _composed(item["text"] if isinstance(item, Mapping) and answer else item):
            if text.strip():
                yield text.strip(), answer


def _retrieved(value: Any) -> list[str]:
    """Ids, sources or texts of what was retrieved: a list of texts or of {"chunk_id" | "source" | "text": ...}."""
    if isinstance(value, Mapping):
        names = ("chunk_id", "id", "source", "text", "content", "page_content")
        return [str(value[name]) for name in names if value.get(name)][:1]
    if isinstance(value, list | tuple):
        return [one for item in value for one in _retrieved(item)]
    return _composed(value)

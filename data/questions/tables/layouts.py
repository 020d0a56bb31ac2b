"""Layouts of question sets, brought into rows of one level: SQuAD, HotpotQA, MuSiQue, PubMedQA, and tables as JSON.

What a published set nests (articles, paragraphs, supporting facts) becomes columns that `data.questions.files` knows.
Reads no files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data.questions.tables.cells import is_missing, texts

Rows = Iterator[Any]


def table_rows(whole: Any) -> Rows:
    """The rows of a JSON value: a list, {"data": [...]}, a table by columns, or rows by their ids."""
    if isinstance(whole, list):
        yield from whole
        return
    if not isinstance(whole, Mapping):
        return
    if isinstance(whole.get("question"), str):  # one row alone
        yield whole
        return
    columns, data = whole.get("columns"), whole.get("data")
    if isinstance(columns, list) and isinstance(data, list):  # pandas, orient="split"
        yield from (dict(zip(columns, row)) if isinstance(row, Sequence) else row for row in data)
        return
    lists = [value for value in whole.values() if isinstance(value, list) and _holds_rows(value)]
    if isinstance(data, list) or len(lists) == 1:
        yield from (_unwrapped(row) for row in (data if isinstance(data, list) else lists[0]))
    elif by_column := _by_column(whole):
        yield from by_column
    elif any(isinstance(value, Mapping) for value in whole.values()):
        yield from ({"id": key, **row} if isinstance(row, Mapping) else row for key, row in whole.items())
    else:
        yield whole


def _holds_rows(value: list[Any]) -> bool:
    return bool(value) and all(isinstance(item, Mapping) for item in value) and not _is(value[0], "qas")


def _unwrapped(row: Any) -> Any:
    """A row as the server of `datasets` sends it: {"row_idx": 0, "row": {...}}."""
    return row["row"] if isinstance(row, Mapping) and isinstance(row.get("row"), Mapping) else row


def _by_column(whole: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a table written by columns: {"question": {"0": ...}} as pandas has it, or {"question": [...]}."""
    values = list(whole.values())
    if len(values) < 2 or not all(isinstance(value, type(values[0])) for value in values):
        return []
    if isinstance(values[0], list) and len({len(value) for value in values}) == 1 and values[0]:
        return [dict(zip(whole, row)) for row in zip(*values, strict=True)]
    if isinstance(values[0], Mapping) and len({tuple(value) for value in values}) == 1:
        keys = list(values[0])
        if all(key.isdigit() for key in keys):
            return [{column: whole[column][key] for column in whole} for key in keys]
    return []


def unnested(row: Any) -> Rows:
    """The rows that one row of a published layout stands for; any other row as it is."""
    if not isinstance(row, Mapping):
        yield row
    elif isinstance(row.get("paragraphs"), list) and any(_is(p, "qas") for p in row["paragraphs"]):
        for paragraph in row["paragraphs"]:
            for question in paragraph.get("qas", ()):
                yield {"title": row.get("title", ""), "context": paragraph.get("context", ""), **question}
    elif isinstance(row.get("paragraphs"), list) and any(_is(p, "is_supporting") for p in row["paragraphs"]):
        yield _musique(row)
    elif "supporting_facts" in row and _is_hotpot(row.get("context")):
        yield _hotpot(row)
    elif "QUESTION" in row and "CONTEXTS" in row:
        yield {
            "id": row.get("id"), "question": row["QUESTION"], "answer": row.get("final_decision"),
            "document_id": row.get("id"), "long_answer": row.get("LONG_ANSWER"),
        }  # fmt: skip
    else:
        yield row


def _is(value: Any, name: str) -> bool:
    return isinstance(value, Mapping) and name in value


def _musique(row: Mapping[str, Any]) -> dict[str, Any]:
    """A question over several paragraphs, of which those that support the answer are its gold passages."""
    supporting = [p for p in row["paragraphs"] if p.get("is_supporting")]
    steps = row.get("question_decomposition")
    hops = {s.get("paragraph_support_idx"): s.get("answer") for s in steps or () if isinstance(s, Mapping)}
    return {
        **{k: v for k, v in row.items() if k not in ("paragraphs", "question_decomposition", "answer_aliases")},
        "answers": [*texts(row.get("answer")), *texts(row.get("answer_aliases"))],
        "gold_documents": [str(p.get("title", "")) for p in supporting],
        "gold_passages": [
            {"text": str(p.get("paragraph_text", "")), "answer": hops.get(p.get("idx"))} for p in supporting
        ],
    }


def _is_hotpot(context: Any) -> bool:
    """[["title", ["sentence", ...]], ...], or the columns that `datasets` makes of it."""
    if isinstance(context, Mapping):
        return "title" in context and "sentences" in context
    return isinstance(context, list) and all(isinstance(p, Sequence) and len(p) == 2 for p in context)


def _hotpot(row: Mapping[str, Any]) -> dict[str, Any]:
    context, facts = row["context"], row["supporting_facts"]
    pages = zip(context["title"], context["sentences"]) if isinstance(context, Mapping) else context
    by_title = {str(title): list(sentences) for title, sentences in pages}
    if isinstance(facts, Mapping):
        facts = list(zip(facts.get("title", ()), facts.get("sent_id", ())))
    facts = [] if is_missing(facts) else [(str(t), int(n)) for t, n in facts if int(n) < len(by_title.get(str(t), ()))]
    return {
        **{k: v for k, v in row.items() if k not in ("context", "supporting_facts")},
        "gold_documents": list(dict.fromkeys(title for title, _ in facts)),
        "quotes": [by_title[title][number].strip() for title, number in facts],
    }

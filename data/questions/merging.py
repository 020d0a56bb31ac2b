"""Rows that ask the same: their accepted answers are put together, and those that contradict one another are told.

A set with one row for each accepted answer (SQuAD, exploded) would otherwise lose all but the first, and a passage that
holds a lost one could stand beside the question as a distractor. Reads no files and places nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from data.nouns import Question
from data.questions.files import Row
from data.questions.placing import is_yes_no
from data.text.alike import alike

CONTRADICTION = "contradicts"


def merge_rows(rows: Sequence[Row]) -> tuple[list[Row], int]:
    """The rows, those that ask the same of the same document or context as one, and how many were merged into others.

    One that answers what an earlier row leaves to be refused, or says no where it says yes, is marked as a fault.
    """
    merged: list[Row] = []
    first: dict[tuple[object, ...], int] = {}
    count = 0
    for row in rows:
        key = (alike(row.question).casefold(), row.documents, row.passages, row.context, row.retrieved, row.feedback)
        place = first.setdefault(key, len(merged))
        if place == len(merged) or row.fault or row.disliked or not row.question:
            merged.append(row)
            continue
        earlier = merged[place]
        if earlier.fault or earlier.disliked or bool(earlier.answers) != bool(row.answers):
            contradicts = not (earlier.fault or earlier.disliked) and earlier.answerable != row.answerable
            merged.append(replace(row, fault=f"{CONTRADICTION}: row {earlier.number}") if contradicts else row)
        elif earlier.answerable != row.answerable or _verdicts_differ(earlier, row):
            merged.append(replace(row, fault=f"{CONTRADICTION}: row {earlier.number}"))
        else:
            merged[place] = _with_answers_of(earlier, row)
            count += 1
    return merged, count


def merge_questions(questions: Sequence[Question]) -> tuple[list[Question], int]:
    """The questions, those with the same words and gold as one that accepts the answers of all, and how many went."""
    merged: dict[tuple[object, ...], Question] = {}
    for question in questions:
        words = alike(question.question).casefold()
        key = (words, question.gold_chunk_ids, question.kind == "unanswerable", question.origin)
        earlier = merged.setdefault(key, question)
        if earlier is not question:
            answers = tuple(dict.fromkeys((*earlier.answers, *question.answers)))
            merged[key] = replace(earlier, answers=answers)
    return list(merged.values()), len(questions) - len(merged)


def _verdicts_differ(first: Row, second: Row) -> bool:
    if not (is_yes_no(first) or is_yes_no(second)):
        return False
    return first.answers[:1] != second.answers[:1]


def _with_answers_of(row: Row, other: Row) -> Row:
    return replace(
        row,
        answers=tuple(dict.fromkeys((*row.answers, *other.answers))),
        quotes=tuple(dict.fromkeys((*row.quotes, *other.quotes))),
        facts=tuple(dict.fromkeys((*row.facts, *other.facts))),
        reasoning=row.reasoning or other.reasoning,
    )

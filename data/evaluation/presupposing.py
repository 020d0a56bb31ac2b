"""Questions that presuppose their document: nobody who asks a search over many documents would ask them so.

Two signs, and no more is claimed: the question points at a text that its reader does not see ("this policy", "the
article above"), or the same words are asked about several documents, with another answer in each.
"""

from __future__ import annotations

from collections.abc import Sequence

from data.nouns import Record
from data.questions.filters import points_at_text
from data.text.normalisation import normalise


def presupposing_questions(records: Sequence[Record]) -> list[str]:
    """The questions of the records that presuppose their document, in the order of the records."""
    documents: dict[str, set[tuple[str, ...]]] = {}
    answers: dict[str, set[str]] = {}
    for record in records:
        words, meta = normalise(record.metadata["question"]), record.metadata
        documents.setdefault(words, set()).add(tuple(sorted(meta["document_ids"])))
        answers.setdefault(words, set()).update(normalise(a) for a in meta["answers"][:1])
    questions = [record.metadata["question"] for record in records]

    def asked_of_several(question: str) -> bool:
        words = normalise(question)
        return len(documents[words]) > 1 and len(answers[words]) > 1

    return [question for question in questions if points_at_text(question) or asked_of_several(question)]

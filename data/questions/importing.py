"""Takes questions that a team already has and finds for each the chunk and the words that hold its answer.

The gold chunk is looked for by quote, then by the answer within the gold document, then by retrieval. A row marked as
having no answer becomes a question that is to be refused. A row that cannot be placed is dropped with its reason; a
file that cannot be understood is a `BadInput`. No teacher is asked.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from data.loading.languages import main_language
from data.nouns import FEEDBACK, Chunk, Document, Hit, Progress, Question, Quote, Search, digest
from data.questions.files import Row, in_words, read_rows
from data.questions.filters import Fault
from data.questions.library import Library
from data.questions.merging import merge_questions, merge_rows
from data.questions.placing import (
    LONG_ANSWER,
    Place,
    find_places,
    in_the_passages_words,
    is_yes_no,
    supported_part,
)
from data.questions.results import Dropped, QuestionSet, question_set
from data.questions.unanswerable import asked_of
from data.questions.wording import flat
from data.text.unspaced import word_count
from raft_errors import BadInput


@dataclass(frozen=True)
class ImportOptions:
    """How imported questions are placed.

    Attributes:
        columns: what -> column name where the names are not the usual ones (`question_files.COLUMNS` lists them).
        depth: how many hits of the retriever are looked at for rows that name no document.
        min_score: a hit below this is no gold chunk where the answer's own words decide nothing: of a yes or no, and
            of an answer in other words than the named document's.
        max_questions: rows taken, in file order; None for all.
        max_answer_words: an answer of more than 40 words is cut to its sentences that the gold chunks hold, at most so
            many words; the whole one stays in the question's metadata. None keeps every answer as it is.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    depth: int = 10
    min_score: float = 0.5
    max_questions: int | None = None
    max_answer_words: int | None = 120


def import_questions(
    source: Path | Iterable[Mapping[str, Any]],
    chunks: Sequence[Chunk],
    search: Search | None = None,
    *,
    documents: Sequence[Document] = (),
    copies: Mapping[str, str] = MappingProxyType({}),
    options: ImportOptions = ImportOptions(),
    progress: Progress | None = None,
) -> QuestionSet:
    """Reads questions and gives each its gold chunks and verbatim quotes.

    Args:
        source: a question file (see `data.questions.files`) or an iterable of rows.
        chunks: of the whole corpus.
        search: the retriever; without it only rows that name a document or a quote can be placed, and `difficulty` is
            None.
        documents: where given, a row may name a document by any id or title in its metadata as well.
        copies: source -> the source whose document stands for it, because their texts are the same.

    Returns:
        Questions in file order, origin `user` (`feedback` where a row says so); `counts` adds `placed_by`, and `merged`
        where rows asked the same.

    Raises:
        BadInput: the file cannot be understood, or not one of its rows could be placed.
    """
    if isinstance(source, str):  # else a list of its letters
        source = Path(source)
    rows = read_rows(source, columns=options.columns)[: options.max_questions]
    outcome = _placed(rows, chunks, search, documents, copies, options, progress)
    if not outcome.questions:
        reasons = Counter(d.reason for d in outcome.dropped).most_common(3)
        first = outcome.dropped[0]
        raise BadInput(
            "none of the questions could be placed in the corpus: "
            + ", ".join(f"{n} {in_words(r)}" for r, n in reasons),
            expected="questions about the documents of this corpus",
            do=f"check the columns and the documents' names; first: {in_words(first.reason)}, {first.detail}",
        )
    return outcome


def with_feedback(
    own: QuestionSet,
    source: Path,
    chunks: Sequence[Chunk],
    search: Search | None = None,
    *,
    documents: Sequence[Document] = (),
    copies: Mapping[str, str] = MappingProxyType({}),
    options: ImportOptions = ImportOptions(),
) -> QuestionSet:
    """A set with accepted feedback behind it: questions of origin `feedback`, whatever their rows say.

    Feedback that cannot be placed is dropped with its reason like any row, and all of it may be: its documents may
    have gone since. See `import_questions` for the arguments.
    """
    rows = [dataclasses.replace(row, feedback=True) for row in read_rows(source)]
    more = _placed(rows, chunks, search, documents, copies, options, None)
    counts = {name: n for name, n in own.counts.items() if name not in ("asked", "kept", "dropped")}
    both = question_set(
        [*own.questions, *more.questions],
        [*own.dropped, *more.dropped],
        **counts,
        feedback={"accepted": more.counts["asked"], "kept": more.counts["kept"]},
    )
    return dataclasses.replace(both, traces=own.traces)


def _placed(
    rows: Sequence[Row],
    chunks: Sequence[Chunk],
    search: Search | None,
    documents: Sequence[Document],
    copies: Mapping[str, str],
    options: ImportOptions,
    progress: Progress | None,
) -> QuestionSet:
    """The rows with their gold chunks and quotes, as far as they have any."""
    rows, merged = merge_rows(rows)
    library = Library(chunks, documents, language=main_language([c.text for c in chunks]), copies=copies)
    hits = _search(rows, search, options.depth)
    seen: dict[str, int] = {}
    questions: list[Question] = []
    dropped: list[Dropped] = []
    how: Counter[str] = Counter()
    for done, row in enumerate(rows):
        if progress and done % 50 == 0:
            progress(done, len(rows), "placing questions")
        own = hits.get(row.number, ())
        fault_of_row = _check(row, seen)
        placement: list[Place] | Chunk | Fault
        if fault_of_row or row.answerable:
            placement = fault_of_row or find_places(row, library, own, depth=options.depth, min_score=options.min_score)
        else:
            placement = asked_of(row, library, own)
        if isinstance(placement, Fault):
            dropped.append(Dropped("", row.question[:300], placement.reason, placement.detail[:300], row.id))
        elif isinstance(placement, Chunk):
            how["unanswerable"] += 1
            questions.append(_to_refuse(row, placement, own))
        else:
            question = _question(row, placement, hits.get(row.number), options.max_answer_words, library.language)
            if question is None:
                fault = "none of the answer's sentences stands in its chunks"
                dropped.append(
                    Dropped(placement[0].chunk.id, row.question[:300], "answer_not_supported", fault, row.id)
                )
            else:
                how[_how(placement)] += 1
                questions.append(question)
    questions, also_merged = merge_questions(questions)
    merged += also_merged
    more = {"merged": merged} if merged else {}
    return question_set(questions, dropped, chunks=len(chunks), placed_by=dict(sorted(how.items())), **more)


def _search(rows: Sequence[Row], search: Search | None, depth: int) -> dict[int, list[Hit]]:
    wanted = [row for row in rows if row.question and not row.fault]
    if search is None or not wanted:
        return {}
    return dict(zip((r.number for r in wanted), search([r.question for r in wanted], depth), strict=True))


def _check(row: Row, seen: dict[str, int]) -> Fault | None:
    """What is wrong with a row before anything is looked up."""
    if row.fault:
        reason, _, detail = row.fault.partition(": ")
        return Fault(reason, detail or f"line {row.number}")
    if row.id in seen:
        return Fault("duplicate_id", f"id {row.id!r} stands on row {seen[row.id]} already")
    seen[row.id] = row.number
    if len(row.question) < 3:
        return Fault("empty_question", f"row {row.number}")
    if row.disliked:
        return Fault("thumbs_down", "the user was not content with the answer")
    if row.answerable and not row.answers and not row.reasoning:
        return Fault("empty_answer", f"row {row.number}; if it is to be refused, give it answerable: false")
    return None


def _origin_of(row: Row) -> str:
    return FEEDBACK if row.feedback else "user"


def _id_of(row: Row, *gold: str) -> str:
    """An id of its own for feedback, since what it corrects asks the same of the same passage."""
    return digest(row.question, *gold, *((FEEDBACK,) if row.feedback else ()))


def _how(places: list[Place]) -> str:
    """The best of the ways in which a row's chunks were found."""
    return min((p.how for p in places), key=("quote", "answer", "retrieval", "overlap", "document").index)


def _to_refuse(row: Row, chunk: Chunk, hits: Sequence[Hit]) -> Question:
    """A question without an answer; its chunk is what it was asked of."""
    return Question(
        id=_id_of(row, chunk.id),
        question=flat(row.question),
        answer="",
        gold_chunk_ids=(chunk.id,),
        document_ids=(chunk.document_id,),
        kind="unanswerable",
        origin=_origin_of(row),
        difficulty=min((h.rank for h in hits if h.chunk_id == chunk.id), default=None),
        metadata={"row_id": row.id, "placed_by": "unanswerable"},
    )


def _question(
    row: Row, places: list[Place], hits: list[Hit] | None, max_answer_words: int | None, language: str
) -> Question | None:
    answers = row.answers or (flat(row.reasoning),)
    answers = tuple(dict.fromkeys((in_the_passages_words(answers[0], places), *answers)))
    metadata: dict[str, Any] = {"row_id": row.id, "placed_by": _how(places)}
    if max_answer_words is not None and word_count(answers[0]) > LONG_ANSWER:
        short = supported_part(answers[0], places, max_words=max_answer_words, language=language)
        if not short:
            return None
        if short != flat(answers[0]):
            metadata["whole_answer"] = answers[0]
            answers = (short, *answers[1:])
    gold = tuple(p.chunk.id for p in places)
    rank = min((h.rank for h in hits or () if h.chunk_id in gold), default=None)
    return Question(
        id=_id_of(row, *gold),
        question=flat(row.question),
        answer=answers[0],
        gold_chunk_ids=gold,
        document_ids=tuple(dict.fromkeys(p.chunk.document_id for p in places)),
        quotes=tuple(Quote(p.chunk.id, p.span.of(p.chunk.text)) for p in places),
        reasoning=flat(row.reasoning) if row.answers else "",
        answers=answers,
        kind="yes_no" if is_yes_no(row) else "factoid",
        origin=_origin_of(row),
        difficulty=rank,
        metadata=metadata,
    )

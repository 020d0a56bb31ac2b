"""Takes questions that a team already has and finds for each the chunk and the words that hold its answer.

The gold chunk is looked for by quote, then by the answer within the gold document, then by retrieval. A row that cannot
be placed is dropped with its reason; a file that cannot be understood is a `BadInput`. No teacher is asked.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from data.nouns import Chunk, Document, Hit, Progress, Question, Quote, Search, digest
from data.question_files import Row, read_rows
from data.questions.filters import Fault
from data.questions.results import Dropped, QuestionSet, question_set
from data.questions.wording import content_words, flat
from data.quotes import Span, locate_quote, sentences
from raft_errors import BadInput


@dataclass(frozen=True)
class ImportOptions:
    """How imported questions are placed.

    Attributes:
        columns: what -> column name where the names are not the usual ones (`question_files.COLUMNS` lists them).
        depth: how many hits of the retriever are looked at for rows that name no document.
        min_score: a hit below this is no gold chunk for a row whose answer is not found word for word.
        max_questions: rows taken, in file order; None for all.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    depth: int = 10
    min_score: float = 0.5
    max_questions: int | None = None


@dataclass(frozen=True)
class _Place:
    """A chunk with the words of it that hold the answer, and how it was found."""

    chunk: Chunk
    span: Span
    how: str


_YES_NO = frozenset({"yes", "no", "maybe", "true", "false", "support", "contradict"})


def import_questions(
    source: Path | Iterable[Mapping[str, Any]],
    chunks: Sequence[Chunk],
    search: Search | None = None,
    *,
    documents: Sequence[Document] = (),
    options: ImportOptions = ImportOptions(),
    progress: Progress | None = None,
) -> QuestionSet:
    """Reads questions and gives each its gold chunks and verbatim quotes.

    Args:
        source: a question file (see `data.question_files`) or an iterable of rows.
        chunks: of the whole corpus.
        search: the retriever; without it only rows that name a document or a quote can be placed, and `difficulty` is
            None.
        documents: where given, a row may name a document by any id or title in its metadata as well.

    Returns:
        Questions in file order, origin `user`; `counts` adds `placed_by`.

    Raises:
        BadInput: the file cannot be understood, or not one of its rows could be placed.
    """
    rows = read_rows(source, columns=options.columns)[: options.max_questions]
    library = _Library(chunks, documents)
    hits = _search(rows, search, options.depth)
    seen: dict[str, int] = {}
    questions: list[Question] = []
    dropped: list[Dropped] = []
    how: Counter[str] = Counter()
    for done, row in enumerate(rows):
        if progress and done % 50 == 0:
            progress(done, len(rows), "placing questions")
        found = _check(row, seen) or _places(row, library, hits.get(row.number, []), options)
        if isinstance(found, Fault):
            dropped.append(Dropped("", row.question[:300], found.reason, found.detail[:300], row.id))
        else:
            how[found[0].how] += 1
            questions.append(_question(row, found, hits.get(row.number)))
    if not questions:
        reasons = Counter(d.reason for d in dropped).most_common(3)
        raise BadInput(
            "none of the questions could be placed in the corpus: " + ", ".join(f"{n} {r}" for r, n in reasons),
            expected="questions about the documents of this corpus",
            do=f"check the columns and the documents' names; first: {dropped[0].reason}, {dropped[0].detail}",
        )
    return question_set(questions, dropped, chunks=len(chunks), placed_by=dict(sorted(how.items())))


def _search(rows: Sequence[Row], search: Search | None, depth: int) -> dict[int, list[Hit]]:
    wanted = [row for row in rows if row.question and not row.fault]
    if search is None or not wanted:
        return {}
    return dict(zip((r.number for r in wanted), search([r.question for r in wanted], depth), strict=True))


def _check(row: Row, seen: dict[str, int]) -> Fault | None:
    """What is wrong with a row before anything is looked up."""
    if row.fault:
        return Fault(row.fault, f"line {row.number}")
    if row.id in seen:
        return Fault("duplicate_id", f"id {row.id!r} stands on row {seen[row.id]} already")
    seen[row.id] = row.number
    if len(row.question) < 3:
        return Fault("empty_question", f"row {row.number}")
    if not row.answerable:
        return Fault("unanswerable", "marked as having no answer")
    if not row.answers and not row.reasoning:
        return Fault("empty_answer", f"row {row.number}")
    return None


def _question(row: Row, places: list[_Place], hits: list[Hit] | None) -> Question:
    answers = row.answers or (flat(row.reasoning),)
    gold = tuple(p.chunk.id for p in places)
    rank = min((h.rank for h in hits or () if h.chunk_id in gold), default=None)
    return Question(
        id=digest(row.question, *gold),
        question=flat(row.question),
        answer=answers[0],
        gold_chunk_ids=gold,
        document_ids=tuple(dict.fromkeys(p.chunk.document_id for p in places)),
        quotes=tuple(Quote(p.chunk.id, p.span.of(p.chunk.text)) for p in places),
        reasoning=flat(row.reasoning) if row.answers else "",
        answers=answers,
        kind="yes_no" if answers[0].lower() in _YES_NO else "factoid",
        origin="user",
        difficulty=rank,
        metadata={"row_id": row.id, "placed_by": places[0].how},
    )


class _Library:
    """Chunks by every name that a row may call their document."""

    def __init__(self, chunks: Sequence[Chunk], documents: Sequence[Document]) -> None:
        self.chunks = list(chunks)
        self.by_id = {c.id: c for c in chunks}
        by_document: dict[str, list[Chunk]] = {}
        for chunk in sorted(chunks, key=lambda c: (c.document_id, c.ordinal)):
            by_document.setdefault(chunk.document_id, []).append(chunk)
        self.by_document = by_document
        exact: dict[str, dict[str, None]] = {}
        loose: dict[str, dict[str, None]] = {}
        for document_id, own in by_document.items():
            source = own[0].source
            for name in (document_id, source):
                exact.setdefault(name, {})[document_id] = None
            file = PurePosixPath(source.replace("\\", "/"))
            for name in (file.name, file.stem, own[0].title, source.rpartition(":")[2]):
                loose.setdefault(_name(name), {})[document_id] = None
        self.facts: dict[str, list[str]] = {}
        for document in documents:
            for key in ("id", "_id", "doc_id", "document_id", "key", "pmid", "title"):
                value = document.metadata.get(key)
                if isinstance(value, str | int) and document.id in by_document:
                    exact.setdefault(str(value), {})[document.id] = None
            if isinstance(document.metadata.get("sentences"), list):
                self.facts[document.id] = [str(s) for s in document.metadata["sentences"]]
        self._exact, self._loose = exact, loose

    def named(self, name: str) -> list[str]:
        """Ids of the documents called so: exact ids and sources first, else file names and titles."""
        return list(self._exact.get(name) or self._loose.get(_name(name)) or ())


def _name(text: str) -> str:
    return " ".join(text.lower().replace("_", " ").split())


def _places(row: Row, library: _Library, hits: list[Hit], options: ImportOptions) -> list[_Place] | Fault:
    """The gold chunks of a row: one for each document it names, else one."""
    documents = [library.named(name) for name in row.documents]
    unknown = [name for name, ids in zip(row.documents, documents, strict=True) if not ids]
    pools = [[c for i in ids for c in library.by_document[i]] for ids in documents if ids]
    everywhere = not pools
    if everywhere:
        pools = [library.chunks]
    quotes = list(row.quotes) + _facts(row, library)
    if quotes and (found := _by_quotes(quotes, [c for pool in pools for c in pool])):
        return found
    if row.context and (sentence := _in_context(row)) and (found := _by_quotes([sentence], pools[0])):
        return found
    if everywhere:
        if row.documents:
            return Fault("unknown_document", f"no document is called {unknown[0]!r}")
        return _by_retrieval(row, library, hits, options)
    places = [place for pool in pools if (place := _in_pool(row, pool))]
    holds = any(p.how == "answer" for p in places)
    if not places or not (holds or _is_yes_no(row) or any(p.how == "overlap" for p in places)):
        return Fault("answer_not_found", f"no chunk of {', '.join(row.documents[:3])} holds {row.answers[:1]}")
    return _distinct(places)


def _facts(row: Row, library: _Library) -> list[str]:
    """HotpotQA's supporting sentences, where the documents bring their own sentence lists."""
    said = []
    for title, number in row.facts:
        for document_id in library.named(title):
            own = library.facts.get(document_id, [])
            if number < len(own):
                said.append(own[number].strip())
    return said


def _by_quotes(quotes: Sequence[str], pool: Sequence[Chunk]) -> list[_Place]:
    """The chunks that hold the quotes, verbatim ones first."""
    places = []
    flats = [flat(c.text) for c in pool]
    for quote in quotes:
        line = flat(quote)
        exact = [c for c, text in zip(pool, flats, strict=True) if line and line in text]
        # repair only in a small pool: against a whole corpus it would be slow and would find chance likenesses
        for chunk in exact or (pool if len(pool) <= 200 else ()):
            if located := locate_quote(quote, chunk.text):
                places.append(_Place(chunk, Span(located.start, located.end), "quote"))
                break
    return _distinct(places)


def _in_context(row: Row) -> str:
    """The sentence of the row's own context that holds the answer."""
    for span in _ranked(row, row.context):
        if any(_holds(span.of(row.context), a) for a in row.answers):
            return span.of(row.context)
    return ""


def _in_pool(row: Row, pool: Sequence[Chunk]) -> _Place | None:
    """The chunk of one document that best holds the answer, or else shares most with answer and question."""
    best: tuple[float, _Place] | None = None
    asked = content_words(row.question)
    told = content_words(" ".join((*row.answers[:1], row.reasoning)))
    for chunk in pool:
        own = content_words(chunk.text)
        holding = not _is_yes_no(row) and any(_holds(chunk.text, a) for a in row.answers)
        spans = _ranked(row, chunk.text)
        if holding:
            spans = [s for s in spans if any(_holds(s.of(chunk.text), a) for a in row.answers)] or spans
        if not spans:
            continue
        share = len(own & told) / max(1, len(told))
        how = "answer" if holding else "overlap" if share >= 0.5 or _is_yes_no(row) else "document"
        score = 10.0 * holding + share + len(own & asked) / max(1, len(asked))
        if best is None or score > best[0] + 1e-9:
            best = score, _Place(chunk, spans[0], how)
    return best[1] if best else None


def _by_retrieval(row: Row, library: _Library, hits: list[Hit], options: ImportOptions) -> list[_Place] | Fault:
    """Rows that name no document: the answer word for word in a hit, else the first hit where its score allows."""
    pool = [library.by_id[h.chunk_id] for h in hits[: options.depth] if h.chunk_id in library.by_id]
    if not _is_yes_no(row):
        for chunk in pool:
            place = _in_pool(row, [chunk])
            if place and place.how in ("answer", "overlap"):
                return [_Place(place.chunk, place.span, "retrieval")]
        if any(_holds(c.text, a) for c in library.chunks for a in row.answers):
            return Fault("gold_not_found", f"the answer stands in the corpus, but not in the first {len(pool)} hits")
        return Fault("answer_not_found", f"no document holds {row.answers[:1]}")
    if pool and hits[0].score >= options.min_score and (place := _in_pool(row, pool[:1])):
        return [_Place(place.chunk, place.span, "retrieval")]
    return Fault("gold_not_found", f"no hit scores {options.min_score:g} or more")


def _distinct(places: Sequence[_Place]) -> list[_Place]:
    """One place a chunk, the first; in order."""
    return list({p.chunk.id: p for p in reversed(places)}.values())[::-1]


def _is_yes_no(row: Row) -> bool:
    return bool(row.answers) and row.answers[0].lower() in _YES_NO


def _holds(text: str, answer: str) -> bool:
    """Whether the answer stands in the text as whole words, spaces and case aside."""
    answer = flat(answer).strip(" .").lower()
    return bool(answer) and re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", flat(text).lower()) is not None


def _ranked(row: Row, text: str) -> list[Span]:
    """Sentences of the text, those first that share most with the question, the answer and the reasoning."""
    asked = content_words(row.question)
    told = content_words(" ".join((*row.answers[:1], row.reasoning)))

    def score(span: Span) -> tuple[float, int]:
        own = content_words(span.of(text))
        return (-(len(own & asked) + 2 * len(own & told)) / (len(own) + 5) ** 0.5, span.start)

    return sorted(sentences(text), key=score)

"""Finds where in a corpus the answer to a ready-made question stands: by quote, by answer, by overlap, by retrieval.

What comes back is always a chunk and words that stand in it verbatim, or the reason why there is none. Knows no files
and asks nobody: the retriever's hits are given to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from rapidfuzz import fuzz

from data.nouns import Chunk, Document, Hit
from data.questions.files import Row
from data.questions.filters import Fault
from data.questions.wording import content_words, flat
from data.text.quotes import Span, locate_quote, sentences

YES_NO = frozenset({"yes", "no", "maybe", "true", "false", "support", "contradict"})
LONG_ANSWER = 40
"""Words; a longer answer is told over several sentences, perhaps over several chunks."""
_MOST_GOLD = 4
_AIM = re.compile(
    r"\b(?:aims?|purposes?|objectives?|hypothes[ie][sz]\w*|investigated?|whether|background|introduction|end.?points?)\b",
    re.IGNORECASE,
)
_SECTION = re.compile(r"^[ \t]*(?P<name>[A-Z][A-Z ,/&()-]{2,60}):", re.MULTILINE)
_FINDINGS = re.compile(r"RESULT|FINDING|CONCLUSION|DISCUSSION|INTERPRETATION")


@dataclass(frozen=True)
class Place:
    """A chunk with the words of it that hold the answer, and how it was found: quote, answer, overlap, retrieval."""

    chunk: Chunk
    span: Span
    how: str


class _Page:
    """What is looked up again and again of one chunk, worked out once."""

    def __init__(self, chunk: Chunk) -> None:
        self.chunk = chunk
        self.flat = flat(chunk.text)
        self.lower = self.flat.lower()
        self.words = content_words(chunk.text)
        self._sentences: list[tuple[Span, frozenset[str]]] | None = None

    @property
    def sentences(self) -> list[tuple[Span, frozenset[str]]]:
        """Each sentence with its content words."""
        if self._sentences is None:
            self._sentences = [(s, content_words(s.of(self.chunk.text))) for s in sentences(self.chunk.text)]
        return self._sentences


class Library:
    """The chunks, and every name by which a row may call their document.

    Names are the document's id and source, the part of the source after `#` or `:`, its file name with and without
    ending, its title, and, where documents are given, ids and titles among their metadata.
    """

    def __init__(self, chunks: Sequence[Chunk], documents: Sequence[Document] = ()) -> None:
        self.pages = {c.id: _Page(c) for c in sorted(chunks, key=lambda c: (c.document_id, c.ordinal, c.id))}
        self.by_document: dict[str, list[_Page]] = {}
        for page in self.pages.values():
            self.by_document.setdefault(page.chunk.document_id, []).append(page)
        self._said: dict[str, list[str]] = {}
        self._texts: dict[str, str] = {}
        self._exact: dict[str, dict[str, None]] = {}
        self._loose: dict[str, dict[str, None]] = {}
        for document_id, own in self.by_document.items():
            source = own[0].chunk.source
            for name in (document_id, source, source.partition("#")[2], source.partition(":")[2]):
                self._exact.setdefault(name, {})[document_id] = None
            if "#" not in source:
                file = PurePosixPath(source.replace("\\", "/"))
                for name in (file.name, file.stem):
                    self._loose.setdefault(_loose(name), {})[document_id] = None
            self._loose.setdefault(_loose(own[0].chunk.title), {})[document_id] = None
        for document in documents:
            if document.id in self.by_document:
                self._learn(document)
        for names in (self._exact, self._loose):
            names.pop("", None)

    def _learn(self, document: Document) -> None:
        inner = document.metadata.get("fields")
        for fields in (document.metadata, inner if isinstance(inner, Mapping) else {}):
            for key in ("id", "_id", "doc_id", "document_id", "key", "pmid", "title"):
                if isinstance(value := fields.get(key), str | int):
                    self._exact.setdefault(str(value), {})[document.id] = None
            if isinstance(said := fields.get("sentences"), list):
                self._said[document.id] = [str(s) for s in said]
        self._texts[document.id] = document.text

    def sentence(self, document_id: str, number: int) -> str:
        """A document's sentence by its number (0-based): of its own list if it brings one, else of ours; or ""."""
        if document_id not in self._said:
            text = self._texts.get(document_id, "")
            self._said[document_id] = [s.of(text) for s in sentences(text)]
        said = self._said[document_id]
        return said[number].strip() if 0 <= number < len(said) else ""

    def named(self, name: str) -> list[str]:
        """Ids of the documents called so: exact ids and sources first, else file names and titles."""
        return list(self._exact.get(name) or self._loose.get(_loose(name)) or ())


def _loose(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").split())


def find_places(
    row: Row, library: Library, hits: Sequence[Hit], *, depth: int, min_score: float
) -> list[Place] | Fault:
    """The gold chunks of a row, one or more for each document it names, or why there is none.

    Args:
        hits: what the retriever finds for the question; looked at where the row names no document.
        depth: how many of them. min_score: of a hit that is trusted although the answer is not in it word for word.
    """
    named = {name: library.named(name) for name in row.documents}
    pools = [[p for i in ids for p in library.by_document[i]] for ids in named.values() if ids]
    quotes = [*row.quotes, *_facts(row, library)]
    if quotes and (found := _by_quotes(quotes, pools or [list(library.pages.values())])):
        return found
    sentence = _in_context(row) if row.context else ""
    if sentence and (found := _by_quotes([sentence], pools or [list(library.pages.values())])):
        return found
    if not pools and row.retrieved:
        return _by_log(row, library)
    if not pools and row.documents:
        return Fault("unknown_document", f"no document is called {row.documents[0]!r}")
    if not pools:
        return _by_retrieval(row, library, hits[:depth], min_score)
    places = [place for pool in pools for place in _in_pool(row, pool)]
    if not any(p.how in ("answer", "overlap") for p in places):
        return Fault("answer_not_found", f"no chunk of {', '.join(row.documents[:3])} holds {_shown(row)}")
    return _distinct(places)


def _facts(row: Row, library: Library) -> list[str]:
    """HotpotQA's supporting sentences, named by the title of their document and their number in it."""
    found = [library.sentence(i, number) for title, number in row.facts for i in library.named(title)]
    return [sentence for sentence in found if sentence]


def _by_quotes(quotes: Sequence[str], pools: Sequence[Sequence[_Page]]) -> list[Place]:
    """The chunks that hold the quotes; verbatim in any chunk, repaired only among a few hundred."""
    pages = list({p.chunk.id: p for pool in pools for p in pool}.values())
    places = []
    for quote in quotes:
        line = flat(quote)
        exact = [p for p in pages if line and line in p.flat]
        for page in exact or (pages if len(pages) <= 300 else ()):
            if located := locate_quote(quote, page.chunk.text):
                places.append(Place(page.chunk, Span(located.start, located.end), "quote"))
                break
    return _distinct(places)


def _in_context(row: Row) -> str:
    """The sentence of the row's own context that holds the answer and shares most with the question."""
    asked = content_words(row.question)
    spans = [s.of(row.context) for s in sentences(row.context)]
    holding = [s for s in spans if any(_holds(flat(s).lower(), a) for a in row.answers)]
    return max(holding, key=lambda s: len(content_words(s) & asked), default="")


def _in_pool(row: Row, pool: Sequence[_Page]) -> list[Place]:
    """The chunks of one document that hold the answer: the best one, or several for an answer of many sentences."""
    asked = content_words(row.question)
    told = content_words(" ".join((*row.answers[:1], row.reasoning)))
    if row.answers and len(row.answers[0].split()) >= LONG_ANSWER and (found := _long_answer(row, asked, told, pool)):
        return found
    if is_yes_no(row):
        return _verdict(asked, told, pool)
    best: tuple[float, Place] | None = None
    for page in pool:
        holding = any(_holds(page.lower, a) for a in row.answers)
        ranked = _ranked(page, asked, told)
        if holding:
            ranked = [
                s for s in ranked if any(_holds(flat(s.of(page.chunk.text)).lower(), a) for a in row.answers)
            ] or ranked
        if not ranked:
            continue
        share = len(page.words & told) / max(1, len(told))
        how = "answer" if holding else "overlap" if share >= 0.5 else "document"
        score = 10.0 * holding + share + len(page.words & asked) / max(1, len(asked))
        if best is None or score > best[0] + 1e-9:
            best = score, Place(page.chunk, ranked[0], how)
    return [best[1]] if best else []


def _verdict(asked: frozenset[str], told: frozenset[str], pool: Sequence[_Page]) -> list[Place]:
    """The sentence that a "yes" or "no" rests on: a finding that shares words with the reasoning, not the aim that
    only says the question again, nor, where an abstract names its sections, how the study was done."""
    best: tuple[float, Place] | None = None
    for page in pool:
        text = page.chunk.text
        heads = [(m.start(), m["name"]) for m in _SECTION.finditer(text)]
        for span, own in page.sentences:
            score = (2 * len(own & told - asked) + 0.5 * len(own & asked)) / (len(own) + 5) ** 0.5
            section = next((name for at, name in reversed(heads) if at <= span.start), "")
            if _AIM.search(span.of(text)):
                score *= 0.4
            if section and not _FINDINGS.search(section):
                score *= 0.4
            if best is None or score > best[0] + 1e-9:
                best = score, Place(page.chunk, span, "overlap")
    return [best[1]] if best else []


def _long_answer(row: Row, asked: frozenset[str], told: frozenset[str], pool: Sequence[_Page]) -> list[Place]:
    """The chunks whose sentences stand in the answer, in the document's order, if together they hold half of it.

    Of each, the quote is the sentence that shares most with the question; of equals, the one the answer tells first.
    """
    answer = flat(row.answers[0]).lower()
    found: list[tuple[Place, frozenset[str]]] = []
    for page in pool:
        inside = [
            (-len(own & asked), at.dest_start, span, own)
            for span, own in page.sentences
            if len(own & told) >= max(4, 0.8 * len(own))
            and (at := fuzz.partial_ratio_alignment(flat(span.of(page.chunk.text)).lower(), answer, score_cutoff=85))
        ]
        if inside:
            span = min(inside, key=lambda item: (item[0], item[1], item[2].start))[2]
            held = frozenset(w for *_, own in inside for w in own & told)
            found.append((Place(page.chunk, span, "answer"), held))
    most = sorted(found, key=lambda item: -len(item[1]))[:_MOST_GOLD]
    together = frozenset(w for _, held in most for w in held)
    if len(together) < 0.5 * len(told):
        return []
    return sorted((p for p, _ in most), key=lambda p: (p.chunk.document_id, p.chunk.ordinal))


def _by_log(row: Row, library: Library) -> list[Place] | Fault:
    """Rows of a RAG system's log: the retrieved passage that the logged answer stands on."""
    pages: dict[str, _Page] = {}
    for name in row.retrieved:
        line = flat(name)
        if name in library.pages:
            pages[name] = library.pages[name]
        elif ids := library.named(name):
            pages.update((p.chunk.id, p) for i in ids for p in library.by_document[i])
        elif len(line) >= 20:
            pages.update((p.chunk.id, p) for p in library.pages.values() if line in p.flat or p.flat in line)
    if not pages:
        return Fault("unknown_document", "what was retrieved is not in this corpus")
    places = [p for p in _in_pool(row, list(pages.values())) if p.how in ("answer", "overlap")]
    return places or Fault("answer_not_found", f"nothing that was retrieved holds {_shown(row)}")


def _by_retrieval(row: Row, library: Library, hits: Sequence[Hit], min_score: float) -> list[Place] | Fault:
    """Rows that name no document: a hit that holds the answer, else the first hit where its score allows."""
    pages = [library.pages[h.chunk_id] for h in hits if h.chunk_id in library.pages]
    if is_yes_no(row):
        found = _in_pool(row, pages[:1]) if pages and hits[0].score >= min_score else []
        return [_retrieved(p) for p in found] or Fault("gold_not_found", f"no hit scores {min_score:g} or more")
    for wanted in ("answer", "overlap"):
        for page in pages:
            if found := [p for p in _in_pool(row, [page]) if p.how == wanted]:
                return [_retrieved(p) for p in found]
    if any(_holds(page.lower, a) for page in library.pages.values() for a in row.answers):
        return Fault("gold_not_found", f"the answer stands in the corpus, but not in the first {len(pages)} hits")
    return Fault("answer_not_found", f"no document holds {_shown(row)}")


def _retrieved(place: Place) -> Place:
    return Place(place.chunk, place.span, "retrieval")


def _distinct(places: Sequence[Place]) -> list[Place]:
    """One place a chunk, the first; in order."""
    return list({p.chunk.id: p for p in reversed(places)}.values())[::-1]


def supported_part(answer: str, places: Sequence[Place], *, max_words: int) -> str:
    """The sentences of a long answer that the gold chunks hold, in order, up to `max_words`; "" where there is none.

    A model that is trained to say more than its passages hold is trained to make things up.
    """
    have = content_words(" ".join(p.chunk.text for p in places))
    kept: list[str] = []
    for span in sentences(answer):
        sentence = flat(span.of(answer))
        own = content_words(sentence)
        if own and len(own & have) >= 0.8 * len(own):
            if sum(len(s.split()) for s in kept) + len(sentence.split()) > max_words:
                break
            kept.append(sentence)
    return " ".join(kept)


def is_yes_no(row: Row) -> bool:
    """Whether the answer is a verdict and not words to be looked for."""
    return bool(row.answers) and row.answers[0].lower().strip(" .") in YES_NO


def _shown(row: Row) -> str:
    return repr(row.answers[0][:80]) if row.answers else "an answer"


def _holds(lower: str, answer: str) -> bool:
    """Whether the answer stands in the flat lower-case text as whole words."""
    answer = flat(answer).strip(" .").lower()
    if not answer or answer not in lower:
        return False
    return re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", lower) is not None


def _ranked(page: _Page, asked: frozenset[str], told: frozenset[str]) -> list[Span]:
    """Sentences of a chunk, those first that share most with the question, and twice so with what the answer adds."""

    def score(item: tuple[Span, frozenset[str]]) -> tuple[float, int]:
        span, own = item
        return (-(len(own & asked) + 2 * len(own & told - asked)) / (len(own) + 5) ** 0.5, span.start)

    return [span for span, _ in sorted(page.sentences, key=score)]

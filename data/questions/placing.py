"""Finds where in a corpus the answer to a ready-made question stands: by quote, by answer, by overlap, by retrieval.

What comes back is always a chunk and words that stand in it verbatim, or the reason why there is none. Knows no files
and asks nobody: the retriever's hits are given to it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rapidfuzz import fuzz

from data.nouns import Chunk, Hit
from data.questions.figures import has_another_number, has_other_numbers, missing_numbers
from data.questions.files import Row
from data.questions.filters import Fault
from data.questions.library import Library, Page, comparable
from data.questions.wording import content_words, flat, numbers
from data.text.holding import held_as, holds, is_value
from data.text.question_words import VERDICTS
from data.text.quotes import Span, locate_quote, sentences
from data.text.statements import below_heading, is_statement
from data.text.unspaced import is_unspaced, word_count

YES_NO = frozenset({"yes", "no", "maybe", "true", "false", "support", "contradict"}) | VERDICTS
_FREE_TEXT = 6  # words from which an answer may be somebody's own, and not the document's
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


def find_places(
    row: Row, library: Library, hits: Sequence[Hit], *, depth: int, min_score: float
) -> list[Place] | Fault:
    """The gold chunks of a row, one or more for each document it names, or why there is none.

    Args:
        hits: what the retriever finds for the question; looked at where the row names no document, or where the answer
            stands nowhere in it word for word.
        depth: how many of them. min_score: of a hit that is trusted although the words of the answer are not in it.
    """
    named = {name: library.named(name) for name in row.documents}
    pools = [[p for i in ids for p in library.by_document[i]] for ids in named.values() if ids]
    quotes = [*row.quotes, *_facts(row, library)]
    contradicted = has_other_numbers(row.answers, " ".join(quotes), library.language)
    if quotes and not contradicted and (places := _by_quotes(quotes, pools or [list(library.pages.values())])):
        return places
    if contradicted and not (pools or row.passages or row.context or row.retrieved or row.documents):
        return Fault("answer_not_supported", f"its quote holds another number than {_shown(row)}")
    if row.passages and (by_passages := _by_passages(row, library, pools)):
        return by_passages
    if row.context and (places := _by_context(row, library, pools)):
        return places
    if not pools and row.retrieved:
        return _by_log(row, library)
    if not pools and row.documents:
        return Fault("unknown_document", f"no document is called {row.documents[0]!r}")
    if not pools:
        return _by_retrieval(row, library, hits[:depth], min_score)
    places = [place for pool in pools for place in _in_pool(row, pool, library.language)]
    if any(p.how in ("answer", "overlap") for p in places):
        return _distinct(places)
    trusted = [h.chunk_id for h in hits if h.score >= min_score]
    if _is_free_text(row) and (near := _nearest(row, places, pools, trusted, library.language)):
        return near
    return Fault("answer_not_found", f"no chunk of {', '.join(row.documents[:3])} holds {_shown(row)}")


def _is_free_text(row: Row) -> bool:
    """Whether the answer is told in somebody's own words, so that nobody would expect it word for word."""
    return bool(row.answers) and not is_yes_no(row) and word_count(row.answers[0]) >= _FREE_TEXT


def _nearest(
    row: Row, places: Sequence[Place], pools: Sequence[Sequence[Page]], trusted: Sequence[str], language: str
) -> list[Place]:
    """The passage of a named document that a free answer seems to rest on: one that shares a quarter of its words, or
    the retriever's best hit in the document, if it has the answer's numbers."""
    answer_words, figures = content_words(row.answers[0], language), numbers(row.answers[0])
    pages = {p.chunk.id: p for pool in pools for p in pool}
    near = [p for p in places if len(pages[p.chunk.id].words & answer_words) >= 0.25 * len(answer_words)]
    if not near and (page := next((pages[i] for i in trusted if i in pages), None)):
        near = _in_pool(row, [page], language)
    near = [p for p in near if not has_another_number(row.answers, p.span.of(p.chunk.text), language)]
    return [p for p in near if figures <= pages[p.chunk.id].numbers][:1]


def _facts(row: Row, library: Library) -> list[str]:
    """HotpotQA's supporting sentences, named by the title of their document and their number in it."""
    named = [library.sentence(i, number) for title, number in row.facts for i in library.named(title)]
    return [sentence for sentence in named if sentence]


def _by_quotes(quotes: Sequence[str], pools: Sequence[Sequence[Page]]) -> list[Place]:
    """The chunks that hold the quotes; verbatim in any chunk, repaired only among a few hundred."""
    pages = list({p.chunk.id: p for pool in pools for p in pool}.values())
    places = []
    for quote in quotes:
        line = comparable(quote)
        exact = [p for p in pages if line and line in p.lower]
        for page in exact or (pages if len(pages) <= 300 else ()):
            if located := locate_quote(quote, page.chunk.text):
                places.append(Place(page.chunk, Span(located.start, located.end), "quote"))
                break
    return _distinct(places)


def _by_passages(row: Row, library: Library, pools: Sequence[Sequence[Page]]) -> list[Place] | Fault:
    """A chunk for each passage that the row says is needed; [] where none of them is in the corpus."""
    places: list[Place] = []
    missing = ""
    for text, answer in row.passages[:_MOST_GOLD]:
        wanted = replace(row, answers=(answer,)) if answer else row
        matches = _in_pool(wanted, _within(library.sharing(text), pools), library.language)
        places += [Place(p.chunk, p.span, "quote") for p in matches[:1]]
        missing = missing or ("" if matches else text)
    if places and missing:
        return Fault("gold_not_found", f"a passage it needs is not in this corpus: {missing[:80]!r}")
    return _distinct(places)


def _by_context(row: Row, library: Library, pools: Sequence[Sequence[Page]]) -> list[Place]:
    """The sentence of the row's context that holds the answer, or the best chunk among those the context holds."""
    inside = _within(library.sharing(row.context), pools)
    sentence = _in_context(row, library.language)
    places = _by_quotes([sentence], [inside] if inside else pools or [list(library.pages.values())]) if sentence else []
    return places or [p for p in _in_pool(row, inside, library.language) if p.how in ("answer", "overlap")]


def _within(pages: Sequence[Page], pools: Sequence[Sequence[Page]]) -> Sequence[Page]:
    """The pages that are also in the documents that the row names; all, where none is."""
    named = {p.chunk.id for pool in pools for p in pool}
    return [p for p in pages if p.chunk.id in named] or pages


def _in_context(row: Row, language: str) -> str:
    """The sentence of the row's own context that holds the answer and shares most with the question."""
    question_words = content_words(row.question, language)
    spans = [s.of(row.context) for s in sentences(row.context)]
    holding = [s for s in spans if any(holds(comparable(s), a) for a in row.answers)]
    return max(holding, key=lambda s: len(content_words(s, language) & question_words), default="")


def _in_pool(row: Row, pool: Sequence[Page], language: str) -> list[Place]:
    """The chunks of one document that hold the answer: the best one, or several for an answer of many sentences."""
    question_words = content_words(row.question, language)
    answer_words = content_words(" ".join((*row.answers[:1], row.reasoning)), language)
    figures = numbers(" ".join(row.answers[:1]))
    if (
        row.answers
        and word_count(row.answers[0]) >= LONG_ANSWER
        and (places := _long_answer(row, question_words, answer_words, pool))
    ):
        return places
    if is_yes_no(row):
        # the verdict's own word is no evidence: where it is no stop word, any sentence with a "no" would do
        reasons = content_words(row.reasoning, language) - content_words(" ".join((*VERDICTS, "yes", "no")), language)
        return _verdict(question_words, reasons, pool, language)
    best: tuple[float, Place] | None = None
    for page in pool:
        holding = any(holds(page.lower, a) for a in row.answers)
        ranked = _ranked(page, question_words, answer_words)
        text = page.chunk.text
        if holding:
            ranked = [s for s in ranked if any(holds(comparable(s.of(text)), a) for a in row.answers)]
            ranked = ranked or [_widened(page, row.answers)]
        if not ranked:
            continue
        fitting = ranked
        if not holding and has_another_number(row.answers, ranked[0].of(text), language):
            # perhaps it is another sentence that has the answer's number
            fitting = [s for s in ranked if not missing_numbers(row.answers[0], s.of(text), language)[1]]
        share = len(page.words & answer_words) / max(1, len(answer_words))
        # another number is another answer, however many of its words are there
        how = "answer" if holding else "overlap" if share >= 0.5 and fitting and figures <= page.numbers else "document"
        score = 10.0 * holding + share + len(page.words & question_words) / max(1, len(question_words))
        if best is None or score > best[0] + 1e-9:
            best = score, Place(page.chunk, (fitting or ranked)[0], how)
    return [best[1]] if best else []


def _widened(page: Page, answers: Sequence[str]) -> Span:
    """The fewest neighbouring sentences that hold an answer between them; all of the chunk where even these do not."""
    text, spans = page.chunk.text, [span for span, _ in page.sentences]

    def holding(first: int, last: int) -> bool:
        plain = comparable(text[spans[first].start : spans[last].end])
        return any(holds(plain, answer) for answer in answers)

    last = next((at for at in range(len(spans)) if holding(0, at)), None)
    if last is None:
        return Span(len(text) - len(text.lstrip()), len(text.rstrip()))
    first = next(at for at in range(last, -1, -1) if holding(at, last))
    return Span(spans[first].start, spans[last].end)


def _verdict(
    question_words: frozenset[str], answer_words: frozenset[str], pool: Sequence[Page], language: str
) -> list[Place]:
    """The sentence that a "yes" or "no" rests on: a finding that shares words with the reasoning, not the aim that
    only says the question again, nor, where an abstract names its sections, how the study was done. A heading or a
    question is taken only where there is nothing else; what follows a question is read as its answer."""
    best: tuple[tuple[bool, float], Place] | None = None
    for page in pool:
        text = page.chunk.text
        heads = [(m.start(), m["name"]) for m in _SECTION.finditer(text)]
        asked: frozenset[str] = frozenset()
        for whole, all_words in page.sentences:
            span = below_heading(text, whole)
            own = all_words if span == whole else content_words(span.of(text), language)
            states = is_statement(text, span)
            own, asked = (own | asked, frozenset()) if states else (own, own)
            score = (2 * len(own & answer_words - question_words) + 0.5 * len(own & question_words)) / (
                len(own) + 5
            ) ** 0.5
            section = next((name for at, name in reversed(heads) if at <= span.start), "")
            if _AIM.search(span.of(text)):
                score *= 0.4
            if section and not _FINDINGS.search(section):
                score *= 0.4
            if best is None or (states, score) > (best[0][0], best[0][1] + 1e-9 * (states == best[0][0])):
                best = (states, score), Place(page.chunk, span, "overlap")
    return [best[1]] if best else []


def _long_answer(
    row: Row, question_words: frozenset[str], answer_words: frozenset[str], pool: Sequence[Page]
) -> list[Place]:
    """The chunks whose sentences stand in the answer, in the document's order, if together they hold half of it.

    Of each, the quote is the sentence that shares most with the question; of equals, the one the answer tells first.
    """
    answer = comparable(row.answers[0])
    matches: list[tuple[Place, frozenset[str]]] = []
    for page in pool:
        inside = [
            (-len(own & question_words), at.dest_start, span, own)
            for span, own in page.sentences
            if len(own & answer_words) >= max(4, 0.8 * len(own))
            and (at := fuzz.partial_ratio_alignment(comparable(span.of(page.chunk.text)), answer, score_cutoff=85))
        ]
        if inside:
            span = min(inside, key=lambda item: (item[0], item[1], item[2].start))[2]
            held = frozenset(w for *_, own in inside for w in own & answer_words)
            matches.append((Place(page.chunk, span, "answer"), held))
    most = sorted(matches, key=lambda item: -len(item[1]))[:_MOST_GOLD]
    together = frozenset(w for _, held in most for w in held)
    if len(together) < 0.5 * len(answer_words):
        return []
    return sorted((p for p, _ in most), key=lambda p: (p.chunk.document_id, p.chunk.ordinal))


def _by_log(row: Row, library: Library) -> list[Place] | Fault:
    """Rows of a RAG system's log: the retrieved passage that the logged answer stands on."""
    pages: dict[str, Page] = {}
    for name in row.retrieved:
        if name in library.pages:
            pages[name] = library.pages[name]
        elif ids := library.named(name):
            pages.update((p.chunk.id, p) for i in ids for p in library.by_document[i])
        elif len(flat(name)) >= 20:
            pages.update((p.chunk.id, p) for p in library.sharing(name))
    if not pages:
        return Fault("unknown_document", "what was retrieved is not in this corpus")
    places = _in_pool(row, list(pages.values()), library.language)
    places = [p for p in places if p.how in ("answer", "overlap")]
    return places or Fault("answer_not_found", f"nothing that was retrieved holds {_shown(row)}")


def _by_retrieval(row: Row, library: Library, hits: Sequence[Hit], min_score: float) -> list[Place] | Fault:
    """Rows that name no document: a hit that holds the answer, else the first hit where its score allows."""
    pages = [library.pages[h.chunk_id] for h in hits if h.chunk_id in library.pages]
    if is_yes_no(row):
        places = _in_pool(row, pages[:1], library.language) if pages and hits[0].score >= min_score else []
        return [_retrieved(p) for p in places] or Fault("gold_not_found", f"no hit scores {min_score:g} or more")
    for wanted in ("answer", "overlap"):
        for page in pages:
            if places := [p for p in _in_pool(row, [page], library.language) if p.how == wanted]:
                return [_retrieved(p) for p in places]
    if any(holds(page.lower, a) for page in library.pages.values() for a in row.answers):
        return Fault("gold_not_found", f"the answer stands in the corpus, but not in the first {len(pages)} hits")
    return Fault("answer_not_found", f"no document holds {_shown(row)}")


def _retrieved(place: Place) -> Place:
    return Place(place.chunk, place.span, "retrieval")


def _distinct(places: Sequence[Place]) -> list[Place]:
    """One place a chunk, the first; in order."""
    return list({p.chunk.id: p for p in reversed(places)}.values())[::-1]


def supported_part(answer: str, places: Sequence[Place], *, max_words: int, language: str = "en") -> str:
    """The sentences of a long answer that the gold chunks hold, in order, up to `max_words`; "" where there is none.

    A model that is trained to say more than its passages hold is trained to make things up.
    """
    evidence = " ".join(p.chunk.text for p in places)
    have, figures = content_words(evidence, language), numbers(evidence)
    kept: list[str] = []
    for span in sentences(answer):
        sentence = flat(span.of(answer))
        own = content_words(sentence, language)
        if own and len(own & have) >= 0.8 * len(own) and numbers(sentence) <= figures:
            if sum(word_count(s) for s in kept) + word_count(sentence) > max_words:
                break
            kept.append(sentence)
    return ("" if is_unspaced(answer) else " ").join(kept)


def in_the_passages_words(answer: str, places: Sequence[Place]) -> str:
    """A number or date as the gold chunks write it, "1,234.50" for 1234.5; any other answer as it is."""
    if not is_value(answer):
        return answer
    texts = {p.chunk.text: comparable(p.chunk.text) for p in places}
    if any(f" {answer} " in f" {plain} " for plain in texts.values()):
        return answer
    for text, plain in texts.items():
        match = held_as(plain, answer)
        if match and (located := locate_quote(match, text) or locate_quote(match.replace(" ", ""), text)):
            return flat(located.of(text))
    return answer


def is_yes_no(row: Row) -> bool:
    """Whether the answer is a verdict and not words to be looked for."""
    return bool(row.answers) and row.answers[0].lower().strip(" .。") in YES_NO


def _shown(row: Row) -> str:
    return repr(row.answers[0][:80]) if row.answers else "an answer"


def _ranked(page: Page, question_words: frozenset[str], answer_words: frozenset[str]) -> list[Span]:
    """Sentences of a chunk, those first that share most with the question, and twice so with what the answer adds."""

    def score(item: tuple[Span, frozenset[str]]) -> tuple[float, int]:
        span, own = item
        return (
            -(len(own & question_words) + 2 * len(own & answer_words - question_words)) / (len(own) + 5) ** 0.5,
            span.start,
        )

    return [span for span, _ in sorted(page.sentences, key=score)]

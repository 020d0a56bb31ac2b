"""Chooses what to ask about: chunks of prose, and in each the sentences that can carry a question.

A good statement stands on its own (no "this", no "as follows"), is a whole sentence and says one thing. The choice is
seeded, spread evenly over documents, and stable: a changed document moves only its own chunks. Knows no teacher.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from data.memo import memoise
from data.nouns import Chunk, ItemCache, digest
from data.questions.shapes import shape
from data.questions.wording import content_words, flat
from data.text.alike import MARKS
from data.text.quotes import Span, sentences
from data.text.unspaced import is_unspaced, word_count

_VERSION = "statements-2"  # of what `statements` finds; the cache keeps it by text


@dataclass(frozen=True)
class Statement:
    """A sentence of a chunk that a question can be asked about.

    Attributes:
        text: on one line. span: its place in the chunk's text. score: higher is better to ask about.
        kind: which shape it has and so what can be asked: definition, condition, reason, duty, action, general.
        answer: the words of `text` that a question should ask for; "" for general statements.
    """

    text: str
    span: Span
    kind: str
    answer: str
    score: float


@dataclass(frozen=True)
class Candidate:
    """One question to ask: a chunk, the statement it is to be about, and its number within the chunk (0-based).

    `kind` is what a capable teacher is asked for; a comparison has a second chunk, its `partner`.
    """

    chunk: Chunk
    statement: Statement
    number: int
    kind: str = "factoid"
    partner: Chunk | None = None

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        return (self.chunk,) if self.partner is None else (self.chunk, self.partner)


_NEEDS_CONTEXT = re.compile(
    r"(It|Its|This|That|These|Those|They|Their|He|She|We|Here|There|Such|However|Otherwise|Therefore|Thus|Hence|Also|"
    r"Then|Note|See|Changed|New|Added|Deprecated|Removed|Similarly?|Likewise|Instead|Again|Finally|Conversely|Moreover|"
    r"But|And|Or|So|Yet|For example|For instance|In this|In that|In these|In such|In particular|In addition|In other|"
    r"In the former|In the latter|If so|If not|If this|If it|When this|When it|As such|As a result|One|Both|Another|"
    r"Each of these|All of these|The following|The above|The latter|The former|The same|The other|The second|The next|"
    r"The previous|The rest|Notice|Please|Remember|I|My|Your|Details|(?:Additional|Further|More|Other) "
    r"(?:information|details|documentation|explanations?)|No[.,]|Yes[.,])(?!\w)",
)
_POINTS_ELSEWHERE = re.compile(
    r"\b(as follows|following|follows|aforementioned|(?<!\w )above|below|see (?:also|section|the)|example|e\.g\.|"
    r"this (?:section|chapter|document|page|manual|table|example|case|behaviou?r)|the (?:former|latter)|"
    r"previous (?:section|chapter)|in (?:the )?[\w -]{0,40}(?:sections?|chapters?|documentation))(?!\w)",
    re.IGNORECASE,
)
_CODE = re.compile(r"::=|\|\s*\||>>>|=>|->|[{}]|==|\|\||&&|;\s*$|</|\w\(\w+=|\s=\s|\[\d+\]")


_NEEDS_CONTEXT_ELSEWHERE = re.compile(
    "[它他她这那此其该]|以上|上述|但|因此|然而|另外|此外|同时|所以|例如|如下|これ|それ|あれ|この|その|また|しかし|ただし|なお|例えば"
    r"|(?:Er|Sie|Es|Dies|Diese[rsmn]?|Dabei|Dadurch|Damit|Danach|Dazu|Deshalb|Daher|Außerdem|Jedoch|Hierzu|Il|Elle|Ils"
    r"|Elles|Cela|Ceci|Cette|Cependant|Toutefois|Ello|Ella|Este|Esta|Esto|Además|Он|Она|Оно|Они|Это|Этот|Эта|Также"
    r"|Однако|Поэтому)\b"
)
_WHOLE = re.compile(r"[.!。！｡।॥۔։።។။][\"'”’)*`」』）]*$|[\u0e01-\u0e4e\u0e81-\u0ecd]$")  # Thai and Lao write no stop


def statements(text: str, *, title: str = "") -> list[Statement]:
    """The askable sentences of a chunk, best first (ties: first in the text)."""
    about = content_words(title)
    found = []
    for span in sentences(text):
        sentence = flat(span.of(text))
        if (score := _score(sentence, about)) is not None:
            found.append(Statement(sentence, span, *shape(sentence), score))
    return sorted(found, key=lambda s: (-s.score, s.span.start))


def _score(sentence: str, about: frozenset[str]) -> float | None:
    """How well a sentence can be asked about; None where it cannot."""
    unspaced = is_unspaced(sentence)
    count = word_count(sentence) if unspaced else len(sentence.split())
    if not (5 if unspaced else 6) <= count <= 40 or not _WHOLE.search(sentence):
        return None
    if not re.match(r"[\"“*`'‘(「『《]?[\w_]", sentence) or sentence[0].islower():
        return None
    if _NEEDS_CONTEXT.match(sentence) or _POINTS_ELSEWHERE.search(sentence) or _CODE.search(sentence):
        return None
    if not sentence.isascii() and _NEEDS_CONTEXT_ELSEWHERE.match(sentence):
        return None
    plain = sum(c.isalpha() or c.isspace() or c in MARKS for c in sentence)
    if plain < 0.8 * len(sentence) or sentence.count('"') % 2:
        return None
    own = content_words(sentence)
    if len(own) < 4:
        return None
    score = 0.0 if shape(sentence)[0] == "general" else 2.0
    score += 1.0 if (5 if unspaced else 8) <= count <= 28 else 0.0
    score += 1.0 if re.search(r"[\"“*`(]\w|\d|\s[A-Z][a-z]", sentence) else 0.0
    score += 1.0 if own & about else 0.0
    score -= 1.0 if re.search(r"\b(this|these|those|it|they|them|its|their|such)\b", sentence, re.IGNORECASE) else 0.0
    if re.match(r"[A-Z][a-z]+ (a|an|the)\b", sentence) and not re.match(
        r"(Only|Even|Like|Unlike|Within|In|On|At|By|From|To|With|For|As|When|If) ", sentence
    ):
        score -= 3.0  # an order without a subject: "Return an iterator over the keys."
    return score


def _statements_of(chunks: Sequence[Chunk], cache: ItemCache | None) -> Iterator[tuple[Chunk, list[Statement]]]:
    def rows(key: str) -> list[tuple[str, int, int, str, str, float]]:
        title, text = key.split("\0", 1)
        found = statements(text, title=title)
        return [(s.text, s.span.start, s.span.end, s.kind, s.answer, s.score) for s in found]

    keys = [f"{c.title.replace(chr(0), ' ')}\0{c.text}" for c in chunks]
    for chunk, found in zip(chunks, memoise(cache, _VERSION, keys, rows), strict=True):
        yield chunk, [Statement(text, Span(start, end), *rest) for text, start, end, *rest in found]


def choose(
    chunks: Sequence[Chunk],
    *,
    max_questions: int | None,
    questions_per_chunk: int,
    seed: int,
    shaped: bool = False,
    cache: ItemCache | None = None,
) -> list[Candidate]:
    """The questions to ask, in asking order: every document's best chunk before any document's second.

    Args:
        max_questions: at most; None for all.
        shaped: only statements whose shape says which words of them answer.
        cache: keeps the statements of each text.

    A statement that stands in several chunks (or several times in one) is asked about once, in the chunk of lowest id.
    """
    seen: set[str] = set()
    by_document: dict[str, list[list[Candidate]]] = {}
    in_order = sorted(chunks, key=lambda c: (c.document_id, c.ordinal, c.id))
    for chunk, found in _statements_of(in_order, cache):
        own: list[Candidate] = []
        for statement in found:
            if (
                statement.score >= (2.0 if shaped else 1.0)
                and (statement.answer or not shaped)
                and statement.text.lower() not in seen
                and len(own) < questions_per_chunk
            ):
                seen.add(statement.text.lower())
                own.append(Candidate(chunk, statement, len(own)))
        if own:
            by_document.setdefault(chunk.document_id, []).append(own)
    ranked: list[tuple[tuple[int, int, str], Candidate]] = []
    for document_id, lists in by_document.items():
        lists.sort(
            key=lambda own: (-min(own[0].statement.score, 4.0), digest(str(seed), own[0].chunk.sha256), own[0].chunk.id)
        )
        place = digest(str(seed), document_id)
        ranked += [((c.number, rank, place), c) for rank, own in enumerate(lists) for c in own]
    ranked.sort(key=lambda item: item[0])
    return [c for _, c in ranked[:max_questions]]

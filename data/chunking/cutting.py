"""Where a document is cut: at its headings first, then inside sections by a token budget.

Knows spans of offsets only; `data.chunking.chunks` adds ids, pages and heading paths.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from unicodedata import east_asian_width

from semantic_text_splitter import MarkdownSplitter, TextSplitter
from tokenizers import Tokenizer

from data.chunking.loose_marks import hide_loose_marks, show_loose_marks
from data.nouns import Document
from data.text.alike import MARKS

_LONG_LINE = 8000
"""Characters of a line without a break above which it is cut before it is split: the splitter's cost grows with the
square of text that has no boundaries."""
_SENTENCE_END = re.compile(r"[.!?;。！？；]['\")\]」』”’]?\s*|\s+")

_WRAPPED_FROM = 45
"""Width of a line from which its end may be a wrap, in Latin letters; a Chinese character is as wide as two."""
_LINE_ENDS = (".", "!", "?", ":", ";", "。", "！", "？", "：", "；", "|", "」", "』")
_STARTS_BLOCK = re.compile(r"[-*+•>|#=~`]|\.\. |\(?(?:\d{1,3}|[a-zA-Z])[.)]\s")

Span = tuple[int, int]
SizedSpan = tuple[int, int, int]
"""Start, end, tokens."""


@dataclass(frozen=True)
class ChunkOptions:
    """How to cut.

    Attributes:
        max_tokens: most tokens of a chunk, special tokens not counted.
        overlap_tokens: most tokens that neighbouring chunks of one section share.
        min_tokens: smaller chunks are joined to a neighbour where both fit; 0 joins none.
        max_chars: most characters of a chunk, for text that the tokenizer counts as one unknown token; None = 16 times
            `max_tokens`.
        max_context_tokens: most tokens of a chunk in the tokenizer of the model that will read it, where one is given.
    """

    max_tokens: int = 128
    overlap_tokens: int = 0
    min_tokens: int = 16
    max_chars: int | None = None
    max_context_tokens: int | None = None

    @property
    def char_limit(self) -> int:
        return self.max_chars or 16 * self.max_tokens


def is_markdown(document: Document) -> bool:
    return document.media_type == "text/markdown" or document.metadata.get("markup") == "markdown"


@dataclass(frozen=True)
class Budget:
    """Most tokens of a chunk in one tokenizer, whose truncation and padding are off."""

    tokenizer: Tokenizer
    max_tokens: int

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, special tokens not counted."""
        encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [len(encoding.ids) for encoding in encodings]


class Cutter:
    """The budgets of a chunk, the first of them the embedder's, with the splitters made for them."""

    def __init__(self, budgets: Sequence[Budget], options: ChunkOptions) -> None:
        self.budgets, self.options = budgets, options
        self._splitters = [
            {
                markdown: kind.from_huggingface_tokenizer(
                    budget.tokenizer, budget.max_tokens, min(options.overlap_tokens, budget.max_tokens // 2)
                )
                for markdown, kind in ((False, TextSplitter), (True, MarkdownSplitter))
            }
            for budget in budgets
        ]
        self._counting = [
            {
                markdown: kind.from_callback(
                    _counter(budget), budget.max_tokens, min(options.overlap_tokens, budget.max_tokens // 2)
                )
                for markdown, kind in ((False, TextSplitter), (True, MarkdownSplitter))
            }
            for budget in budgets
        ]
        """Splitters of texts with hidden marks, which count the tokens of the text as it stands."""

    def cut(self, document: Document) -> list[SizedSpan]:
        """(start, end, tokens) of the document's chunks, in order."""
        text, markdown = document.text, is_markdown(document)
        headings = [(start, level) for start, level, _ in document.headings if 0 <= start < len(text)]
        top = _dividing_level(headings)
        sections = [
            self._section(text, start, end, inner, markdown)
            for start, end, inner in _divide(0, len(text), headings, lambda level: level <= top)
        ]
        pieces = self._join_small(text, sections)
        sizes = self._count(text, pieces)
        return [(start, end, size) for (start, end), size in zip(pieces, sizes, strict=True)]

    def _count(self, text: str, spans: Sequence[Span]) -> list[int]:
        return self.budgets[0].count([text[start:end] for start, end in spans])

    def _over(self, text: str, spans: Sequence[Span]) -> list[bool]:
        """For each span, whether it breaks a budget."""
        over = [end - start > self.options.char_limit for start, end in spans]
        for budget in self.budgets:
            places = [number for number, is_over in enumerate(over) if not is_over]
            sizes = budget.count([text[spans[number][0] : spans[number][1]] for number in places])
            for number, size in zip(places, sizes, strict=True):
                over[number] = size > budget.max_tokens
        return over

    def _fits(self, text: str, span: Span) -> bool:
        return not self._over(text, [span])[0]

    def _section(
        self, text: str, start: int, end: int, headings: Sequence[tuple[int, int]], markdown: bool
    ) -> list[Span]:
        """Spans of one section: whole where it fits, else its subsections, as many together as fit."""
        trimmed = _trim(text, start, end)
        if trimmed is None:
            return []
        if self._fits(text, trimmed):
            return [trimmed]
        if not headings:
            return self._split(text, start, end, markdown)
        highest = min(level for _, level in headings)
        spans: list[Span] = []
        for first, last, inner in _divide(start, end, headings, lambda level: level == highest):
            own = self._section(text, first, last, inner, markdown)
            # a subsection of one chunk joins the chunk before it where both fit
            if spans and len(own) == 1 and self._fits(text, (spans[-1][0], own[0][1])):
                spans[-1] = (spans[-1][0], own[0][1])
            else:
                spans += own
        return spans

    def _split(self, text: str, start: int, end: int, markdown: bool) -> list[Span]:
        """Spans of a text without headings, as the splitters cut it; line ends inside sentences count as spaces."""
        lines = soft_lines(text[start:end])
        soft = hide_loose_marks(lines)
        kinds = self._splitters if soft == lines else self._counting
        spans = [(start, end)]
        for budget, splitters in zip(self.budgets, kinds, strict=True):
            whole = spans if budget is not self.budgets[0] else []  # a span may fit this budget already
            sizes = budget.count([text[first:last] for first, last in whole])
            fitting = {span for span, size in zip(whole, sizes, strict=True) if size <= budget.max_tokens}
            parts: list[Span] = []
            for span in spans:
                if span in fitting:
                    parts.append(span)
                    continue
                for first, last in _cut_long_lines(text, *span):
                    for offset, piece in splitters[markdown].chunk_indices(soft[first - start : last - start]):
                        if part := _trim(text, first + offset, first + offset + len(piece)):
                            parts.append(part)
            spans = parts
        over = self._over(text, spans)
        return [
            part
            for span, halve in zip(spans, over, strict=True)
            for part in (self._halve(text, span) if halve else [span])
        ]

    def _halve(self, text: str, span: Span) -> list[Span]:
        """The last guard of the budget: cuts what is still too long (many characters, few tokens) in the middle."""
        pending, whole = [span], []
        while pending:
            start, end = pending.pop()
            if end - start <= 1 or self._fits(text, (start, end)):
                whole.append((start, end))
                continue
            middle = _middle(text, start, end)
            pending += [part for part in (_trim(text, middle, end), _trim(text, start, middle)) if part]
        return whole

    def _join_small(self, text: str, sections: Sequence[Sequence[Span]]) -> list[Span]:
        """Joins chunks under `min_tokens` to a neighbour: in their section or, where they are all of it, beyond it."""
        units = [self._join(text, section) for section in sections if section]
        flat: list[Span] = []
        smallest = self.options.min_tokens
        carry: Span | None = None  # a tiny section waits for the next one
        for section in units:
            if carry is not None:
                both = (carry[0], section[0][1])
                if self._fits(text, both):
                    section = [both, *section[1:]]
                else:
                    flat.append(carry)
                carry = None
            if len(section) == 1 and smallest and self._count(text, section)[0] < smallest:
                carry = section[0]
            else:
                flat += section
        if carry is not None:
            if flat and self._fits(text, (flat[-1][0], carry[1])):
                flat[-1] = (flat[-1][0], carry[1])
            else:
                flat.append(carry)
        return flat

    def _join(self, text: str, section: Sequence[Span]) -> list[Span]:
        smallest = self.options.min_tokens
        spans: list[Span] = []
        sizes = self._count(text, section)
        waiting = False  # the last span is small and may take in the next one
        for span, size in zip(section, sizes, strict=True):
            if spans and (waiting or size < smallest) and self._fits(text, (spans[-1][0], span[1])):
                spans[-1] = (spans[-1][0], span[1])
                waiting = self._count(text, spans[-1:])[0] < smallest
            else:
                spans.append(span)
                waiting = size < smallest
        return spans


def _counter(budget: Budget) -> Callable[[str], int]:
    return lambda text: budget.count([show_loose_marks(text)])[0]


def _middle(text: str, start: int, end: int) -> int:
    """Where a text is halved: near its middle, behind a full stop that no space follows, else at a space, else where
    no mark is parted from its letter."""
    middle, least = (start + end) // 2, start + (end - start) // 4
    stops = [match.end() for match in _UNSPACED_STOP.finditer(text, least, end - 1)]
    if stops and (best := min(stops, key=lambda at: abs(at - middle))) <= end - (end - start) // 4:
        return best
    space = text.rfind(" ", start + 1, middle)
    if space > least:
        return space
    while middle < end - 1 and text[middle] in _MARKS:
        middle += 1
    return middle


_UNSPACED_STOP = re.compile("[。！？\u104b\u17d4][”’」』）》]*")
_MARKS = frozenset(MARKS)


def soft_lines(text: str) -> str:
    """The text with the line ends of wrapped paragraphs as spaces; its length stays.

    Splitters take a line end for a better boundary than a sentence's end, and would cut wrapped prose mid-sentence.
    """
    lines = text.split("\n")
    joints = []
    fenced = False
    for line, after in pairwise([*lines, ""]):
        fenced ^= line.lstrip().startswith(("```", "~~~"))
        joints.append(" " if not fenced and _runs_on(line, after) else "\n")
    return "".join(line + joint for line, joint in zip(lines, joints, strict=True))[: len(text)]


def _runs_on(line: str, after: str) -> bool:
    words, following = line.rstrip(), after.lstrip()
    if _width(words) < _WRAPPED_FROM or not following or words.endswith(_LINE_ENDS) or _STARTS_BLOCK.match(following):
        return False
    return len(line) - len(line.lstrip()) == len(after) - len(following) and not words.lstrip().startswith(("#", "|"))


def _width(line: str) -> int:
    return len(line) if line.isascii() else sum(1 + (east_asian_width(c) in "WF") for c in line)


def _divide(
    start: int, end: int, headings: Sequence[tuple[int, int]], cuts_at: Callable[[int], bool]
) -> Iterator[tuple[int, int, Sequence[tuple[int, int]]]]:
    """The span cut at the headings whose level `cuts_at`: (start, end, headings inside, the first one left out)."""
    first, position = 0, start
    for number, (place, level) in enumerate(headings):
        if cuts_at(level) and place > position:
            yield position, place, headings[first:number]
            first, position = number + 1, place
        elif cuts_at(level):  # the section begins with this heading
            first = number + 1
    yield position, end, headings[first:]


def _dividing_level(headings: Sequence[tuple[int, int]]) -> int:
    """The highest level with two headings or more (a lone title divides nothing); 0 without any."""
    levels = sorted(level for _, level in headings)
    return next((a for a, b in pairwise(levels) if a == b), 0)


def _trim(text: str, start: int, end: int) -> Span | None:
    """The span without the white space at its ends, None when nothing is left."""
    words = text[start:end]
    stripped = words.strip()
    if not stripped:
        return None
    first = start + len(words) - len(words.lstrip())
    return first, first + len(stripped)


def _cut_long_lines(text: str, start: int, end: int) -> Iterator[Span]:
    """The span in pieces with no line longer than `_LONG_LINE`; cut at sentence ends or spaces where there are any."""
    first = position = start
    while end - position > _LONG_LINE:
        newline = text.rfind("\n", position, position + _LONG_LINE)
        if newline >= position:
            position = newline + 1
            continue
        window = text[position : position + _LONG_LINE]
        ends = [match.end() for match in _SENTENCE_END.finditer(window, _LONG_LINE // 2)]
        position += ends[-1] if ends else _LONG_LINE
        yield first, position
        first = position
    if first < end:
        yield first, end

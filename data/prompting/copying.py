"""Keeps quotes word for word while a model writes: inside the marks only a passage's own next words may follow.

Works on the bytes of tokens, so all it needs from a tokenizer is what each id stands for. The model still chooses which
words to quote; it can no longer quote words that no passage has, or put the wrong number beside them. Where some
passages are preferred to others, that counts beside the model's likelihood until the place is chosen. Knows no model:
before each token, generation asks it which ids may come next, and what is added to their logits.

Each passage has a weight, and each place where a quote may begin has that of its passage. A token's logit is raised by
the log of the mean weight of the places that are still possible after it; only differences between tokens count. So
places that begin alike share what they get until they part, however their words are cut into tokens, and once one
passage is left nothing is added any more. For a model to which all places are alike this is the product of both
exactly: a place is drawn in proportion to its weight (`tests/data/prompting/test_preferences.py`). It is a mean and no
sum: that a word stands in many places is in the model's own likelihood, and equal weights must add nothing.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

from data.prompting.contract import NUMBER_BEFORE, PromptTemplate, closing

LONGEST = 24  # bytes of a token that are looked up; longer ones are runs of spaces or lines
ROUNDING = 1e-9  # log weights that differ by less are the same
STRADDLE = 4  # bytes of a passage that a token may hold before the closing mark, such as the dot of `.”`


class TokenBytes:
    """Token ids by the bytes they stand for."""

    def __init__(self, tokens: Sequence[bytes | None]) -> None:
        """`tokens[id]` is what an id writes; None for special tokens, which stand in no quote."""
        self.tokens = tokens
        pairs = sorted((token, i) for i, token in enumerate(tokens) if token)
        self._sorted = [token for token, _ in pairs]
        self._ids = [i for _, i in pairs]
        self._exact: dict[bytes, list[int]] = {}
        for token, i in pairs:
            self._exact.setdefault(token, []).append(i)

    def text(self, ids: Sequence[int]) -> bytes:
        """What ids write one after the other."""
        return b"".join(self.tokens[i] or b"" for i in ids if i < len(self.tokens))

    def beginning(self, target: bytes, longer_than: int = 0) -> Iterator[int]:
        """Ids whose bytes are the first of `target`, and more than `longer_than` of them."""
        for size in range(longer_than + 1, min(len(target), LONGEST) + 1):
            yield from self._exact.get(target[:size], ())

    def going_beyond(self, target: bytes) -> list[int]:
        """Ids whose bytes begin with the whole of `target`."""
        low = bisect.bisect_left(self._sorted, target)
        high = bisect.bisect_left(self._sorted, target + b"\xff" * LONGEST)
        return self._ids[low:high]


class QuoteCopier:
    """What may follow in the reply to one prompt.

    Example:
        >>> copier = QuoteCopier(TokenBytes(tokenizer.token_bytes()), template, passages)
        >>> copier.allowed([])             # None: any token
        >>> copier.allowed(ids_so_far)     # inside a quote: ids that continue a passage, or close the quote
    """

    def __init__(
        self,
        vocabulary: TokenBytes,
        template: PromptTemplate,
        passages: Sequence[str],
        preference: Sequence[float] = (),
    ) -> None:
        """`preference` holds the natural log of each passage's weight, finite; without it the model alone chooses."""
        if preference and len(preference) != len(passages):
            raise ValueError(f"{len(preference)} preferences for {len(passages)} passages")
        self._preference = preference if len(set(preference)) > 1 else ()
        self._vocabulary = vocabulary
        self._begin, self._end = template.begin_quote.encode(), template.end_quote.encode()
        self._answer = template.answer_marker.encode()
        self._citation = template.citation
        self._passages = [p.encode() for p in passages]

    def allowed(self, ids: Sequence[int]) -> list[int] | dict[int, float] | None:
        """Ids that may follow `ids`, the reply so far; None for any.

        None, too, in the final answer, and once a quote has left the passages, since no further token can mend it.
        Where passages are preferred and the ids lead to different ones: with what is added to the logit of each, at
        most 0.
        """
        rest, before = self._vocabulary.text(ids), b""
        if self._answer in rest:
            return None
        while True:
            head, mark, rest = rest.partition(self._begin)
            if not mark:
                return None
            before += head
            stop = self._closed(rest)
            if stop < 0:
                quote = rest
                break
            quote, after = rest[:stop], rest[stop + len(self._end) :]
            if self._begin not in after:
                return self._weighed(self._number(quote, after)) if self._citation == "after" else None
            rest = after
        within = self._quotable(before)
        if not quote:
            return self._weighed(self._first_words(within))
        return self._weighed(choice for n in within for choice in self._next(n, quote))

    def _closed(self, rest: bytes) -> int:
        """Where the mark stands that closes the quote at the beginning of `rest`; -1 while it is still being written.

        A mark that belongs to a quote inside the passage closes only that inner quote.
        """
        balanced = closing(rest, 0, self._begin, self._end)
        stop = rest.find(self._end)
        while stop >= 0:
            after = stop + len(self._end)
            if stop == balanced or not any(rest[:after] in passage for passage in self._passages):
                return stop
            stop = rest.find(self._end, after)
        return -1

    def _quotable(self, before: bytes) -> tuple[int, ...]:
        """The passages that may be quoted: the one whose number stands before the quote, or all."""
        every = tuple(range(len(self._passages)))
        if self._citation != "before":
            return every
        number = NUMBER_BEFORE.search(before.decode(errors="replace"))
        return tuple(n for n in every if number and n + 1 == int(number["number"])) or every

    def _weighed(self, choices: Iterable[tuple[int, int]]) -> list[int] | dict[int, float] | None:
        """What `allowed` says of pairs of an id and the passage of a place to which it leads."""
        if not self._preference:
            return sorted({i for i, _ in choices}) or None
        passages: dict[int, Counter[int]] = {}
        for i, n in choices:
            passages.setdefault(i, Counter())[n] += 1
        weights = {i: self._mean_weight(passages[i]) for i in sorted(passages)}
        most = max(weights.values(), default=0.0)
        if all(most - weight < ROUNDING for weight in weights.values()):
            return list(weights) or None
        return {i: weight - most for i, weight in weights.items()}

    def _mean_weight(self, places: Mapping[int, int]) -> float:
        """The log of the mean weight of places: passage -> how many of them lie in it."""
        most = max(self._preference[n] for n in places)
        total = sum(count * math.exp(self._preference[n] - most) for n, count in places.items())
        return most + math.log(total / sum(places.values()))

    def _first_words(self, within: tuple[int, ...]) -> Iterator[tuple[int, int]]:
        """Ids with which a quote may begin, each with its passage: at the beginning of a word."""
        for n in within:
            passage = self._passages[n]
            for at in filter(partial(self._may_begin, passage), range(len(passage))):
                yield from ((i, n) for i in self._vocabulary.beginning(passage[at : at + LONGEST]))

    def _next(self, n: int, quote: bytes) -> Iterator[tuple[int, int]]:
        """Ids that continue a quote as passage n does, or close it where a word ends; one of each for each place."""
        passage = self._passages[n]
        for at in self._after_each(passage, quote):
            yield from ((i, n) for i in {*self._continuing(passage, at)})
        for size in range(1, len(self._end)):  # the closing mark is half written
            if quote.endswith(self._end[:size]) and quote[:-size].strip() and quote[:-size] in passage:
                yield from ((i, n) for i in self._vocabulary.beginning(self._end[size:]))
                yield from ((i, n) for i in self._vocabulary.going_beyond(self._end[size:]))

    def _continuing(self, passage: bytes, at: int) -> Iterator[int]:
        """Ids that go on with a passage from `at`, or close the quote there or a few bytes further on."""
        yield from self._vocabulary.beginning(passage[at : at + LONGEST])
        for more in range(STRADDLE + 1):
            if at + more <= len(passage) and _between_words(passage, at + more):
                target = passage[at : at + more] + self._end
                yield from self._vocabulary.beginning(target, longer_than=more)
                yield from self._vocabulary.going_beyond(target)

    def _after_each(self, passage: bytes, quote: bytes) -> Iterator[int]:
        """Where each occurrence of the quote ends."""
        at = passage.find(quote)
        while at >= 0:
            if self._may_begin(passage, at):
                yield at + len(quote)
            at = passage.find(quote, at + 1)

    def _may_begin(self, passage: bytes, at: int) -> bool:
        """Whether a quote may begin here: with a word or a sign, and not with what would close it."""
        blank = passage[at : at + 1].isspace() or passage.startswith(self._end, at)
        return not blank and _between_words(passage, at)

    def _number(self, quote: bytes, after: bytes) -> Iterator[tuple[int, int]]:
        """Ids that write the number of a passage in which the closed quote stands, each with that passage."""
        for n, passage in enumerate(self._passages):
            target = f" [{n + 1}]".encode()
            if quote in passage and target.startswith(after) and len(after) < len(target):
                yield from ((i, n) for i in self._vocabulary.beginning(target[len(after) :]))
                yield from ((i, n) for i in self._vocabulary.going_beyond(target[len(after) :]))


def _between_words(passage: bytes, at: int) -> bool:
    """Whether a quote may begin or end here: not inside a character, nor between two ASCII letters or digits."""
    if at in (0, len(passage)):
        return True
    before, after = passage[at - 1 : at], passage[at : at + 1]
    return not 0x80 <= after[0] < 0xC0 and not (before.isalnum() and after.isalnum())

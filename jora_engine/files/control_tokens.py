"""Control tokens in the words of users: found in a text, and cut so that they are read as the letters they are.

A passage on chat formats holds `<|im_end|>` as a word. A tokenizer takes it for the end of a turn, unless no token may
reach over the cut that is made behind its first letter. Knows no tokenizer but the list of its added tokens.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tokenizers

_MARK_UP = re.compile(r"[<\[{\uff5c\u25c1].*[>\]}\uff5c\u25b7]", re.DOTALL)


@dataclass(frozen=True)
class ControlTokens:
    """The control tokens of a tokenizer.

    Attributes:
        special: those that it calls special.
        marks: added tokens in brackets (`<think>`, `<tool_call>`): a template or an answer may be meant to write them.
    """

    special: tuple[str, ...]
    marks: tuple[str, ...]

    @classmethod
    def of(cls, backend: tokenizers.Tokenizer) -> ControlTokens:
        """Read from the tokenizer's added tokens; single letters cannot be cut and are left out."""
        added = [token for token in backend.get_added_tokens_decoder().values() if len(token.content) > 1]
        special = tuple(token.content for token in added if token.special)
        marks = tuple(t.content for t in added if not t.special and _MARK_UP.fullmatch(t.content.strip()))
        return cls(special, marks)

    def parts(self, text: str, shown: str | None = None) -> list[str]:
        """The text in parts, cut inside every control token in it.

        Args:
            shown: where given, `text` is an answer to it: marks count only if they stand there, since an answer may be
                meant to open a think block of its own.
        """
        pattern = self._pattern
        if shown is not None and pattern and pattern.search(text):
            pattern = _any_of((*self.special, *(mark for mark in self.marks if mark in shown)))
        parts = []
        while match := pattern and pattern.search(text):
            cut = match.start() + 1
            parts.append(text[:cut])
            text = text[cut:]
        return [*parts, text]

    def marked(self, messages: Sequence[Mapping[str, str]], beside: str = "") -> tuple[list[dict[str, str]], str]:
        """The messages with a mark wherever a content must be cut, and the mark: a letter that is new."""
        words = "".join([beside, *(str(value) for message in messages for value in message.values())])
        mark = next(letter for letter in map(chr, range(0xE000, 0xF8FF)) if letter not in words)
        return [
            {
                name: mark.join(self.parts(value)) if name == "content" and isinstance(value, str) else value
                for name, value in message.items()
            }
            for message in messages
        ], mark

    @functools.cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        return _any_of((*self.special, *self.marks))


def _any_of(names: Sequence[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(re.escape, names))) if names else None

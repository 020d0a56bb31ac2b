"""Which sentences of a text say something: headings and questions do not, and are no evidence of anything."""

from __future__ import annotations

import re

from data.text.quotes import Span

_HASHES = re.compile(r"(?:#{1,6}[ \t][^\n]*\n\s*)+(?=\S)")
_HEADING = re.compile(r"#{1,6}[ \t].*|\*\*[^*\n]+\*\*|__[^_\n]+__|<h[1-6]\b.*")
_RULE = re.compile(r"[ \t]*\n[ \t]*(?:=|-|~|\^){3,}[ \t]*(?:\n|$)")  # the line under a heading
_QUESTION = re.compile(r"(?:[?？؟]|か[。.]?|[吗嗎][。.]?)[\"'”’»)\]*_`\s]*$")


def below_heading(text: str, span: Span) -> Span:
    """A sentence without the heading that stands right above it, on a line of its own."""
    heading = _HASHES.match(text, span.start, span.end)
    return Span(heading.end(), span.end) if heading else span


def is_statement(text: str, span: Span) -> bool:
    """Whether a sentence says something: whether it is neither a heading nor a question."""
    sentence = span.of(text)
    return not (_HEADING.fullmatch(sentence) or _RULE.match(text, span.end) or _QUESTION.search(sentence))

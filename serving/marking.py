"""A text cut at the ends of the quotes in it, so that a page can mark them: quotes may overlap, nest and touch.

The segments joined are the text. Offsets never reach a browser, which counts other units than Python does.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from data.text.quotes import Span, locate_quote


def marked(text: str, quotes: Mapping[int, str]) -> list[dict[str, Any]]:
    """Segments of the text in its order, each with the numbers of the quotes that it is part of.

    Args:
        quotes: number -> words. Those that do not stand in the text word for word (white space and look-alike
            characters may differ) mark nothing.
    """
    spans = {number: span for number, words in quotes.items() if (span := _span(words, text))}
    ends = sorted({0, len(text), *(end for span in spans.values() for end in span)})
    return [
        {
            "text": text[start:end],
            "quotes": sorted(number for number, span in spans.items() if span.start <= start and end <= span.end),
        }
        for start, end in itertools.pairwise(ends)
    ]


def _span(words: str, text: str) -> Span | None:
    place = locate_quote(words, text, min_score=100.0)
    return None if place is None or place.how == "repaired" else Span(place.start, place.end)

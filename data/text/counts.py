"""Numbers with their nouns: "1 chunk", "2 chunks"."""

from __future__ import annotations


def counted(number: float, noun: str, plural: str = "") -> str:
    """A number and what it counts; the plural is the noun with an s, unless it is given."""
    shown = f"{number:g}" if isinstance(number, float) else number
    return f"{shown} {noun if number == 1 else plural or noun + 's'}"

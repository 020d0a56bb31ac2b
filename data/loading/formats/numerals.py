"""Numbers of list items as letters and Roman numerals."""

from __future__ import annotations

_ROMAN = ((1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l"), (40, "xl"), (10, "x"),
          (9, "ix"), (5, "v"), (4, "iv"), (1, "i"))  # fmt: skip


def numeral(number: int, style: str) -> str:
    """A number above 0 as HTML's list types write it: `a`, `A`, `i` and `I`, any other style in digits."""
    if style in ("a", "A"):
        written = _letters(number)
    elif style in ("i", "I") and number < 4000:
        written = _roman(number)
    else:
        return str(number)
    return written.upper() if style.isupper() else written


def _letters(number: int) -> str:
    letters = ""
    while number > 0:
        number, place = divmod(number - 1, 26)
        letters = chr(ord("a") + place) + letters
    return letters


def _roman(number: int) -> str:
    digits = ""
    for worth, digit in _ROMAN:
        digits += digit * (number // worth)
        number %= worth
    return digits

"""The value of a cell as a sheet shows it: dates in ISO form, percentages, currencies and units beside their number.

Digits are the value's own, up to the 15 that spreadsheets keep: a format that rounds for the eye does not round here.
"""

from __future__ import annotations

import math
import re
from datetime import date, datetime, time, timedelta
from typing import Any

_SECTION = re.compile(r"(?:\"[^\"]*\"|\\.|\[[^\]]*\]|[^;\"\\\[])*")
_TOKEN = re.compile(
    r"\"([^\"]*)\"|\\(.)|\[\$([^\]-]*)[^\]]*\]|\[[^\]]*\]|_.|\*.|(General|[0#?][0#?,.]*)|(.)", re.IGNORECASE
)
_GROUPS = re.compile(r"0+(?:[- /.]0+)+")
_HALF_SECOND = timedelta(milliseconds=500)


def shown_value(value: Any, number_format: str = "General") -> str:
    """One line for the value of a cell."""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int | float):
        return _number(value, number_format)
    if isinstance(value, datetime):
        return _datetime(value, has_time="h" in _bare_format(number_format).lower())
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, time):
        return value.strftime("%H:%M:%S" if value.second else "%H:%M")
    if isinstance(value, timedelta):
        seconds = round(value.total_seconds())
        sign, seconds = ("-" if seconds < 0 else ""), abs(seconds)
        return f"{sign}{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return str(value).strip()


def plain_number(value: float) -> str:
    """A number without a `.0` that nobody wrote, and without the noise of binary fractions."""
    if isinstance(value, int):
        return str(value)
    if math.isfinite(value) and value == int(value) and abs(value) < 1e15:
        return str(int(value))
    shown = format(value, ".15g")
    return shown if "e" not in shown or not 1e-9 < abs(value) < 1 else format(value, ".15f").rstrip("0")


def _datetime(value: datetime, *, has_time: bool) -> str:
    if value.tzinfo is not None:
        return value.isoformat(" ", "seconds")
    value = (value + _HALF_SECOND).replace(microsecond=0) if value.microsecond and value.year < 9999 else value
    if not has_time and (value.hour, value.minute, value.second) == (0, 0, 0):
        return value.date().isoformat()
    return value.strftime("%Y-%m-%d %H:%M:%S" if value.second else "%Y-%m-%d %H:%M")


def _bare_format(number_format: str) -> str:
    return re.sub(r"\"[^\"]*\"|\[\$[^\]]*\]|\\.", "", number_format or "")


def _number(value: float, number_format: str) -> str:
    sections = [section for section in _SECTION.findall(number_format or "General") if section] or ["General"]
    first, number, last = _parts(sections[0])
    if value < 0 and len(sections) > 1:
        below = _parts(sections[1])
        if any(char.isalpha() for char in below[0] + below[2]) and (below[0], below[2]) != (first, last):
            return f"{below[0]}{_digits(-value, below[1], '%' in below[2])}{below[2]}".strip()
    if not number:
        return plain_number(value)
    sign = "-" if value < 0 else ""
    return f"{sign}{first}{_digits(abs(value), number, '%' in first + last)}{last}".strip()


def _digits(value: float, pattern: str, percent: bool) -> str:
    if re.fullmatch(r"0{2,}", pattern) and value == int(value):
        return str(int(value)).zfill(len(pattern))
    if _GROUPS.fullmatch(pattern) and "." not in pattern and value == int(value):
        digits = iter(str(int(value)).zfill(pattern.count("0")))
        if len(str(int(value))) <= pattern.count("0"):
            return "".join(next(digits) if char == "0" else char for char in pattern)
    scale = len(pattern) - len(pattern.rstrip(","))  # each comma behind the digits is a thousand
    if percent:
        value *= 100
    return plain_number(float(format(value / 1000**scale, ".15g")) if percent or scale else value)


def _parts(section: str) -> tuple[str, str, str]:
    """What stands before the digits, their pattern, and what stands behind; no pattern is an unknown one."""
    bare = re.sub(r"\"([^\"]*)\"|\\(.)", lambda match: match[1] if match[1] is not None else match[2], section)
    if _GROUPS.fullmatch(bare) and "." not in bare:
        return "", bare, ""
    before, pattern, behind = "", "", ""
    for match in _TOKEN.finditer(section):
        quoted, escaped, currency, digits, other = match.groups()
        if digits:
            if pattern and pattern != digits:
                return "", "", ""  # fractions, exponents, phone numbers: the plain number says it
            pattern = digits
            continue
        words = quoted or escaped or currency or other or ""
        if other and other.upper() in "E/@":
            return "", "", ""
        if other in ("(", ")", "-", "+"):
            continue
        if pattern:
            behind += words
        else:
            before += words
    return before, pattern, behind

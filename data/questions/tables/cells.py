"""What a cell of a question table says: texts, numbers, dates and booleans, and lists written into one cell.

Tables come from spreadsheets, pandas, `datasets` and databases, each with its own way to write a list or a missing
value. Everything becomes texts, as they would stand in a document. Knows no columns.
"""

from __future__ import annotations

import ast
import datetime
import io
import json
import math
import re
import tokenize
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

_MISSING = frozenset({"", "nan", "NaN", "NaT", "<NA>"})
_INNER = ("text", "value", "answer", "contexts", "sentences", "content", "paragraph_text", "page_content", "spans")
# as Python, SQL, JSON and the spreadsheets of several countries write them
_TRUE = frozenset(
    {"true", "t", "yes", "y", "1", "1.0", "x", "wahr", "ja", "vrai", "oui", "verdadero", "sí", "si", "vero"}
    | {"verdadeiro", "sim", "waar", "истина", "да", "是", "真"}
)
_FALSE = frozenset(
    {"false", "f", "no", "n", "0", "0.0", "-", "falsch", "nein", "faux", "non", "falso", "não", "nao"}
    | {"onwaar", "nee", "ложь", "нет", "否", "假"}
)


_MIDNIGHT = re.compile(r"(?<=^\d{4}-\d\d-\d\d)[T ]00:00:00(?:\.0+)?(?:Z|[+-]00:?00)?$")  # a day that became a time


def is_missing(value: Any) -> bool:
    """Whether a cell says nothing: None, an empty text or list, what pandas writes for no value."""
    if isinstance(value, str):
        return value.strip() in _MISSING
    if isinstance(value, float | Decimal):
        return math.isnan(value)
    if hasattr(value, "__len__"):
        return len(value) == 0
    return value is None or str(value) in _MISSING


def texts(value: Any) -> list[str]:
    """The texts in whatever a cell holds: a text, a number, a date, a list, SQuAD's {"text": [...]}, an array."""
    if is_missing(value):
        return []
    if isinstance(value, str):
        parsed = written(value)
        plain = _MIDNIGHT.sub("", str(value))
        return [plain] if parsed is None or _is_literal(parsed) else texts(parsed)
    if isinstance(value, Mapping):
        inner = next((value[name] for name in _INNER if name in value), None)
        return [*texts(inner), *texts(value.get("aliases"))]
    if (scalar := _plain(value)) is not None:
        return [scalar]
    if isinstance(value, Iterable):
        return [text for item in value for text in texts(item)]
    return [str(value)]


def _is_literal(parsed: Any) -> bool:
    """Whether what a text writes out is its meaning: `[1, 2, 3]` and `{"port": 80}` are answers about code or data."""
    if isinstance(parsed, Mapping):
        return not any(name in parsed for name in _INNER)
    return len(parsed) > 1 and all(isinstance(item, int | float) and not is_missing(item) for item in parsed)


def _plain(value: Any) -> str | None:
    """A single value as it would stand in a document; None for what holds several."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float | Decimal):
        return number(value)
    if isinstance(value, datetime.datetime):
        midnight = value.time() == datetime.time()
        return value.date().isoformat() if midnight else value.isoformat(" ", "auto").removesuffix(":00")
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, datetime.time):
        return value.isoformat("auto").removesuffix(":00") if value.second == 0 else value.isoformat()
    if isinstance(value, bytes | bytearray):
        return value.decode("utf-8", "replace")
    if not isinstance(value, Iterable) and hasattr(value, "item"):  # a scalar of numpy
        return _plain(value.item())
    return None


def number(value: float | Decimal) -> str:
    """A number in plain digits: a whole one that a table made a float is whole again, no power of ten."""
    if isinstance(value, int) or not math.isfinite(value):
        return str(value)
    if isinstance(value, Decimal):
        return format(value, "f")
    return str(int(value)) if value.is_integer() and abs(value) < 1e16 else format(Decimal(repr(value)), "f")


def truth(value: Any) -> bool | None:
    """What a cell says that is to be true or false; None where it says nothing.

    Raises:
        ValueError: it says something else.
    """
    if is_missing(value):
        return None
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in ("none", "null"):
        return None
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise ValueError(str(value))


def written(cell: str) -> Any:
    """The list or mapping that a text writes out, as JSON, Python or numpy do; None where it is a plain text."""
    cell = cell.strip()
    if (cell[:1], cell[-1:]) not in (("[", "]"), ("{", "}")) and not cell.startswith(("array(", "('", '("')):
        return None
    try:
        return json.loads(cell)
    except RecursionError:  # nested beyond all use: a plain text
        return None
    except ValueError:
        pass
    try:
        reader = _Reader(cell)
        value = reader.value()
        return value if reader.at_end() else None
    except (SyntaxError, ValueError, IndexError, tokenize.TokenError):
        return None


_NAMES = {"None": None, "nan": None, "NaN": None, "null": None, "NaT": None, "True": True, "False": False}
_CLOSING = {"[": "]", "(": ")", "{": "}"}


class _Reader:
    """Reads Python's lists and mappings, and numpy's, which leave the commas out."""

    def __init__(self, cell: str) -> None:
        skipped = (tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
        self._tokens = [t for t in tokenize.generate_tokens(io.StringIO(cell).readline) if t.type not in skipped]
        self._at = 0

    def at_end(self) -> bool:
        return self._at == len(self._tokens)

    def value(self) -> Any:
        token = self._tokens[self._at]
        self._at += 1
        if token.type in (tokenize.STRING, tokenize.NUMBER):
            return ast.literal_eval(token.string)
        if token.string == "-":
            return -self.value()
        if token.string == "array" and self._takes("("):  # array(['a', 'b'], dtype=object)
            inner = self.value()
            while not self._takes(")"):
                self._at += 1
            return inner
        if token.type == tokenize.NAME:
            return _NAMES[token.string] if token.string in _NAMES else self._refuse()
        closing = _CLOSING.get(token.string) or self._refuse()
        items: list[Any] = []
        pairs: dict[Any, Any] = {}
        while not self._takes(closing):
            item = self.value()
            if closing == "}" and self._takes(":"):
                pairs[item] = self.value()
            else:
                items.append(item)
            self._takes(",")
        return pairs or items

    def _takes(self, string: str) -> bool:
        taken = self._tokens[self._at].string == string
        self._at += taken
        return taken

    def _refuse(self) -> Any:
        raise ValueError("not a literal")

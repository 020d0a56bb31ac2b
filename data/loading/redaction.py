"""Personal data and secrets out of text, by patterns: a first net, not a promise.

Matches are replaced by their kind in square brackets before offsets are taken, and counted. Card and IBAN numbers must
pass their check digits.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from raft_errors import BadInput


def _luhn(number: str) -> bool:
    digits = [int(char) for char in number if char.isdigit()]
    doubled = [digit * 2 - 9 * (digit > 4) for digit in digits[-2::-2]]
    return 13 <= len(digits) <= 19 and (sum(doubled) + sum(digits[-1::-2])) % 10 == 0


def _iban(number: str) -> bool:
    compact = re.sub(r"\s", "", number).upper()
    return 15 <= len(compact) <= 34 and int("".join(str(int(char, 36)) for char in compact[4:] + compact[:4])) % 97 == 1


def _phone(number: str) -> bool:
    return 9 <= sum(char.isdigit() for char in number) <= 15


PATTERNS: dict[str, tuple[re.Pattern[str], Callable[[str], bool] | None]] = {
    "secret": (
        re.compile(
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]{1,10000}?-----END [A-Z ]*PRIVATE KEY-----"
            r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36,}\b|\bgithub_pat_\w{40,}\b|\bhf_[A-Za-z0-9]{30,}\b"
            r"|\bxox[abprs]-[A-Za-z0-9-]{10,}|\bAIza[\w-]{35}\b|\bsk-[A-Za-z0-9_-]{20,}"
            r"|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"
        ),
        None,
    ),
    "email": (re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}"), None),
    "iban": (re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"), _iban),
    "card": (re.compile(r"(?<![\d.])\d(?:[ -]?\d){12,18}(?![\d.])"), _luhn),
    "phone": (
        re.compile(r"(?<![\w.])(?<!\d[ -])(?:\+|00|\(0|0|\(\d{3}\) ?)\d?(?:[ ()/.-]{0,2}\d){7,13}(?![\w])"),
        _phone,
    ),
}
"""Kinds in the order in which they are looked for."""


def check_redaction(kinds: Sequence[str], patterns: Sequence[str]) -> None:
    """Refuses unknown kinds and patterns that do not compile.

    Raises:
        BadInput: naming the kind or pattern.
    """
    for kind in kinds:
        if kind not in PATTERNS:
            raise BadInput(f"redact: {kind!r} is not known", expected=f"some of {', '.join(PATTERNS)}", do="correct it")
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise BadInput(
                f"redact_patterns: {pattern!r} does not compile ({error})",
                expected="a Python regular expression",
                do="correct it",
            ) from error


def redact(text: str, kinds: Sequence[str], patterns: Sequence[str]) -> tuple[str, dict[str, int]]:
    """The text with matches replaced by `[kind]` (own patterns by `[redacted]`), and how many of each."""
    counts: dict[str, int] = {}
    return _replaced(text, kinds, patterns, lambda kind, match: f"[{kind}]", counts), counts


def redact_name(name: str, kinds: Sequence[str], patterns: Sequence[str]) -> str:
    """A name (path, row id) with matches replaced by `[kind-hash]`, so that different names stay different.

    Each part of a path is looked at by itself, and the suffix of a file, which tells its format, is kept.
    """
    if not kinds and not patterns:
        return name

    def part(text: str) -> str:
        suffix = PurePosixPath(text).suffix
        stem = text.removesuffix(suffix)
        clean = _replaced(stem, kinds, patterns, _pseudonym, {})
        return _replaced(text, kinds, patterns, _pseudonym, {}) if clean == stem else clean + suffix

    return "/".join(part(text) for text in name.split("/"))


def redact_value(value: Any, kinds: Sequence[str], patterns: Sequence[str], counts: dict[str, int]) -> Any:
    """A JSON value with matches replaced in its texts, its keys and its numbers; `counts` is added to."""

    def clean(text: str) -> str:
        return _replaced(text, kinds, patterns, lambda kind, match: f"[{kind}]", counts)

    if isinstance(value, str):
        return clean(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        text = clean(str(value))
        return value if text == str(value) else text
    if isinstance(value, Mapping):
        return {clean(str(key)): redact_value(entry, kinds, patterns, counts) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [redact_value(entry, kinds, patterns, counts) for entry in value]
    return value


def _pseudonym(kind: str, match: str) -> str:
    return f"[{kind}-{hashlib.blake2b(match.encode('utf-8', 'surrogatepass'), digest_size=4).hexdigest()}]"


def _replaced(
    text: str,
    kinds: Sequence[str],
    patterns: Sequence[str],
    word: Callable[[str, str], str],
    counts: dict[str, int],
) -> str:
    def replacer(kind: str, check: Callable[[str], bool] | None) -> Callable[[re.Match[str]], str]:
        def replace(found: re.Match[str]) -> str:
            if not found.group() or (check is not None and not check(found.group())):
                return found.group()
            counts[kind] = counts.get(kind, 0) + 1
            return word(kind, found.group())

        return replace

    for kind, (pattern, check) in PATTERNS.items():
        if kind in kinds:
            text = pattern.sub(replacer(kind, check), text)
    for own in patterns:
        text = re.sub(own, replacer("redacted", None), text)
    return text

"""Checks that every frozen configuration makes of its own values, and reading one from keys that a person wrote."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from raft_errors import BadInput

C = TypeVar("C")


def whole(value: object) -> bool:
    """Whether a value is a whole number (which True is not)."""
    return isinstance(value, int) and not isinstance(value, bool)


def number(value: object) -> bool:
    """Whether a value is a number (which True is not)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def require(ok: bool, name: str, value: object, expected: str) -> None:
    """Raises `BadInput` that names the field, unless `ok`."""
    if not ok:
        raise BadInput(f"{name} is {value!r}", expected=expected, do=f"correct {name}")


def from_keys(cls: type[C], values: Mapping[str, Any], aliases: Mapping[str, str]) -> C:
    """A configuration from its keys, or their aliases.

    Raises:
        BadInput: an unknown key, with the nearest known one; a key given twice; a value that does not fit.
    """
    known: list[str] = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    out: dict[str, Any] = {}
    for key, value in values.items():
        name = aliases.get(key, key)
        if name not in known:
            near = difflib.get_close_matches(key, [*known, *aliases], n=1)
            hint = f"did you mean {near[0]}?" if near else "known keys: " + ", ".join(known)
            raise BadInput(f"unknown key {key!r} in {cls.__name__}", expected="a known key", do=hint)
        if name in out:
            raise BadInput(f"{name} is given twice in {cls.__name__}", expected="one of the two names", do="drop one")
        out[name] = value
    try:
        return cls(**out)
    except TypeError as error:
        raise BadInput(f"a value in {cls.__name__} has the wrong type ({error})", do="correct its type") from error

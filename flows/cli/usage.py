"""What is wrong with the arguments of a command, as an error of ours: in the user's words, and as JSON where that was
asked for."""

from __future__ import annotations

import re
from typing import Any

from raft_errors import BadInput

_TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false", "path": "a path"}
_LIMITS = {
    "greater_than_equal": ("ge", "at least"),
    "less_than_equal": ("le", "at most"),
    "greater_than": ("gt", "above"),
    "less_than": ("lt", "below"),
}


def usage_error(error: Any) -> BadInput:
    """An error of typer's about arguments, as bad input that names the verb's own help.

    Args:
        error: typer's `ClickException`, under whatever name its release has it.
    """
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "raft"
    see = f"see `{command} --help`"
    cause = error.__cause__  # pydantic's, which typer reads arguments with
    if (param := getattr(error, "param", None)) is not None and hasattr(cause, "errors"):
        detail = cause.errors()[0]
        name = max(getattr(param, "opts", None) or [param.name], key=len)
        return BadInput(f"{name} is {str(detail['input'])!r}", expected=_expected(detail), do=see)
    words = error.format_message().rstrip(".")
    words = re.sub(r"^Got unexpected extra arguments?(?:\(s\))? \((.*)\)$", r"\1 is one argument too many", words)
    what, meant, near = words.partition(". Did you mean ")
    return BadInput(what, expected=near.rstrip("?") if meant else "", do=see)


def _expected(detail: dict[str, Any]) -> str:
    """What pydantic would have taken, in words."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _LIMITS:
        name, words = _LIMITS[kind]
        return f"a number {words} {context[name]}"
    first = kind.partition("_")[0]
    _, one_of, choices = detail["msg"].partition(" is not one of ")
    return _TYPES.get(first) or context.get("expected") or (f"one of {choices}" if one_of else detail["msg"])

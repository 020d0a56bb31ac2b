"""What stands in front of a text for the program that publishes it: YAML, TOML or JSON with the title and more."""

from __future__ import annotations

import datetime
import json
import re
import tomllib
from typing import Any

_FENCED = re.compile(
    r"\A(?:---(?P<kind>yaml|toml|json)?[ \t]*\n(?P<dashes>.*?)\n(?:---|\.\.\.)|\+\+\+[ \t]*\n(?P<pluses>.*?)\n\+\+\+"
    r"|;;;[ \t]*\n(?P<json>.*?)\n;;;)[ \t]*(?:\n|\Z)",
    re.DOTALL,
)
_EMPTY = re.compile(r"\A(?:---|\+\+\+)[ \t]*\n(?:---|\+\+\+)[ \t]*\n")
_TITLE = re.compile(r"^title:[ \t]*[\"']?(.+?)[\"']?[ \t]*$", re.MULTILINE | re.IGNORECASE)
_LONGEST = 100_000
"""Characters up to which front matter is parsed."""


def split_front_matter(text: str) -> tuple[str, str]:
    """The title that front matter states, and the text behind it; the whole text where it has none."""
    text = text.lstrip("\ufeff")
    if text.startswith("{"):
        return _split_json(text)
    if empty := _EMPTY.match(text):
        return "", text[empty.end() :]
    block = _FENCED.match(text)
    if not block:
        return "", text
    kind = block["kind"] or ("toml" if block["pluses"] is not None else "json" if block["json"] is not None else "yaml")
    source = next(part for part in (block["dashes"], block["pluses"], block["json"]) if part is not None)
    values = _values(source, kind) if len(source) <= _LONGEST else None
    if values is None:  # damaged; what looks like it in every line is it all the same
        if kind == "yaml" and not all(re.match(r"\s|[\w-]+[ \t]*:|#|-|$", line) for line in source.split("\n")):
            return "", text  # words between two rules
        title = _TITLE.search(source)
        return (title[1] if title else ""), text[block.end() :]
    return _title(values), text[block.end() :]


def _split_json(text: str) -> tuple[str, str]:
    try:
        values, end = json.JSONDecoder().raw_decode(text[:_LONGEST])
    except (ValueError, RecursionError):
        return "", text
    rest = text[end:]
    if not isinstance(values, dict) or not rest.lstrip(" \t").startswith("\n"):
        return "", text
    return _title(values), rest.lstrip()


def _values(source: str, kind: str) -> dict[str, Any] | None:
    """The fields; None where the block does not parse, or is a text between rules and no fields."""
    import yaml

    try:
        if kind == "toml":
            return tomllib.loads(source)
        if kind == "json":
            value = json.loads(source if source.lstrip().startswith("{") else f"{{{source}}}")
        else:
            value = yaml.safe_load(source)
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _title(values: dict[str, Any]) -> str:
    title = next((value for key, value in values.items() if str(key).lower() == "title"), "")
    return (
        str(title).strip()
        if isinstance(title, str | int | float | datetime.date) and not isinstance(title, bool)
        else ""
    )

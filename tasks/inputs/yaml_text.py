"""YAML as a person writes it: plain values, and an error where a key stands twice, which YAML itself lets pass."""

from __future__ import annotations

from typing import Any

import yaml


class NoYaml(ValueError):
    """The text is no YAML, or says a thing twice; the message tells the line."""


_WORDS = (
    ("expected ',' or", "a bracket is not closed, or a comma is missing"),
    ("expected the node content", "a bracket is not closed, or a value is missing"),
    ("unexpected end of stream", "a quotation mark is not closed"),
    ("mapping values are not allowed", "a colon stands where none may (put the text in quotation marks)"),
    ("could not find expected ':'", "a key without a colon stands above"),
    ("expected <block end>", "this does not fit the lines above; see how far they are indented"),
    ("character '\\t' that cannot start", "a tab stands where only spaces may"),
    ("cannot start any token", "a value that begins so wants quotation marks"),
)
"""What the parser says, by a part of it, and what that means to whoever wrote the file."""


def parse_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        NoYaml: it cannot be read, or a key stands twice in one mapping.
    """
    try:
        root = yaml.compose(text, yaml.SafeLoader)
        if root is not None and (twice := _twice(root)):
            raise NoYaml(f"the key {twice[0]} stands twice, in line {twice[1]} and in line {twice[2]}")
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        theirs = str(error.problem or error.context)
        raise NoYaml(where + next((ours for part, ours in _WORDS if part in theirs), theirs)) from error
    except yaml.YAMLError as error:
        raise NoYaml(" ".join(str(error).split())) from error


def _twice(root: yaml.Node) -> tuple[str, int, int] | None:
    """The dotted path of the first key that stands twice, and its two lines, counted from 1."""
    queue: list[tuple[str, yaml.Node]] = [("", root)]
    seen: set[int] = set()  # an alias leads to a node that was met, or back to itself
    while queue:
        prefix, node = queue.pop(0)
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            queue += [(f"{prefix}{number}.", item) for number, item in enumerate(node.value, 1)]
        if not isinstance(node, yaml.MappingNode):
            continue
        lines: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            queue.append((f"{prefix}{key.value}.", value))
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            name, line = (key.tag, key.value), key.start_mark.line + 1
            if name in lines:
                return f"{prefix}{key.value}", lines[name], line
            lines[name] = line
    return None

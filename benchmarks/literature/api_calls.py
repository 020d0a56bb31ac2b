"""Whether an answer calls the API that was asked for, as Gorilla's evaluation of Torch Hub decides it.

The public script (ShishirPatil/gorilla, `gorilla/eval/eval-scripts/ast_eval_th.py`, commit 98977e1d8a25) goes through
the descriptions in their order and takes the first whose function the answer calls, if the values of its arguments
`repo_or_dir` and `model` stand in the text of that call; the answer is right where that API's domain is the domain of
the question's own. So `ast_match` counts any API of the domain: 77 of the 94 are of one, "Classification". `gold_call`
asks for the question's own API: the same function, repository and model, by keyword or by place.

The script reads code with tree-sitter, this with Python's `ast`, one argument at a time, since seven of the calls have
a positional argument behind a keyword, which is no Python. Two differences make ours the stricter one: brackets that
nothing closes are no call, and a call of another function never matches (the script goes on with whichever call came
last).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NAME = re.compile(r"[A-Za-z_][\w.]*(?=\()")
BRACKETS = {"(": ")", "[": "]", "{": "}"}
REPOSITORY, MODEL = ("repo_or_dir", 0), ("model", 1)


@dataclass(frozen=True)
class Call:
    """A call as it stands in a text.

    Attributes:
        name: of the function, with dots. text: from the name to the closing bracket.
        sources: the arguments as they are written.
        arguments: keyword, or place among the positional ones from 0 -> value; what is no literal, as it is written.
    """

    name: str
    text: str
    sources: tuple[str, ...]
    arguments: Mapping[str | int, Any]


@dataclass(frozen=True)
class Api:
    """An API of the corpus, and what its call has to say so that an answer calls it."""

    domain: str
    call: Call

    @property
    def values(self) -> tuple[str, ...]:
        """The values of the arguments that name repository or model, without their quotation marks."""
        named = [source for source in self.call.sources if "repo_or_dir" in source or "model" in source]
        return tuple(source.partition("=")[2].strip().strip("'\"") for source in named if "=" in source)


def read_apis(rows: Sequence[Mapping[str, Any]]) -> list[Api]:
    """The APIs of a corpus by their places in it; ValueError for a description without a call."""
    apis = []
    for row in rows:
        calls = calls_in(row["api_call"])
        if not calls:
            raise ValueError(f"{row['id']}: {row['api_call']!r} is no call")
        apis.append(Api(row["domain"], calls[0]))
    return apis


def calls_in(text: str) -> list[Call]:
    """Every call in a text that closes its brackets, those inside others too, by where they begin."""
    calls = []
    for match in NAME.finditer(text):
        pieces, end = _pieces(text, match.end() + 1)
        if end >= 0:
            sources = tuple(piece.strip() for piece in pieces if piece.strip())
            calls.append(Call(match[0], text[match.start() : end + 1], sources, _arguments(sources)))
    return calls


def called_api(answer: str, apis: Sequence[Api]) -> int | None:
    """Place of the first API that an answer calls, None if it calls none of them."""
    by_name = {call.name: call for call in calls_in(answered_call(answer))}  # of several the last, as in the script
    for place, api in enumerate(apis):
        call = by_name.get(api.call.name)
        if call and api.values and all(value in call.text for value in api.values):
            return place
    return None


def calls_gold(answer: str, gold: Api) -> bool:
    """Whether an answer calls this very API: the last call of its function has the same repository and model."""
    own = [call for call in calls_in(answered_call(answer)) if call.name == gold.call.name]
    return bool(own) and _target(own[-1]) == _target(gold.call)


def answered_call(answer: str) -> str:
    """What an answer in Gorilla's form has under `api_call`; any other answer as it is."""
    _, mark, rest = answer.partition("api_call")
    return rest.partition("api_provider")[0] if mark else answer


def _target(call: Call) -> tuple[Any, Any]:
    repository, model = (
        next((call.arguments[key] for key in keys if key in call.arguments), None) for keys in (REPOSITORY, MODEL)
    )
    return repository, model


def _pieces(text: str, begin: int) -> tuple[list[str], int]:
    """The arguments behind an opening bracket, and where it is closed; -1 if it is not."""
    pieces: list[str] = []
    open_ones, quote, start, at = [")"], "", begin, begin
    while at < len(text):
        mark = text[at]
        if quote:
            at += mark == "\\"
            quote = "" if mark == quote else quote
        elif mark in "'\"":
            quote = mark
        elif mark in BRACKETS:
            open_ones.append(BRACKETS[mark])
        elif mark == open_ones[-1]:
            open_ones.pop()
            if not open_ones:
                return [*pieces, text[start:at]], at
        elif mark == "," and len(open_ones) == 1:
            pieces.append(text[start:at])
            start = at + 1
        at += 1
    return pieces, -1


def _arguments(sources: Sequence[str]) -> dict[str | int, Any]:
    arguments: dict[str | int, Any] = {}
    places = 0
    for source in sources:
        try:
            call = ast.parse(f"_({source})", mode="eval").body
        except (SyntaxError, ValueError, RecursionError):  # ValueError: null bytes
            call = None
        if isinstance(call, ast.Call) and len(call.keywords) == 1 and call.keywords[0].arg:
            arguments[call.keywords[0].arg] = _value(call.keywords[0].value)
            continue
        if isinstance(call, ast.Call) and len(call.args) == 1:
            arguments[places] = _value(call.args[0])
        places += 1
    return arguments


def _value(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError):
        return ast.unparse(node)

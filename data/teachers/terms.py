"""How an endpoint wants to be asked: which of our parameters it takes, learnt from what it refuses.

A refused parameter is left out (or said in another way) from then on. Knows no HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from data.teachers.protocol import Messages
from data.teachers.replies import Problem

PARAMETERS = {
    "response_format": r"response[_ ]format|json[_ ](?:schema|mode|object)|structured[_ ]output|grammar",
    "seed": r"\bseed\b",
    "temperature": r"\btemperature\b",
    "max_tokens": r"\bmax_tokens\b",
    "stop": r"['\"`\[({]stop['\"`\])}]|\bstop[_ ](?:sequences?|words?|strings?|parameter|tokens?)\b"
    r"|(?:parameters?|arguments?|fields?|property|keys?|model):? stop\b|^stop\b",
    "system": r"\bsystem[_ ](?:role|message|prompt|instruction)|\brole\w*\W.{0,30}\bsystem\b|['\"`]system['\"`]"
    r"|roles must alternate|developer (?:role|message|instruction)",
}
"""What may be refused, in the order in which it is given up where the endpoint names nothing; by which words it is
named. `max_tokens` is not given up but said as `max_completion_tokens`, the system message as part of the user's."""

_NAMES = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in PARAMETERS.items()}
INSTEAD = {
    "max_tokens": "max_completion_tokens in its place",
    "system": "the system message put before the user's",
}


class Terms:
    """What one endpoint takes: `refused` is left out of every further request, `proven` has been taken before."""

    def __init__(self) -> None:
        self.refused: set[str] = set()
        self.proven: set[str] = set()
        self.accepted = False  # whether anything was ever taken
        self._fruitless: set[str] = set()

    def in_use(self, messages: Messages, settings: Mapping[str, Any], without: Collection[str] = ()) -> set[str]:
        """The parameters that a request has and that may be refused."""
        own = {name for name in PARAMETERS if settings.get(name) is not None}
        own |= {"system"} if any(message["role"] == "system" for message in messages) else set()
        return own - self.refused - set(without)

    def unproven(self, messages: Messages, settings: Mapping[str, Any]) -> bool:
        """Whether the endpoint has yet to be seen taking such a request."""
        return not self.accepted or not self.in_use(messages, settings) <= self.proven

    def request(self, messages: Messages, settings: Mapping[str, Any], without: Collection[str] = ()) -> dict[str, Any]:
        """The request's fields, without what the endpoint refuses."""
        left_out = self.refused | set(without)
        fields = {name: value for name, value in settings.items() if value is not None and name not in left_out}
        if "max_tokens" in left_out and settings.get("max_tokens") is not None:
            fields["max_completion_tokens"] = settings["max_tokens"]
        return {"messages": _without_system(messages) if "system" in left_out else messages, **fields}

    def blamed(self, problem: Problem, in_use: Collection[str]) -> str:
        """The parameter to ask without, "" where the problem lies elsewhere.

        It is the one that the endpoint names. Where it names none, those that it has never taken are given up in turn.
        What did not help against the same words before is not tried again.
        """
        if _form(problem) in self._fruitless:
            return ""
        own = [name for name in PARAMETERS if name in in_use]
        field = next((name for name in own if re.search(rf"(?:^|[.\[]){name}\b", problem.parameter)), "")
        if field:
            return field
        text = f"{problem.parameter} {problem.words}".strip()
        places = {name: match.start() for name in own if (match := _NAMES[name].search(text))}
        if places:
            return min(places, key=lambda name: places[name])
        return next((name for name in own if name not in self.proven and name != "system"), "")

    def learn(self, in_use: Collection[str], without: Collection[str]) -> set[str]:
        """Remembers what was taken and what had to be left out; returns what of the latter is new."""
        new = set(without) - self.refused
        self.accepted = True
        self.proven |= set(in_use)
        self.refused |= new
        return new

    def give_up(self, problems: Iterable[Problem]) -> None:
        """No other form of the request helped against these."""
        self._fruitless |= {_form(problem) for problem in problems}


def _form(problem: Problem) -> str:
    """The problem without its figures, which differ from prompt to prompt."""
    return f"{problem.status} {re.sub(r'[0-9]+', '0', problem.words)}"


def _without_system(messages: Messages) -> Messages:
    """The system messages as the beginning of the user message that follows."""
    merged: Messages = []
    before: list[str] = []
    for message in messages:
        if message["role"] == "system":
            before.append(message["content"])
        elif message["role"] == "user" and before:
            merged.append({**message, "content": "\n\n".join([*before, message["content"]])})
            before = []
        else:
            merged.append(message)
    return merged

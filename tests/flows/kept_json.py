"""The keys that `raft ... --json` prints and later releases keep, by the form of the command.

A form is a verb, with the option that makes it print something else: `records`, `records --show`. Whoever reads a reply
in a test passes it through `checked`, so that each verb's keys are held wherever it is run.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

KEPT: Mapping[str, Sequence[str]] = json.loads(
    (Path(__file__).resolve().parents[1] / "fixtures" / "kept_names.json").read_text()
)["json"]
OTHER_FORMS = ("--engine", "--devices", "--dry-run", "--show", "--diff", "--preview", "--dropped", "--check", "--data")


def form_of(arguments: Sequence[str]) -> str:
    """The verb, or two words of one, and the option that decides what is printed."""
    verb = " ".join(arguments[:2]) if tuple(arguments[:2]) == ("evaluate", "retrieval") else arguments[0]
    option = next((word for word in arguments if word in OTHER_FORMS), "")
    return f"{verb} {'--engine' if option == '--devices' else option}".strip()


def keys(value: Any) -> set[str]:
    """The keys of an object and of the objects in its lists, as `stages.key`."""
    names: set[str] = set()
    for row in value if isinstance(value, list) else [value]:
        if isinstance(row, Mapping):
            for name, inner in row.items():
                names |= {str(name)}
                if isinstance(inner, list):
                    names |= {f"{name}.{key}" for key in keys(inner)}
    return names


def lost(arguments: Sequence[str], reply: Mapping[str, Any]) -> list[str]:
    """The kept keys that a reply lacks. A list without rows, or of plain values, says nothing of its rows' keys."""
    there = keys(reply)
    wanted = KEPT.get(form_of(arguments), ())
    return [
        key
        for key in wanted
        if key not in there and not ("." in key and not any(k.startswith(f"{_list(key)}.") for k in there))
    ]


def checked(arguments: Sequence[str], reply: dict[str, Any]) -> dict[str, Any]:
    """The reply, if it holds every key that is kept, or tells of an error."""
    if "error" not in reply:
        gone = lost(arguments, reply)
        assert not gone, f"raft {form_of(arguments)} --json no longer prints {', '.join(gone)}"
    return reply


def _list(key: str) -> str:
    return key.rpartition(".")[0]

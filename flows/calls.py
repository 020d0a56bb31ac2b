"""Which calls a flow makes and what each reads, told by the flow's own lines without running any of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flows.pipeline import pipeline
from raft_errors import BadInput
from tasks.build.stage import Stage

Flow = Callable[[Any, Any], object]
"""A function `(make, corpus)` whose body is the stage calls, as `flows.pipeline.pipeline`."""


@dataclass(frozen=True)
class Call:
    """One line of a flow: a stage, its name there, and whose result each of its parameters is given."""

    name: str
    stage: Stage
    inputs: Mapping[str, str]


@dataclass(frozen=True)
class _Result:
    """Stands for what a call gives; only its name is known."""

    call: str


def calls_of(flow: Flow, *, adapted: bool = True) -> tuple[Call, ...]:
    """The calls in their order.

    Args:
        adapted: False leaves out what only some configurations ask for (`Stage.wanted`).

    Raises:
        ValueError: two calls of one name, or a name that is none.
    """
    calls: dict[str, Call] = {}

    def note(stage: Stage, /, *inputs: _Result, name: str = "", **optional: _Result) -> _Result | None:
        if stage.wanted is not None and not adapted:
            return None
        name = name or stage.name
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise ValueError(f"{flow.__name__}: a call cannot be named {name!r}, only with small letters, digits and _")
        if name in calls:
            raise ValueError(f"{flow.__name__} calls {name} twice: give one of the calls another name=")
        calls[name] = Call(name, stage, {role: given.call for role, given in stage.bind(*inputs, **optional).items()})
        return _Result(name)

    flow(note, _Result("corpus"))
    return tuple(calls.values())


CALLS = calls_of(pipeline)
NAMES = tuple(call.name for call in CALLS)
STAGES = {call.stage.name: call.stage for call in CALLS}


def calls_to(name: str) -> tuple[Call, ...]:
    """The pipeline's calls up to and including `name`."""
    if name not in NAMES:
        raise BadInput(f"There is no stage {name!r}", expected=f"one of {', '.join(NAMES)}")
    return CALLS[: NAMES.index(name) + 1]

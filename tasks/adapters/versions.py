"""The values of the registry: an adapter's versions, their states, the pointer and the history; and how they change.

Plain values and pure functions; `tasks.adapters.registry` keeps them in a file.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from raft_errors import BadInput
from tasks.store.manifest import Link

State = Literal["candidate", "promoted", "retired"]
Action = Literal["registered", "promoted", "rolled back", "retired", "tested"]


def _moment(text: str) -> str:
    if datetime.datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("a time without its zone")
    return text


Moment = Annotated[str, AfterValidator(_moment)]  # ISO 8601, with its zone


class Version(BaseModel):
    """One trained and exported adapter.

    Attributes:
        stages: `{call: link}` of everything it was made from, from `ingest` to `evaluate`. A call is named as its
            stage, a second one of the same stage with something behind that (`embed_adapted`).
        started_from: number of the version that its training continued from; None = the base model.
        reason: for its present state.
    """

    model_config = ConfigDict(frozen=True)
    number: int = Field(ge=1)
    state: State
    created: Moment
    stages: dict[str, Link]
    started_from: int | None = None
    reason: str = ""


class Event(BaseModel):
    """One change. `was` is the version that the pointer showed before, or None."""

    model_config = ConfigDict(frozen=True)
    at: Moment
    action: Action
    version: int
    reason: str
    was: int | None = None


class Adapter(BaseModel):
    """The registry of one adapter at one moment.

    Attributes:
        promoted: number of the version in use, or None: the base model alone.
        on_trial: whether its smoke test has yet to pass.
    """

    model_config = ConfigDict(frozen=True)
    name: str
    promoted: int | None = None
    on_trial: bool = False
    versions: tuple[Version, ...] = ()
    history: tuple[Event, ...] = ()

    @model_validator(mode="after")
    def _agree(self) -> Adapter:
        """A file that was changed by hand, or only in part, must not decide which version is in use."""
        if wrong := next(self._contradictions(), ""):
            raise ValueError(wrong)
        return self

    def _contradictions(self) -> Iterator[str]:
        numbers = {version.number for version in self.versions}
        yield from (
            f"there are {count} versions {number}"
            for number, count in Counter(version.number for version in self.versions).items()
            if count > 1
        )
        if self.promoted is not None and self.promoted not in numbers:
            yield f"version {self.promoted} is in use, but does not exist"
        if self.on_trial and self.promoted is None:
            yield "a version is on trial, but none is in use"
        in_state = [version.number for version in self.versions if version.state == "promoted"]
        if in_state != ([] if self.promoted is None else [self.promoted]):
            names = ", ".join(str(number) for number in in_state) or "none"
            yield f"version {self.promoted or 'none'} is in use, but marked as promoted: {names}"
        for version in self.versions:
            if "export" not in version.stages:
                yield f"version {version.number} names no export"
            for stage, link in version.stages.items():
                if link.stage != stage and not stage.startswith(f"{link.stage}_"):  # a second call of the stage
                    yield f"version {version.number} names a result of {link.stage} as its {stage}"
            start = version.started_from
            if start is not None and (start not in numbers or start >= version.number):
                yield f"version {version.number} was started from {start}, which is not an earlier version"
        for event in self.history:
            if unknown := {event.version, event.was} - numbers - {None}:
                yield f"its history names version {min(number for number in unknown if number)}, which does not exist"

    def version(self, number: int) -> Version:
        """
        Raises:
            BadInput: there is no such version.
        """
        for version in self.versions:
            if version.number == number:
                return version
        numbers = ", ".join(str(v.number) for v in self.versions)
        expected = f"one of {numbers}" if numbers else "a version that is registered, and there is none yet"
        raise BadInput(f"{self.name} has no version {number}", expected=expected, do="see `raft adapters`")

    @property
    def in_use(self) -> Version | None:
        return None if self.promoted is None else self.version(self.promoted)

    @property
    def withdrawn(self) -> bool:
        """Whether a version was in use and none is any more: somebody wants none of them."""
        return self.promoted is None and any(event.action == "rolled back" for event in self.history)

    @property
    def before(self) -> int | None:
        """The version that the promoted one replaced, which a rollback returns to."""
        for event in reversed(self.history):
            if event.action == "promoted" and event.version == self.promoted:
                return event.was
        return None

    @property
    def warm_starts(self) -> int:
        """How many trainings in a row, up to the version in use, continued from the version before."""
        count, version = 0, self.in_use
        while version is not None and version.started_from is not None:
            count, version = count + 1, self.version(version.started_from)
        return count


def switched(adapter: Adapter, to: int | None, event: Event, on_trial: bool, why_left: str) -> Adapter:
    """The pointer moved to version `to` (or to none), with the states that follow from it."""
    versions = adapter.versions
    if adapter.promoted is not None:
        versions = with_state(versions, adapter.promoted, "retired", why_left)
    if to is not None:
        reason = event.reason if event.action == "promoted" else f"back in use: {event.reason}"
        versions = with_state(versions, to, "promoted", reason)
    return adapter.model_copy(
        update={
            "promoted": to,
            "on_trial": on_trial,
            "versions": versions,
            "history": (*adapter.history, event),
        }
    )


def with_state(versions: tuple[Version, ...], number: int, state: State, reason: str) -> tuple[Version, ...]:
    """The versions with one of them in another state."""
    change = {"state": state, "reason": reason}
    return tuple(v.model_copy(update=change) if v.number == number else v for v in versions)


def problems(error: ValidationError) -> str:
    """What is wrong with a file, in words: the first problem with its place, and how many more there are."""
    first, *more = error.errors()
    place = ".".join(str(part) for part in first["loc"])
    text = first["msg"].removeprefix("Value error, ")
    return (f"{place}: " if place else "") + text + (f", and {len(more)} more" if more else "")

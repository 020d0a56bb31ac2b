"""What happens to stages, as values, and who is told: a reporter is anything that takes an event.

The command line draws them, a night logs them, Prefect's pages show the progress, a test keeps them in a list. A
stage's own work knows none of this; it is given a plain function for its progress.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from data.nouns import Progress
from tasks.store.locks import Holder
from tasks.store.manifest import Manifest


@dataclass(frozen=True)
class Started:
    """A stage is being built from here on."""

    stage: str


@dataclass(frozen=True)
class Progressed:
    """A stage is so far; `total` is None where nobody knows how much there is to do."""

    stage: str
    done: int
    total: int | None
    what: str


@dataclass(frozen=True)
class Waiting:
    """Somebody else builds the stage; `holder` is None where that is not known."""

    stage: str
    holder: Holder | None


@dataclass(frozen=True)
class Damaged:
    """The stage's result in the store is not what was published; `what` says which file, and how."""

    stage: str
    what: str


@dataclass(frozen=True)
class Finished:
    """The stage's result is there, built now or `cached` (found, fetched or kept).

    Attributes:
        call: the stage's name in its flow, where that is another one.
    """

    manifest: Manifest
    cached: bool
    call: str = ""

    @property
    def stage(self) -> str:
        return self.call or self.manifest.stage


@dataclass(frozen=True)
class Said:
    """A sentence for whoever reads along."""

    text: str


Event = Started | Progressed | Waiting | Damaged | Finished | Said


class Reporter(Protocol):
    """Is told each event, in their order."""

    def __call__(self, event: Event, /) -> None: ...


def silent(event: Event) -> None:
    """The reporter that tells nobody."""


def progress_of(stage: str, reporter: Reporter) -> Progress:
    """The function by which a stage tells how far it is."""

    def progress(done: int, total: int | None, what: str) -> None:
        reporter(Progressed(stage, done, total, what))

    return progress


def voice_of(reporter: Reporter) -> Callable[[str], None]:
    """The function by which whoever knows no reporter says a sentence."""

    def say(text: str) -> None:
        reporter(Said(text))

    return say

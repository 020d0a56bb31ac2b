"""The bench: everything that a stage's work is given beside its inputs, and what it says when it is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from data.nouns import ItemCache, Progress
from raft_errors import RaftError


@dataclass(frozen=True)
class Outcome:
    """What a stage says about its build: one line for people (with counts in = out + dropped), figures for programs.

    `machine` is what it knows of the devices that computed it, where those were not this process's own.
    """

    summary: str
    metrics: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)


class RunChild(Protocol):
    """Runs a module as a supervised child process to its end: `tasks.build.supervisor.run_child`."""

    def __call__(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        log_file: Path,
        on_event: Callable[[dict[str, Any]], None],
        environment: Mapping[str, str] | None = None,
        silent_seconds: float | None = None,
        limit_seconds: float | None = None,
    ) -> None: ...


@dataclass(frozen=True)
class Bench:
    """Where a stage works.

    Attributes:
        out: empty folder; what is in it when the stage function returns is published.
        scratch: folder that outlives a kill and is removed after publishing (checkpoints).
        cache: the stage's item cache.
        seed: of the run, for stages that draw.
        lineage: the stages behind the inputs, `{stage: content digest}`.
        kept: those of them that a person had taken as current though other code had made them.
        run_child: runs a heavy step as a process of its own.
        calibration: file that remembers which precision of an embedder is the faster one on this machine.
        compiled: folder where JAX keeps compiled programs.
    """

    out: Path
    scratch: Path
    cache: ItemCache
    progress: Progress
    seed: int
    lineage: Mapping[str, str]
    kept: tuple[str, ...] = ()
    run_child: RunChild = field(kw_only=True)
    calibration: Path = field(kw_only=True)
    compiled: Path = field(kw_only=True)


def balanced(stage: str, into: int, out: int, dropped: int) -> None:
    """Nothing may vanish uncounted: in = out + dropped.

    Raises:
        RaftError: the counts do not add up, which is a fault of the stage and not of the input.
    """
    if into != out + dropped:
        raise RaftError(
            f"{stage}: {into} came in, but {out} went out and {dropped} were dropped", do="report this fault"
        )

"""What is finished, for those who use it: never builds, and says which command would."""

from __future__ import annotations

from pathlib import Path

from flows.run import Run
from flows.walk import Built, published
from raft_errors import BadInput
from tasks.adapters.registry import Registry
from tasks.config import load_config


def ready(config: Path | None, overrides: list[str] | None, until: str) -> tuple[Run, Built]:
    """The finished stages up to `until`, or a message that says which command makes them."""
    run = Run.of(load_config(config, overrides or []))
    built = published(run, until) or (_in_use(run) if until == "export" else None)
    if built is None:
        raise BadInput(
            f"The stage {until} is not built for this configuration",
            do=f"build it first: raft {until}" + (f" {config}" if config else ""),
        )
    return run, built


def _in_use(run: Run) -> Built | None:
    """The present index with the adapter in use: what a night trained from an earlier version, no plain run has."""
    built, version = published(run, "index"), Registry(run.store, run.config.name).read().in_use
    if built is None or version is None:
        return None
    link = version.stages["export"]
    export = run.store.load(link.stage, link.key)
    return {**built, "export": export} if export else None

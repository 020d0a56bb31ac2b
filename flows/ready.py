"""What is finished, for those who use it: never builds, and says which command would."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from flows.calls import STAGES
from flows.run import Run
from flows.walk import Built, published
from raft_errors import BadInput
from tasks.adapters.registry import Registry
from tasks.config import load_config
from tasks.store.manifest import Manifest

if TYPE_CHECKING:
    from retrieval.search import Retriever
    from tasks.retrieval import RetrievalConfig


def ready(config: Path | None, overrides: list[str] | None, until: str) -> tuple[Run, Built]:
    """The finished stages up to `until`, or a message that says which command makes them."""
    run = Run.of(load_config(config, overrides or []))
    built = published(run, until) or (_in_use(run) if until == "export" else None)
    if until == "index" and run.wants(STAGES["adapt"]):  # what is fitted serves as soon as it is there
        built = published(run, "index_adapted") or built
    if built is None:
        raise BadInput(
            f"The stage {until} is not built for this configuration",
            do=f"build it first: raft {until}" + (f" {config}" if config else ""),
        )
    return run, built


def open_search(run: Run, built: Mapping[str, Manifest], *, where: RetrievalConfig | None = None) -> Retriever:
    """The retriever over what is finished: the one that was fitted to the domain, where there is one.

    Args:
        where: its settings, where they are not the run's own.
    """
    from tasks.runtime.retriever import open_retriever

    index = built.get("index_adapted", built["index"])
    cache = run.store.cache("questions")
    section = where or run.config.retrieval
    return open_retriever(section, index, built["chunk"], run.models, adapt=built.get("adapt"), queries=cache)


def _in_use(run: Run) -> Built | None:
    """The present index with the adapter in use: what a night trained from an earlier version, no plain run has."""
    until = "index_adapted" if run.wants(STAGES["adapt"]) else "index"
    built, version = published(run, until), Registry(run.store, run.config.name).read().in_use
    if built is None or version is None:
        return None
    link = version.stages["export"]
    export = run.store.load(link.stage, link.key)
    return {**built, "export": export} if export else None

"""What the base model alone scores on the questions of a run: `raft advise`, and the forecast for bases compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from data.nouns import Progress
from flows.run import Run
from tasks.store.manifest import Manifest
from tasks.upkeep import probe

if TYPE_CHECKING:
    from data.evaluation.advice import Advice, Probe

SECTIONS = ("retrieval", "adapt", "records", "train")
"""What advice proposes to change."""


def probe_base(
    run: Run,
    built: Mapping[str, Manifest],
    settings: Sequence[str],
    count: int,
    progress: Progress,
    finished: Mapping[str, Manifest] | None = None,
) -> tuple[Probe, list[Advice]]:
    """Asks the base; see `tasks.upkeep.probe.probe_base`.

    Args:
        built: the results up to the records, by the names of their calls.
        finished: those of a whole run with this configuration: the advice then rests on its verdict.
    """
    finished = finished or {}
    sections = {name: run.section(name).model_dump() for name in SECTIONS}
    return probe.probe_base(
        run.config.evaluate,
        run.store.cache("evaluate"),
        progress,
        records=built["records"],
        index=built.get("index_adapted", built["index"]),
        chunk=built["chunk"],
        adapt=built.get("adapt"),
        models=run.models,
        retrieval=run.config.retrieval,
        settings=settings,
        count=count,
        seed=run.config.seed,
        sections={f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()},
        train=finished.get("train"),
        evaluate=finished.get("evaluate"),
        quote_weight=run.config.ask.quote_weight,
    )

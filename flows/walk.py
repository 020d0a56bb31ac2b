"""Reads a flow's lines for real: each call becomes a request, and a step gives its result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from data.text.shown import few
from flows.calls import STAGES, calls_to
from flows.pipeline import ONLY_ADAPTED, pipeline
from flows.run import Run
from flows.step import take_kept
from raft_errors import BadInput
from tasks import ingest
from tasks.build import kept, stage
from tasks.build.events import Reporter, Said, silent
from tasks.build.stage import Request, Stage
from tasks.build.unchanged import Changed
from tasks.inputs.corpus import Corpus
from tasks.store.manifest import Manifest

Built = dict[str, Manifest]
T = TypeVar("T")


class Walk:
    """A `make` for flows: asks a step for each result, and keeps the results by the names of their calls."""

    def __init__(self, run: Run, step: Callable[[Request], Manifest | None], until: str | None = None) -> None:
        self.results: Built = {}
        self._run, self._step, self._until = run, step, until

    def __call__(self, stage: Stage, /, *inputs: Any, name: str = "", **optional: Any) -> Any:
        if not self._run.wants(stage):
            return None
        request = self._run.request(stage, stage.bind(*inputs, **optional), name)
        manifest = self._step(request)
        if manifest is None:
            raise _Missing
        self.results[request.name] = manifest
        for given in inputs:
            if isinstance(given, Corpus):
                ingest.remember(given, self._run.config.ingest, manifest, self._run.store)
        if request.name == self._until:
            raise _Reached
        return manifest


class _Reached(Exception):
    """The last call that was wanted has its result."""


class _Missing(Exception):
    """A step has no result to give."""


def follow(run: Run, flow: Callable[[Walk, Corpus], T], steps: Walk) -> T:
    """Calls a flow with the corpus as it is now, and once more where a document was saved while it was read."""
    corpus = run.corpus()
    _tell_vanished(corpus, run.reporter)
    try:
        return flow(steps, corpus)
    except Changed as error:
        if steps.results:
            raise
        run.reporter(Said(f"{error.what}: looking at the corpus once more"))
    return flow(steps, run.corpus())  # what was read is remembered by its bytes: this costs what changed


def walk(
    run: Run,
    step: Callable[[Request], Manifest | None],
    until: str | None = None,
    flow: Callable[[Walk, Corpus], object] = pipeline,
) -> Built | None:
    """The results of a flow's calls up to `until`, or None once the step has none to give."""
    steps = Walk(run, step, until)
    try:
        follow(run, flow, steps)
    except _Missing:
        return None
    except _Reached:
        pass
    return steps.results


def asked_for(run: Run, call: str) -> bool:
    """Whether a run with this configuration makes a call of the pipeline."""
    return run.wants(STAGES["adapt" if call in ONLY_ADAPTED else call])


def require_wanted(run: Run, until: str) -> None:
    """Raises BadInput where the pipeline has no such call, or the run's configuration does not ask for it."""
    calls_to(until)
    if until in ONLY_ADAPTED and not run.wants(STAGES["adapt"]):
        raise BadInput(
            f"{until}: this configuration does not fit the retriever to the domain",
            expected="adapt.embedder, adapt.reranker, retrieval.rerank: auto or retrieval.weights: measured",
            do="set one of them",
        )
    if until == "calibrate" and not run.wants(STAGES[until]):
        raise BadInput(
            "calibrate: this configuration promises nothing of citations",
            expected="ask.citation_error, such as 0.1",
            do="set it",
        )


def _tell_vanished(corpus: Corpus, reporter: Reporter) -> None:
    for names, what in (
        (corpus.kept, "their documents are kept (raft ingest --prune drops them)"),
        (corpus.lost, "their documents are dropped: the store does not hold them as they would be read today"),
    ):
        if names:
            have = "file has" if len(names) == 1 else "files have"
            reporter(Said(f"{len(names)} {have} vanished ({few(names)}); {what}"))


def published(run: Run, until: str, asked: list[Request] | None = None) -> Built | None:
    """The finished stages if every one up to `until` is in the store; starts nothing.

    Args:
        asked: is given each request in order; the last one has no result, where None is returned.
    """
    require_wanted(run, until)
    if run.keep:
        kept.require_finished(run.keep, run.store)

    def look(request: Request) -> Manifest | None:
        if asked is not None:
            asked.append(request)
        return (take_kept(request, run) if run.keep else None) or stage.find(request, run.store, silent)

    return walk(run, look, until)

"""The pipeline: the stages in their order, looked up, planned or run, with or without Prefect.

It only chains; what a stage does is in `tasks/<stage>.py`, and how it is cached in `tasks/build/stage.py`.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from data.text.shown import shown
from raft_errors import BadInput
from tasks import chunk, embed, evaluate, export, index, ingest, questions, records, train
from tasks.build import kept, stage
from tasks.build.events import Finished, Reporter, Said, silent, voice_of
from tasks.build.stage import Request, Stage
from tasks.build.unchanged import Changed
from tasks.config import ModelsConfig, RunConfig
from tasks.inputs.corpus import Corpus
from tasks.inputs.models import ModelFiles, compile_cache, resolve
from tasks.store.locks import locked
from tasks.store.manifest import Manifest
from tasks.store.places import temporary_folder
from tasks.store.store import Store

STAGES: tuple[Stage, ...] = (
    ingest.STAGE,
    chunk.STAGE,
    embed.STAGE,
    index.STAGE,
    questions.STAGE,
    records.STAGE,
    train.STAGE,
    export.STAGE,
    evaluate.STAGE,
)
NAMES = tuple(s.name for s in STAGES)
COSTLY_SECONDS = 60.0  # what takes longer is not made anew for other code alone without a word of --keep
Built = dict[str, Manifest]
Step = Callable[[Request], Manifest]
T = TypeVar("T")


class Models(Mapping[str, ModelFiles]):
    """The run's models by role, each resolved (and fetched, if need be) when it is first asked for."""

    def __init__(self, config: ModelsConfig, find: Callable[..., ModelFiles | None]) -> None:
        self._wanted = {
            "base": (config.base, config.base_revision),
            "embedder": (config.embedder, config.embedder_revision),
        }
        self._chat = (config.chat_template, config.prefill)
        self._find = find
        self._found: dict[str, Any] = {}

    def __getitem__(self, role: str) -> ModelFiles:
        if role not in self._found:
            files = self._find(*self._wanted[role])
            self._found[role] = files.with_chat(*self._chat) if files is not None and role == "base" else files
        return self._found[role]

    def name(self, role: str) -> str:
        return self._wanted[role][0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._wanted)

    def __len__(self) -> int:
        return len(self._wanted)


@dataclass(frozen=True)
class Run:
    """What a run is made of."""

    config: RunConfig
    store: Store
    models: Models
    reporter: Reporter
    keep: frozenset[str] = frozenset()  # stages whose finished result counts though other code made it

    @classmethod
    def of(cls, config: RunConfig, reporter: Reporter | None = None, keep: Collection[str] = ()) -> Run:
        reporter = reporter or silent
        models = Models(config.models, functools.partial(resolve, say=voice_of(reporter)))
        return cls(config, store_of(config), models, reporter, frozenset(keep))

    def corpus(self) -> Corpus:
        """What a run reads now."""
        return ingest.corpus_of(self.config.corpus, self.config.ingest, self.store)

    def request(self, made: Stage, built: Mapping[str, Any]) -> Request:
        """The request for one stage, given what the stages before it left."""
        section = getattr(self.config, made.name)
        shared = {name: getattr(self.config, name) for name in made.shared}
        return Request(made, section, made.inputs_among(built), self.models, self.config.seed, shared)


def store_of(config: RunConfig) -> Store:
    """The store of a configuration, with the share behind it where there is one."""
    if config.share is None:
        return Store(Path(config.store), mode=config.store_mode)
    from tasks.store.share import Share

    return Store(Path(config.store), Share.at(config.share), config.store_mode)


def stages_to(name: str) -> tuple[Stage, ...]:
    """The stages up to and including `name`."""
    if name not in NAMES:
        raise BadInput(f"There is no stage {name!r}", expected=f"one of {', '.join(NAMES)}")
    return STAGES[: NAMES.index(name) + 1]


def chain(run: Run, until: str, step: Callable[[Request], Manifest | None]) -> Built | None:
    """Walks the stages in order, giving each the manifests of those before it; None once a step has none to give."""
    corpus = run.corpus()
    _tell_vanished(corpus, run.reporter)
    built: dict[str, Any] = {"corpus": corpus}
    for made in stages_to(until):
        try:
            manifest = step(run.request(made, built))
        except Changed as error:
            if made.name != "ingest":
                raise
            run.reporter(Said(f"{error.what}: looking at the corpus once more"))
            corpus = built["corpus"] = run.corpus()  # what was read is remembered by its bytes: this costs what changed
            manifest = step(run.request(made, built))
        if manifest is None:
            return None
        built[made.name] = manifest
        if made.name == "ingest":
            ingest.remember(corpus, run.config.ingest, manifest, run.store)
    del built["corpus"]
    return built


def _tell_vanished(corpus: Corpus, reporter: Reporter) -> None:
    for names, what in (
        (corpus.kept, "their documents are kept (raft ingest --prune drops them)"),
        (corpus.lost, "their documents are dropped: the store does not hold them as they would be read today"),
    ):
        if names:
            few = ", ".join(map(shown, names[:3])) + (", …" if len(names) > 3 else "")
            have = "file has" if len(names) == 1 else "files have"
            reporter(Said(f"{len(names)} {have} vanished ({few}); {what}"))


def published(run: Run, until: str) -> Built | None:
    """The finished stages if every one up to `until` is in the store; starts nothing."""
    if run.keep:
        kept.require_finished(run.keep, run.store)

    def look(request: Request) -> Manifest | None:
        return (_kept(request, run) if run.keep else None) or stage.find(request, run.store, silent)

    return chain(run, until, look)


def run_direct(run: Run, until: str, *, force: bool = False) -> Built:
    """Builds what is missing, without Prefect."""
    return run_steps(run, until, lambda step: _whole(run, until, step), direct=True, force=force)


def run_with_prefect(run: Run, until: str, *, force: bool = False) -> Built:
    """Builds what is missing as a Prefect flow: its server keeps the history, the store decides what is cached."""
    return run_steps(run, until, lambda step: _whole(run, until, step), direct=False, force=force)


def run_steps(run: Run, until: str, walk: Callable[[Step], T], *, direct: bool, force: bool = False) -> T:
    """Calls `walk` with what builds a request's stage, directly or as a task of a Prefect flow; returns its result."""
    kept.require_finished(run.keep, run.store)
    with at_work(run):
        _prepare(run, until)
        if direct:
            return walk(_keeping(run, lambda request: stage.run(request, run.store, run.reporter, force=force), force))
        from flows.prefect.flow import run_flow

        return run_flow(run, lambda step: walk(_keeping(run, step, force)), force=force)


def _keeping(run: Run, step: Step, force: bool) -> Step:
    """The step, but a result that is kept (`tasks.build.kept`) is taken in place of building one."""

    def take_or_build(request: Request) -> Manifest:
        if force and request.stage.name not in run.keep:
            return step(request)
        if manifest := _kept(request, run):
            run.reporter(Finished(manifest, cached=True))
            return manifest
        if not force:
            _tell_of_keep(request, run)
        return step(request)

    return take_or_build


def _kept(request: Request, run: Run) -> Manifest | None:
    manifest = kept.take(request, run.store, run.keep)
    if manifest is not None:
        name = request.stage.name
        run.reporter(Said(f"{name}: the result of {kept.day(manifest)} is kept ({'; '.join(manifest._kept)})"))
    return manifest


def _tell_of_keep(request: Request, run: Run) -> None:
    """Before something costly is built for other code alone."""
    name = request.stage.name
    if run.store.read(name, request.key()) is not None:
        return
    made = kept.fitting(request, run.store)
    if made is not None and made.seconds >= COSTLY_SECONDS:
        words = f"{name}: only the code has changed since the result of {kept.day(made)}, which took "
        words += f"{made.seconds / 60:.0f} minutes; --keep {name} would take it as it is"
        run.reporter(Said(words))


def _whole(run: Run, until: str, step: Step) -> Built:
    built = chain(run, until, step)
    assert built is not None
    return built


@contextlib.contextmanager
def at_work(run: Run) -> Iterator[None]:
    """Nothing is deleted from the store during the block."""
    run.store.prepare()
    temporary_folder()
    if notice := run.store.notice:
        run.reporter(Said(notice))
    lock = run.store.running(shared=True)
    with (
        run.store.working(),
        locked(lock, on_wait=lambda who: run.reporter(Said(f"Waiting for {who} to tidy up"))),
    ):
        yield


def _prepare(run: Run, until: str) -> None:
    from flows.preflight import check

    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(compile_cache()))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    run.store.prepare()
    run.store.collect_leftovers()
    check(run, stages_to(until))

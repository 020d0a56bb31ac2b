"""A stage: a function `(inputs, config section, models, seed) -> files in a directory`, its key, and how it is built.

`run` is the one path of every run: look in the store, take the key's lock, look again, fetch, build, try
again, publish.
Nothing here knows what any stage does, or whether Prefect shows it.
"""

from __future__ import annotations

import contextlib
import errno
import inspect
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import tenacity
from pydantic import BaseModel

from tasks.build import kept
from tasks.build.events import Damaged, Finished, Reporter, Said, Started, Waiting, progress_of, silent
from tasks.build.keys import canonical, code_fingerprint, key_of, package_versions, packages_behind, result_fields
from tasks.build.origin import elsewhere, this_machine
from tasks.build.supervisor import Transient as Transient
from tasks.build.supervisor import run_child
from tasks.build.unchanged import Changed, ModelChanged, require_unchanged
from tasks.store.access import make_folder
from tasks.store.disks import NO_SPACE
from tasks.store.locks import FileLock, locked
from tasks.store.manifest import Manifest
from tasks.store.places import calibration_file, compile_cache
from tasks.store.store import Store
from tasks.work.bench import Bench, Outcome

log = logging.getLogger("raft.tasks")

ATTEMPTS = 3  # of a stage that fails for a transient reason
BACKOFF_SECONDS = 2.0
_PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_PERMANENT_CODES = {*NO_SPACE, errno.EINVAL, errno.ELOOP}  # EINVAL: a pipe or a device in a file's place


class HasDigest(Protocol):
    """An input or model: anything identified by the sha256 of its content."""

    @property
    def digest(self) -> str: ...


@dataclass(frozen=True)
class Stage:
    """The declaration of a stage.

    Attributes:
        config: its section of the configuration.
        help: what it does, in one sentence that tells somebody to do it; the help of its verb.
        build: its work, `build(bench, config, input, ..., *, model, section) -> Outcome`, in a module of `tasks.work`
            that reaches everything that decides its result and nothing else. Its inputs are its own positional
            parameters, and those with a default may be left out; models and shared sections are keywords.
        models: names of the models it uses (`base`, `embedder`), or a function of the section that tells them.
        models_if_set: further ones that it uses where the run has them (`reranker`).
        shared: names of the sections it reads beside its own (`retrieval`).
        seeded: whether the run's seed is part of the key.
        modules: further modules that its work runs, where neither an import nor a string in its code names them.
        packages: distributions whose version is part of the key, beside those that its code imports.
        alone: the lock of a device that only one build at a time may use.
        cache: the stage whose item cache it shares; by default its own.
        wanted: whether a run makes it at all, from its section and the shared ones; by default always.
        describing: files that describe the build (times, curves) and are no part of the result's digest.
    """

    name: str
    config: type[BaseModel]
    build: Callable[..., Outcome]
    help: str = ""
    models: tuple[str, ...] | Callable[[Any], tuple[str, ...]] = ()
    models_if_set: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    seeded: bool = False
    version: str = "1"
    modules: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    alone: Callable[[], FileLock] | None = None
    cache: str = ""
    wanted: Callable[[BaseModel, Mapping[str, BaseModel]], bool] | None = None
    describing: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """The parameters that every request gives."""
        return tuple(p.name for p in self._parameters() if p.default is p.empty)

    @property
    def optional(self) -> tuple[str, ...]:
        """The parameters that a request may give (an earlier adapter), and its key then holds."""
        return tuple(p.name for p in self._parameters() if p.default is not p.empty)

    def _parameters(self) -> list[inspect.Parameter]:
        parameters = list(inspect.signature(self.build).parameters.values())
        return [p for p in parameters[2:] if p.kind is p.POSITIONAL_OR_KEYWORD]

    def bind(self, /, *inputs: Any, **optional: Any) -> dict[str, Any]:
        """Inputs by parameter, as a flow gives them: those that every request has in their order, None for what is not.

        Raises:
            TypeError: too many, too few, or a name that is no parameter.
        """
        if len(inputs) != len(self.inputs) or not {*optional} <= {*self.optional}:
            takes = ", ".join([*self.inputs, *(f"{name}=" for name in self.optional)])
            given = ", ".join([f"{len(inputs)} inputs", *(f"{name}=" for name in optional)])
            raise TypeError(f"Stage {self.name} takes ({takes}) and was given {given}")
        further = {name: value for name, value in optional.items() if value is not None}
        return {**dict(zip(self.inputs, inputs, strict=True)), **further}

    def code(self) -> dict[str, str]:
        """The fingerprint of everything that its work can reach, from the module in which that stands."""
        return code_fingerprint(self.build.__module__, *self.modules)

    def versions(self) -> dict[str, str]:
        """The installed versions of the libraries that decide its result."""
        return package_versions([*self.packages, *packages_behind(self.build.__module__, *self.modules)])

    def making(self) -> dict[str, Any]:
        """What comes with the installation and decides its result."""
        return {"version": self.version, "code": self.code(), "packages": self.versions()}

    def models_for(self, section: BaseModel) -> tuple[str, ...]:
        return self.models(section) if callable(self.models) else self.models


@dataclass(frozen=True)
class Request:
    """Everything that decides one result of a stage.

    Attributes:
        inputs: by parameter of the stage's work.
        call: its name in the flow, where that is not the stage's; it decides nothing.
    """

    stage: Stage
    config: BaseModel
    inputs: Mapping[str, Any]
    models: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    shared: Mapping[str, BaseModel] = field(default_factory=dict)
    call: str = ""

    @property
    def name(self) -> str:
        """What the stage is called in its flow."""
        return self.call or self.stage.name

    @property
    def roles(self) -> tuple[str, ...]:
        """The models that it is built with."""
        stage = self.stage
        return (*stage.models_for(self.config), *(name for name in stage.models_if_set if name in self.models))

    def ingredients(self) -> dict[str, Any]:
        """What the key is computed from, kept in the manifest so that `raft plan` can tell what changed."""
        stage = self.stage
        return {
            "stage": stage.name,
            "inputs": {n: _digest(value, n) for n, value in self.inputs.items()},
            "config": result_fields(self.config),
            "shared": {name: result_fields(self.shared[name]) for name in stage.shared},
            "models": {name: _digest(self.models[name], name) for name in self.roles},
            "seed": self.seed if stage.seeded else None,
            **stage.making(),
        }

    def key(self) -> str:
        return key_of(self.ingredients())


def _digest(value: Any, name: str) -> str:
    digest = getattr(value, "digest", None)
    if not isinstance(digest, str):
        raise TypeError(f"{name}: {type(value).__name__} has no content digest")
    return str(canonical(digest))


def find(request: Request, store: Store, reporter: Reporter) -> Manifest | None:
    """The published result of the request, or what a person has taken for it, if every byte of it is there."""
    key = request.key()
    manifest, wrong = store.inspect(request.stage.name, key)
    if wrong:
        reporter(Damaged(request.name, wrong))
    return manifest or kept.current(store, request.stage.name, key)


def run(request: Request, store: Store, reporter: Reporter | None = None, *, force: bool = False) -> Manifest:
    """The stage's result, from the store or built now. One builder per key: a second run waits and takes the first's.

    Raises:
        RaftError: what the stage raised; transient failures are tried three times with growing pauses first.
    """
    reporter = reporter or silent
    stage, key = request.stage.name, request.key()
    if not force and (manifest := find(request, store, reporter)):
        reporter(Finished(manifest, cached=True, call=request.call))
        return manifest
    store.prepare()
    with locked(store.lock(stage, key), on_wait=lambda holder: reporter(Waiting(request.name, holder))):
        if not force:
            manifest = store.load(stage, key) or fetched(request, key, store, reporter)  # built while we waited?
            if manifest:
                reporter(Finished(manifest, cached=True, call=request.call))
                return manifest
        attempts = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=tenacity.wait_exponential_jitter(initial=BACKOFF_SECONDS, jitter=BACKOFF_SECONDS / 2),
            retry=tenacity.retry_if_exception(is_transient),
            before_sleep=lambda state: log.warning(
                "stage %s: attempt %d failed, trying again: %s",
                request.name,
                state.attempt_number,
                state.outcome.exception() if state.outcome else "",
            ),
            reraise=True,
        )
        manifest = attempts(build, request, key, store, reporter)
    reporter(Finished(manifest, cached=False, call=request.call))
    return manifest


def fetched(request: Request, key: str, store: Store, reporter: Reporter) -> Manifest | None:
    """The result from the share, now in the store, or None. The caller holds the key's lock."""
    manifest = store.share.fetch(request.stage.name, key, store) if store.share else None
    if manifest and store.share:
        foreign = elsewhere(manifest.machine)
        where = f"{store.share.shown}{foreign and f', {foreign}'}"
        reporter(Said(f"{request.name}: fetched from {where}"))
    return manifest


def build(request: Request, key: str, store: Store, reporter: Reporter) -> Manifest:
    """Builds, publishes and shares unconditionally. The caller holds the key's lock."""
    stage = request.stage
    scratch = store.scratch(stage.name, key)
    reporter(Started(request.name))
    began = time.monotonic()
    with store.publish(stage.name, key, stage.describing) as (out, manifest):
        make_folder(scratch)
        parents = {n: value for n, value in request.inputs.items() if isinstance(value, Manifest)}
        bench = Bench(
            out=out,
            scratch=scratch,
            cache=store.cache(stage.cache or stage.name),
            progress=progress_of(request.name, reporter),
            seed=request.seed,
            lineage=ancestry(parents.values(), store),
            kept=tuple(kept.behind(parents.values(), store)),
            run_child=run_child,
            calibration=calibration_file(),
            compiled=compile_cache(),
        )
        models = {n: request.models[n] for n in request.roles}
        shared = {n: request.shared[n] for n in stage.shared}
        with _device_of(stage, bench):
            outcome = stage.build(bench, request.config, **request.inputs, **models, **shared)
        try:
            require_unchanged(request, key, store)
        except Changed as error:
            shutil.rmtree(scratch, ignore_errors=True)  # a checkpoint of other inputs must not be gone on from
            if isinstance(error, ModelChanged):
                store.cache(stage.cache or stage.name).clear()
            raise
        manifest.summary, manifest.metrics = outcome.summary, outcome.metrics
        manifest.lineage = {n: value.link for n, value in parents.items()}
        manifest.ingredients = request.ingredients()
        manifest.machine = this_machine(outcome.machine)
        manifest.kept, manifest.call = list(bench.kept), request.call
        manifest.seconds = round(time.monotonic() - began, 3)
    shutil.rmtree(scratch, ignore_errors=True)
    if store.share:
        store.share.put(manifest)
    return manifest


def _device_of(stage: Stage, bench: Bench) -> contextlib.AbstractContextManager[object]:
    """Waits until no other build uses the device that the stage needs for itself."""
    if stage.alone is None:
        return contextlib.nullcontext()
    waiting = f"waiting for the {stage.name} of {{}}, on the same device"
    return locked(stage.alone(), on_wait=lambda who: bench.progress(0, None, waiting.format(who or "another run")))


def ancestry(parents: Iterable[Manifest], store: Store) -> dict[str, str]:
    """`{stage: content digest}` of the given manifests and of everything they were built from.

    Of several results of one stage (an adapter that was started from an earlier one) the nearest is named.
    """
    digests: dict[str, str] = {}
    queue = list(parents)
    while queue:
        manifest = queue.pop(0)
        if manifest.stage not in digests:
            digests[manifest.stage] = manifest.digest
            queue += [m for link in manifest.lineage.values() if (m := store.load(link.stage, link.key))]
    return dict(sorted(digests.items()))


def is_transient(error: BaseException) -> bool:
    """Whether trying again may help: connections, time-outs, odd I/O errors; never bad input or a full disk."""
    if isinstance(error, Transient):
        return True
    return isinstance(error, OSError) and not isinstance(error, _PERMANENT) and error.errno not in _PERMANENT_CODES

"""`raft plan`: for each stage whether it is cached, and why not, from the store alone. Starts and fetches nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from flows.calls import CALLS
from flows.licences import licences_of
from flows.pipeline import pipeline
from flows.run import Models, Run, store_of
from tasks.build import kept
from tasks.build.events import silent
from tasks.build.origin import elsewhere
from tasks.build.stage import Request, Stage
from tasks.config import RunConfig
from tasks.inputs.models import on_this_machine
from tasks.store.manifest import Manifest
from tasks.store.store import Store
from tasks.upkeep.estimates import Estimate, Workload, estimate, workload

STAGE_OF = {call.name: call.stage.name for call in CALLS}


@dataclass(frozen=True)
class Planned:
    """One stage's outlook: `cached`, `kept` (made by other code), `fetch` (from the share), `run`, or `maybe` (it
    depends on how its inputs come out).

    Attributes:
        seconds: what its last result took.
        estimate: what it will take where it runs.
    """

    stage: str
    state: str
    why: str
    seconds: float | None = None
    estimate: Estimate | None = None


def plan(config: RunConfig, until: str, keep: Collection[str] = ()) -> list[Planned]:
    """The outlook for every stage up to `until`.

    Args:
        keep: stages whose finished result is to be taken though other code made it; `all`, `none`.
    Raises:
        BadInput: one of them has no result that could be kept.
    """
    run = Run(config, store_of(config), Models(config, on_this_machine), silent)
    kept.require_finished(keep, run.store)
    outlook, corpus = Outlook(run, keep), run.corpus()
    pipeline(outlook, corpus)
    names = [row.stage for row in outlook.rows]
    rows = outlook.rows[: names.index(until) + 1]
    work = workload(config, corpus, outlook.built, run.models["base"])
    return [replace(row, estimate=_estimate(row, run, work)) for row in rows]


def _estimate(row: Planned, run: Run, work: Workload) -> Estimate | None:
    """Of a stage that will or may run; by the rate of its last result if that was made with the same models."""
    if row.state not in ("run", "maybe"):
        return None
    stage = STAGE_OF[row.stage]
    last = run.store.latest(stage, row.stage if row.stage != stage else "")
    models = last.ingredients.get("models", {}) if last else {}
    now = {role: files.digest for role in models if role in run.models and (files := run.models[role])}
    return estimate(row.stage, run.config, work, last if models == now else None)


@dataclass(frozen=True)
class Unknown:
    """Stands for the result of a call that is not built yet."""

    call: str
    digest: str = kept.UNKNOWN


class Outlook:
    """A `make` for flows that builds nothing: it gives what is there, else `Unknown`, and a row for each call."""

    def __init__(self, run: Run, keep: Collection[str]) -> None:
        self.rows: list[Planned] = []
        self.built: dict[str, Manifest] = {}
        self._run, self._keep = run, keep

    def __call__(self, stage: Stage, /, *inputs: Any, name: str = "", **optional: Any) -> Any:
        if not self._run.wants(stage):
            return None
        request = self._run.request(stage, stage.bind(*inputs, **optional), name)
        row, manifest = self._row(request, request.inputs)
        self.rows.append(row)
        if manifest:
            self.built[row.stage] = manifest
        return manifest or Unknown(request.name)

    def _row(self, request: Request, inputs: Mapping[str, Any]) -> tuple[Planned, Manifest | None]:
        stage, store, models = request.stage, self._run.store, self._run.models
        last = store.latest(stage.name, request.call)
        seconds = last.seconds if last else None
        absent = [role for role in request.roles if models[role] is None]
        if absent:
            why = "; ".join(f"model {models.name(role)} is not fetched yet" for role in absent)
            return Planned(request.name, "run", why, seconds), None
        if missing := [value.call for value in inputs.values() if isinstance(value, Unknown)]:
            state, why = self._undecided(request, last, missing)
            return Planned(request.name, state, why, seconds), None
        manifest, wrong = store.inspect(stage.name, request.key())
        if manifest:
            foreign = elsewhere(manifest.machine) if request.roles else ""
            why = f"{foreign}: {manifest.summary}" if foreign else manifest.summary
            return Planned(request.name, "cached", why, manifest.seconds), manifest
        if manifest := _kept(request, store, self._keep):
            differ, foreign = kept.differences(request, manifest), elsewhere(manifest.machine)
            how = "taken by a night" if differ.choices else "made by other code"
            words = "; ".join(manifest._kept or differ.installation)
            why = f"{foreign and f'{foreign}: '}the result of {kept.day(manifest)}, {how}: {words}"
            return Planned(request.name, "kept", why, manifest.seconds), manifest
        if store.share and (manifest := store.share.look(stage.name, request.key())):
            size = sum(entry.size for entry in manifest.files) / 2**20
            foreign = elsewhere(manifest.machine) if request.roles else ""
            why = f"{size:.1f} MiB from {store.share.shown}{foreign and f', {foreign}'}"
            return Planned(request.name, "fetch", why, None), manifest
        why = wrong or (
            "never built" if last is None else "; ".join(changed(request, last, store)) or "not in the store"
        )
        return Planned(request.name, "run", why, seconds), None

    def _undecided(self, request: Request, last: Manifest | None, missing: list[str]) -> tuple[str, str]:
        """State and reason of a call some of whose inputs are not built yet."""
        changes = changed(request, last, self._run.store)
        if {request.stage.name, kept.ALL} & {*self._keep} and kept.fitting(request, self._run.store):
            return "maybe", f"kept if {' and '.join(missing)} come{'' if missing[1:] else 's'} out the same"
        if last is None:
            return "run", "never built"
        if changes:
            return "run", "; ".join(changes)
        return "maybe", f"only if {' or '.join(missing)} comes out different"


def _kept(request: Request, store: Store, keep: Collection[str]) -> Manifest | None:
    """What a run would take although other code made it; nothing is written down."""
    name = request.stage.name
    before = None if kept.NONE in keep else kept.current(store, name, request.key())
    if before is not None or not {name, kept.ALL} & {*keep}:
        return before
    manifest = kept.fitting(request, store)
    if manifest is None and name in keep:
        raise kept.nothing_to_keep(request, store)
    return manifest


def notices_of(config: RunConfig) -> list[str]:
    """Who can reach or change the results, and licences that do not go together, where a run should wait for it."""
    store = store_of(config)
    about_store = [store.notice] if store.root.is_dir() and store.notice else []
    about_share = [store.share.notice] if store.share and store.share.notice else []
    about_search = [_rerank_notice(config, store)] if config.retrieval.rerank else []
    return about_store + about_share + about_search + licences_of(config).conflicts()


def _rerank_notice(config: RunConfig, store: Store) -> str:
    """What the reranker costs a question, as last measured here."""
    section, last = config.retrieval, store.latest("records")
    figures = last.metrics.get("rerank", {}) if last else {}
    seconds = figures.get("seconds_per_question")
    if seconds is None:
        cost = "its time has not been measured in this store"
    else:
        cost = f"{seconds * section.rerank_depth / figures['candidates']:.2f} s a question when records were last made"
    return f"Reranking with {section.reranker}: {section.rerank_depth} candidates a question, {cost}"


def changed(request: Request, last: Manifest | None, store: Store) -> list[str]:
    """What differs between a request and the last build of its stage, in words; unknown inputs are passed over.

    Where nothing but code and libraries differ, the words say what `--keep` would do.
    """
    if last is None:
        return []
    name = request.stage.name
    differ = kept.differences(request, last)
    if differ.words and (earlier := kept.fitting(request, store)) is not None:
        unknown = [n for n, value in request.inputs.items() if isinstance(value, Unknown)]
        condition = f", if {' and '.join(unknown)} come{'' if unknown[1:] else 's'} out the same" if unknown else ""
        return [*differ.words, f"--keep {name} would keep the result of {kept.day(earlier)}{condition}"]
    return differ.words

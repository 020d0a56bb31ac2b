"""`raft plan`: for each stage whether it is cached, and why not, from the store alone. Starts and fetches nothing."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from flows.pipeline import Models, Run, stages_to, store_of
from tasks.build import kept
from tasks.build.events import silent
from tasks.build.origin import elsewhere
from tasks.build.stage import Request
from tasks.config import RunConfig
from tasks.inputs.models import on_this_machine
from tasks.store.manifest import Manifest
from tasks.store.store import Store


@dataclass(frozen=True)
class Planned:
    """One stage's outlook: `cached`, `kept` (made by other code), `fetch` (from the share), `run`, or `maybe` (it
    depends on how its inputs come out)."""

    stage: str
    state: str
    why: str
    seconds: float | None = None


def plan(config: RunConfig, until: str, keep: Collection[str] = ()) -> list[Planned]:
    """The outlook for every stage up to `until`.

    Args:
        keep: stages whose finished result is to be taken though other code made it; `all`, `none`.
    Raises:
        BadInput: one of them has no result that could be kept.
    """
    models = Models(config.models, on_this_machine)
    run = Run(config, store_of(config), models, silent)
    kept.require_finished(keep, run.store)
    built: dict[str, Any] = {"corpus": run.corpus()}
    rows: list[Planned] = []
    for made in stages_to(until):
        last = run.store.latest(made.name)
        seconds = last.seconds if last else None
        section = getattr(config, made.name)
        absent = [role for role in made.models_for(section) if models[role] is None]
        missing = [name for name in made.inputs if name not in built]
        if absent:
            why = "; ".join(f"model {models.name(role)} is not fetched yet" for role in absent)
            rows.append(Planned(made.name, "run", why, seconds))
            continue
        known = {name: built.get(name, _Unknown()) for name in made.inputs}
        request = run.request(made, known)
        if missing:
            changes = changed(request, last, run.store)
            if {made.name, kept.ALL} & {*keep} and kept.fitting(request, run.store):
                why = f"kept if {' and '.join(missing)} come out the same"
                rows.append(Planned(made.name, "maybe", why, seconds))
            elif last is None:
                rows.append(Planned(made.name, "run", "never built", seconds))
            elif changes:
                rows.append(Planned(made.name, "run", "; ".join(changes), seconds))
            else:
                why = f"only if {' or '.join(missing)} comes out different"
                rows.append(Planned(made.name, "maybe", why, seconds))
            continue
        manifest, wrong = run.store.inspect(made.name, request.key())
        if manifest:
            built[made.name] = manifest
            foreign = elsewhere(manifest.machine) if made.models_for(section) else ""
            why = f"{foreign}: {manifest.summary}" if foreign else manifest.summary
            rows.append(Planned(made.name, "cached", why, manifest.seconds))
        elif manifest := _kept(request, run.store, keep):
            built[made.name] = manifest
            differs = "; ".join(kept.differences(request, manifest).made)
            foreign = elsewhere(manifest.machine)
            why = f"{foreign and f'{foreign}: '}the result of {kept.day(manifest)}, made by other code: {differs}"
            rows.append(Planned(made.name, "kept", why, manifest.seconds))
        elif run.store.share and (manifest := run.store.share.look(made.name, request.key())):
            built[made.name] = manifest
            size = sum(entry.size for entry in manifest.files) / 2**20
            foreign = elsewhere(manifest.machine) if made.models_for(section) else ""
            why = f"{size:.1f} MiB from {run.store.share.shown}{foreign and f', {foreign}'}"
            rows.append(Planned(made.name, "fetch", why, None))
        else:
            why = wrong or (
                "never built" if last is None else "; ".join(changed(request, last, run.store)) or "not in the store"
            )
            rows.append(Planned(made.name, "run", why, seconds))
    return rows


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
    """Who can reach or change the results, where that should be known before a run."""
    store = store_of(config)
    about_store = [store.notice] if store.root.is_dir() and store.notice else []
    return about_store + ([store.share.notice] if store.share and store.share.notice else [])


class _Unknown:
    """Stands for an input that is not built yet."""

    digest = kept.UNKNOWN


def changed(request: Request, last: Manifest | None, store: Store) -> list[str]:
    """What differs between a request and the last build of its stage, in words; unknown inputs are passed over.

    Where nothing but code and libraries differ, it is told what `--keep` would do.
    """
    if last is None:
        return []
    name = request.stage.name
    differ = kept.differences(request, last)
    if differ.words and (made := kept.fitting(request, store)) is not None:
        unknown = [n for n, value in request.inputs.items() if isinstance(value, _Unknown)]
        condition = f", if {' and '.join(unknown)} come out the same" if unknown else ""
        return [*differ.words, f"--keep {name} would keep the result of {kept.day(made)}{condition}"]
    return differ.words

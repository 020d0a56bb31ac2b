"""`raft plan`: for each stage whether it is cached, and why not, from the store alone. Starts and fetches nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flows.config import RunConfig
from flows.pipeline import Models, Run, stages_to, store_of
from tasks.models import on_this_machine
from tasks.stage import Request, Silent
from tasks.store import Manifest


@dataclass(frozen=True)
class Planned:
    """One stage's outlook: `cached`, `fetch` (from the share), `run`, or `maybe` (if its inputs come out different)."""

    stage: str
    state: str
    why: str
    seconds: float | None = None


def plan(config: RunConfig, until: str) -> list[Planned]:
    """The outlook for every stage up to `until`."""
    models = Models(config.models, on_this_machine)
    run = Run(config, store_of(config), models, Silent())
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
            changes = changed(request, last)
            if last is None:
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
            rows.append(Planned(made.name, "cached", manifest.summary, manifest.seconds))
        elif run.store.share and (manifest := run.store.share.look(made.name, request.key())):
            built[made.name] = manifest
            size = sum(entry.size for entry in manifest.files) / 2**20
            rows.append(Planned(made.name, "fetch", f"{size:.1f} MiB from {run.store.share.shown}", None))
        else:
            why = wrong or ("never built" if last is None else "; ".join(changed(request, last)) or "not in the store")
            rows.append(Planned(made.name, "run", why, seconds))
    return rows


def notices_of(config: RunConfig) -> list[str]:
    """Who can reach or change the results, where that should be known before a run."""
    store = store_of(config)
    about_store = [store.notice] if store.root.is_dir() and store.notice else []
    return about_store + ([store.share.notice] if store.share and store.share.notice else [])


class _Unknown:
    """Stands for an input that is not built yet."""

    digest = "unknown"


def changed(request: Request, last: Manifest | None) -> list[str]:
    """What differs between a request and the last build of its stage, in words; unknown inputs are passed over."""
    if last is None:
        return []
    now, then = request.ingredients(), last.ingredients
    said: list[str] = []
    for name, digest in now["inputs"].items():
        if digest not in (_Unknown.digest, then.get("inputs", {}).get(name)):
            said.append(f"input {name} changed")
    said += _differences(f"{request.stage.name}.", then.get("config", {}), now["config"])
    for name, section in now["shared"].items():
        said += _differences(f"{name}.", then.get("shared", {}).get(name, {}), section)
    said += [f"model {n} changed" for n in _keys(then.get("models", {}), now["models"])]
    if now["seed"] != then.get("seed"):
        said.append(f"seed: {then.get('seed')} → {now['seed']}")
    code = _keys(then.get("code", {}), now["code"])
    if code:
        said.append("code of " + ", ".join(code[:3]) + (f" and {len(code) - 3} more" if len(code) > 3 else ""))
    packages = _keys(then.get("packages", {}), now["packages"])
    said += [f"{n}: {then.get('packages', {}).get(n)} → {now['packages'].get(n)}" for n in packages]
    if now["version"] != then.get("version"):
        said.append(f"stage version: {then.get('version')} → {now['version']}")
    return said


def _keys(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return sorted(n for n in {*then, *now} if then.get(n) != now.get(n))


def _differences(prefix: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    said = []
    for name in _keys(then, now):
        old, new = then.get(name), now.get(name)
        if isinstance(old, Mapping) and "sha256" in old and isinstance(new, Mapping):
            said.append(f"{prefix}{name}: the file's content changed")
        else:
            said.append(f"{prefix}{name}: {old} → {new}")
    return said

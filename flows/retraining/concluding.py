"""The end of a night: the registry follows the gate's judgement, the adapter is tested, and all of it is logged once.

Every step leaves a durable trace (the open decision, the registry's history, the log), and each is looked for before
it is taken. So a night that was killed between any two of them is brought to its end by the next one, and the log has
the same line as if it had lived.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping

from flows.run import Run
from flows.walk import Built
from raft_errors import RaftError
from tasks.adapters.decisions import Open, Result, RetrainDecision, append, read_decisions, read_open
from tasks.adapters.registry import Registry
from tasks.adapters.smoke import smoke_test
from tasks.adapters.versions import Adapter, Event, Version
from tasks.build.events import Said
from tasks.store.manifest import Link, Manifest

log = logging.getLogger("raft.flows")

NEEDED = ("export", "records", "gate")
"""Stages of a judged candidate without whose files it can neither be promoted nor tested."""


def conclude(run: Run, registry: Registry, decision: Open) -> RetrainDecision:
    """Registers the judged candidate and does with it what the gate says, as far as that has not been done yet."""
    night = decision.night
    version = registry.register(night.stages, reason=night.reason, started_from=night.start)
    result, why = _follow(run, registry, version.number, decision)
    return night.model_copy(update={"version": version.number, "result": result, "why": why})


def take_up(run: Run, registry: Registry) -> RetrainDecision | None:
    """Brings to its end, and logs, what a killed night had judged; None where there is no such night.

    Where files of the candidate are damaged or gone, the decision is left open, so that they are built again.
    """
    decision = read_open(run.store, registry.name) or _unlogged(run, registry)
    if decision is None or not decision.judged:
        return None
    if not set(NEEDED) <= manifests(run, {name: decision.night.stages[name] for name in NEEDED}).keys():
        return None
    run.reporter(Said(f"going on with what the night of {decision.night.at} had decided: {decision.night.reason}"))
    night = conclude(run, registry, decision)
    append(run.store, registry.name, night)
    return night


def end_trial(run: Run, registry: Registry) -> None:
    """Tests a version that is on trial though no decision about it is open."""
    adapter = registry.read()
    version = adapter.in_use
    if version is not None and adapter.on_trial:
        run.reporter(Said(f"version {version.number} was promoted and not tested yet: testing it"))
        _test(run, registry, version)


def manifests(run: Run, links: Mapping[str, Link]) -> Built:
    """Those of the linked results that are whole in the store."""
    results = {name: run.store.load(link.stage, link.key) for name, link in links.items()}
    return {name: m for name, m in results.items() if m is not None and m.digest == links[name].digest}


def _unlogged(run: Run, registry: Registry) -> Open | None:
    """The newest version, if a night of an earlier release made it and died before its line was in the log."""
    adapter = registry.read()
    if not adapter.versions:
        return None
    version = adapter.versions[-1]
    if not set(NEEDED) <= version.stages.keys():
        return None  # not of a night: what `raft run` built
    if any(night.version == version.number for night in read_decisions(run.store, registry.name)):
        return None
    registered = next((n for n, e in enumerate(adapter.history) if e.version == version.number), 0)
    ingest = run.store.read("ingest", version.stages["ingest"].key) if "ingest" in version.stages else None
    night = RetrainDecision(
        id=uuid.uuid4().hex[:12],
        at=version.created,
        action="retrain",
        reason=adapter.history[registered].reason if adapter.history else version.reason,
        result="nothing",
        start=version.started_from,
        start_reason="not known: the night died before it wrote this down",
        corpus=ingest.ingredients.get("inputs", {}).get("corpus", "") if ingest else "",
        settings={},
        stages=version.stages,
    )
    return Open(night=night, events=registered)


def _follow(run: Run, registry: Registry, number: int, decision: Open) -> tuple[Result, str]:
    """What becomes of the candidate: what has become of it already, else what the gate says."""
    gate = _gate(run, decision)
    verdict, reason = gate.metrics["verdict"], gate.metrics["reason"]
    adapter = registry.read()
    version = adapter.version(number)
    last = _last_event(adapter, number, decision.events)
    if last is not None and not (adapter.on_trial and adapter.promoted == number):
        return _as_it_was(registry, number, last, reason)
    if last is None:
        run.reporter(Said(f"gate: {verdict}: {reason}"))
        if verdict == "reject":
            registry.retire(number, reason=f"rejected: {reason}")
            return "rejected", reason
        if verdict == "hold":
            return "held", reason
        if other := _not_compared(adapter, gate):
            return "held", f"version {other} came into use after the gate had compared: {reason}"
        registry.promote(number, reason=reason, on_trial=True)
    passed, why = _test(run, registry, version)
    if not passed:
        return "rolled back", why
    _retire_older(registry, number)
    return "promoted", f"{reason}; {why}"


def _gate(run: Run, decision: Open) -> Manifest:
    link = decision.night.stages["gate"]
    manifest = run.store.load(link.stage, link.key)
    if manifest is None:
        raise RaftError(
            f"The judgement gate/{link.key[:8]} of the candidate is missing or damaged",
            do="run raft retrain again: it is made anew",
        )
    return manifest


def _last_event(adapter: Adapter, number: int, since: int) -> Event | None:
    """What last happened to the version since the gate judged it; None if it was only registered."""
    events = [e for e in adapter.history[since:] if e.version == number and e.action != "registered"]
    return events[-1] if events else None


def _as_it_was(registry: Registry, number: int, last: Event, reason: str) -> tuple[Result, str]:
    """The result that a version's history tells, where nothing is left to be done with it but to tidy up."""
    if last.action == "rolled back":
        return "rolled back", last.reason
    if last.action == "retired":
        return "rejected", last.reason.removeprefix("rejected: ")
    _retire_older(registry, number)
    return "promoted", f"{reason}; {last.reason}" if last.action == "tested" else last.reason


def _not_compared(adapter: Adapter, gate: Manifest) -> int | None:
    """The version in use, if it is another one than the gate compared the candidate with."""
    if adapter.in_use is None or adapter.in_use.stages["export"] == gate.lineage.get("promoted_export"):
        return None
    return adapter.in_use.number


def _retire_older(registry: Registry, number: int) -> None:
    for older in registry.read().versions:
        if older.state == "candidate" and older.number < number:
            registry.retire(older.number, reason=f"superseded by version {number}")


def _test(run: Run, registry: Registry, version: Version) -> tuple[bool, str]:
    """Smoke-tests the version that was just promoted; takes it back where it fails."""
    try:
        link = version.stages["records"]
        records = run.store.load(link.stage, link.key)
        if records is None:
            raise RaftError("its records are not in the store")
        passed = smoke_test(registry, version, run.models["base"], records, run.config.retrain)
    except Exception as error:  # noqa: BLE001  whatever it is, an adapter that fails its test is not left in use
        why = f"smoke test: {error.what if isinstance(error, RaftError) else f'{type(error).__name__}: {error}'}"
        log.warning("version %d of %s is taken back: %s", version.number, registry.name, why)
        registry.roll_back(reason=why, number=version.number)
        return False, why
    why = f"smoke test: {passed}"
    registry.settle(version.number, reason=why)
    return True, why

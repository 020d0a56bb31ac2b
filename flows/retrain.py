"""One night: look at the corpus, decide, and where it is worth it train, compare, promote, test, or go back.

It only chains: the choice is `tasks.policy`'s, the comparison `tasks.gate`'s, the pointer `tasks.registry`'s. A night
that was killed is gone on with by the next one, which finds its stages in the store.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from data.nouns import Chunk, Document, read_jsonl
from flows import pipeline
from flows.pipeline import Built, Run, Step
from raft_errors import RaftError
from tasks import evaluate, export, gate, replay, train
from tasks.decisions import Night, Result, append, days_since_training, read_decisions
from tasks.keys import canonical, key_of, result_fields
from tasks.locks import locked
from tasks.policy import Change, Choice, choose, choose_start, compare
from tasks.recall import recall_then_and_now
from tasks.registry import Registry, now
from tasks.smoke import smoke_test
from tasks.store import Link, Manifest
from tasks.versions import Adapter, Version

log = logging.getLogger("raft.flows")

DECIDING = ("models", "ingest", "chunk", "embed", "index", "retrieval", "questions", "records", "train")
"""The sections whose change asks for another training."""


def retrain(run: Run, *, direct: bool = False, force: bool = False) -> Night:
    """Decides what this night asks for, does it, and writes down what and why. One night at a time an adapter.

    Args:
        direct: without Prefect, which is not started anyway where nothing changed.
        force: train even if nothing asks for it.
    """
    began = time.monotonic()
    registry = Registry(run.store, run.config.name)
    waiting = f"Another night of {registry.name} is at work"
    with (
        pipeline.at_work(run),
        locked(run.store.lock("retrain", registry.name), on_wait=lambda who: run.reporter.say(f"{waiting}: {who}")),
    ):
        _end_trial(run, registry)
        night = _unchanged(run, registry, force)
        if night is None:
            night = pipeline.run_steps(run, "evaluate", lambda step: _work(run, registry, step, force), direct=direct)
        night = night.model_copy(update={"seconds": round(time.monotonic() - began, 1)})
        append(run.store, registry.name, night)
    return night


def settings_of(run: Run) -> dict[str, str]:
    """Digests of the sections that decide a training; files named in them count by their bytes."""
    found = {}
    for name in DECIDING:
        section = getattr(run.config, name)
        found[name] = key_of(result_fields(section))
    return {**found, "seed": key_of({"seed": run.config.seed})}


def _unchanged(run: Run, registry: Registry, force: bool) -> Night | None:
    """The night that has nothing to do, known from the log and a look at the corpus alone."""
    nights = read_decisions(run.store, registry.name)
    if force or not nights:
        return None
    corpus, settings = run.corpus().digest, settings_of(run)
    last, age, most = nights[-1], days_since_training(nights, registry.read()), run.config.retrain.max_age_days
    too_old = age is not None and most is not None and age >= most
    if (last.corpus, last.settings) != (corpus, settings) or too_old:
        return None
    reason = f"corpus and settings are those of {last.at}"
    return Night(at=now(), action="nothing", reason=reason, result="nothing", corpus=corpus, settings=settings)


def _work(run: Run, registry: Registry, step: Step, force: bool) -> Night:
    """Builds index and records, chooses, and goes as far as was chosen."""
    corpus, settings = run.corpus().digest, settings_of(run)
    built = pipeline.chain(run, "records", step)
    assert built is not None
    nights = read_decisions(run.store, registry.name)
    choice, change = _choose(run, registry.read(), nights, built, settings, force)
    run.reporter.say(f"{choice.action}: {choice.reason}")
    night = Night(
        at=now(),
        action=choice.action,
        reason=choice.reason,
        result="refreshed" if choice.action == "refresh" else "nothing",
        change=change.to_dict() if change else None,
        corpus=corpus,
        settings=settings,
        stages=_links(built),
    )
    return night if choice.action != "retrain" else _train(run, registry, step, built, night)


def _choose(
    run: Run, adapter: Adapter, nights: list[Night], built: Built, settings: Mapping[str, str], force: bool
) -> tuple[Choice, Change | None]:
    config = run.config.retrain
    trained = next((n for n in reversed(nights) if n.action == "retrain"), None)
    then = _manifests(run, adapter.versions[-1].stages) if adapter.versions else {}
    if not {"ingest", "chunk", "index", "records"} <= then.keys():
        return choose(config, change=None, age_days=None, forced=force), None
    change = compare(_documents(then), _documents(built), _passages(then), _passages(built))
    facts: dict[str, Any] = {
        "change": change,
        "age_days": days_since_training(nights, adapter),
        "settings": [n for n in settings if settings[n] != trained.settings.get(n)] if trained else [],
        "forced": force,
    }
    choice = choose(config, **facts)
    if choice.action == "refresh" and change.passages > 0:
        recall = recall_then_and_now(then, built, run.config.retrieval, run.models["embedder"])
        choice = choose(config, **facts, recall=recall)
    return choice, change


def _documents(built: Mapping[str, Manifest]) -> dict[str, str]:
    return {d.source: d.sha256 for d in read_jsonl(built["ingest"].path("documents.jsonl"), Document)}


def _passages(built: Mapping[str, Manifest]) -> list[str]:
    return [c.id for c in read_jsonl(built["chunk"].path("chunks.jsonl"), Chunk)]


def _train(run: Run, registry: Registry, step: Step, built: Built, night: Night) -> Night:
    """Trains a candidate, has it judged, and lets the registry follow the judgement."""
    adapter = registry.read()
    view: dict[str, Any] = dict(built)
    start, start_reason = _warm(run, adapter, step, view)
    run.reporter.say(f"training: {start_reason}")
    built = {**built, **({"replay": view["records"]} if start else {})}
    view["train"] = built["train"] = step(run.request(train.STAGE, view))
    view["records"] = built["records"]
    for made in (export.STAGE, evaluate.STAGE):
        view[made.name] = built[made.name] = step(run.request(made, view))
    if adapter.in_use and adapter.in_use.stages["export"] == built["export"].link:
        version, result, why = adapter.in_use.number, "the same adapter", "training made the adapter that is in use"
    else:
        built["gate"] = step(run.request(gate.STAGE, {**view, **_rivals(run, adapter)}))
        made_version = registry.register(built, reason=night.reason, started_from=start)
        version = made_version.number
        result, why = _follow(run, registry, made_version, built)
    return night.model_copy(
        update={
            "start": start,
            "start_reason": start_reason,
            "version": version,
            "result": result,
            "why": why,
            "stages": _links(built),
        }
    )


def _warm(run: Run, adapter: Adapter, step: Step, view: dict[str, Any]) -> tuple[int | None, str]:
    """Where training starts; for a warm start `view` then has the earlier training and the records to repeat."""
    then = _manifests(run, adapter.in_use.stages) if adapter.in_use else {}
    start, why = choose_start(
        run.config.retrain, adapter.promoted, adapter.warm_starts, _obstacle(run, then) if adapter.in_use else ""
    )
    if start is None:
        return None, why
    chosen = step(run.request(replay.STAGE, {**view, "earlier": then["records"]}))
    if not chosen.metrics["new"] + chosen.metrics["repeated"]:
        return None, "from the base model: there is no record that the promoted version does not know"
    view |= {"start": then["train"], "records": chosen}
    return start, f"{why}, {chosen.summary}"


def _obstacle(run: Run, then: Mapping[str, Manifest]) -> str:
    """Why the promoted version cannot be gone on from."""
    if not {"train", "records"} <= then.keys():
        return "the promoted version's training is no longer in the store"
    made = then["train"].ingredients
    if made["models"]["base"] != run.models["base"].digest:
        return "the base model was changed"
    wanted = result_fields(run.config.train)
    changed = [n for n in train.LORA_FIELDS if n != "dropout" and canonical(wanted[n]) != made["config"].get(n)]
    return f"train.{', train.'.join(changed)} was changed" if changed else ""


def _rivals(run: Run, adapter: Adapter) -> dict[str, Manifest]:
    """What the gate compares with: the promoted version's stages, and the frozen test set."""
    found: dict[str, Manifest] = {}
    if adapter.in_use:
        then = _manifests(run, adapter.in_use.stages)
        missing = [n for n in ("export", "train", "records") if n not in then]
        if missing:
            raise RaftError(
                f"Version {adapter.promoted} of {adapter.name} is in use, but its {', '.join(missing)} in the store is "
                "missing or damaged, so nothing can be compared with it",
                do="build it again (raft run with its configuration), or raft rollback",
            )
        found |= {f"promoted_{name}": then[name] for name in ("export", "train", "records")}
    if adapter.versions and (link := adapter.versions[0].stages.get("records")):
        frozen = run.store.load(link.stage, link.key)
        if frozen is not None:
            found["frozen"] = frozen
    return found


def _follow(run: Run, registry: Registry, version: Version, built: Built) -> tuple[Result, str]:
    """Does with the candidate what the gate says."""
    verdict, reason = built["gate"].metrics["verdict"], built["gate"].metrics["reason"]
    run.reporter.say(f"gate: {verdict}: {reason}")
    if verdict == "reject":
        registry.retire(version.number, reason=f"rejected: {reason}")
        return "rejected", reason
    if verdict == "hold":
        return "held", reason
    registry.promote(version.number, reason=reason, on_trial=True)
    passed, why = _test(run, registry, version, built["records"])
    if not passed:
        return "rolled back", why
    for older in registry.read().versions:
        if older.state == "candidate" and older.number < version.number:
            registry.retire(older.number, reason=f"superseded by version {version.number}")
    return "promoted", f"{reason}; {why}"


def _test(run: Run, registry: Registry, version: Version, records: Manifest) -> tuple[bool, str]:
    """Smoke-tests the version that was just promoted; takes it back where it fails."""
    try:
        passed = smoke_test(registry, version, run.models["base"], records, run.config.retrain)
    except Exception as error:  # noqa: BLE001  whatever it is, an adapter that fails its test is not left in use
        why = f"smoke test: {error.what if isinstance(error, RaftError) else f'{type(error).__name__}: {error}'}"
        log.warning("version %d of %s is taken back: %s", version.number, registry.name, why)
        registry.roll_back(reason=why, number=version.number)
        return False, why
    why = f"smoke test: {passed}"
    registry.settle(version.number, reason=why)
    return True, why


def _end_trial(run: Run, registry: Registry) -> None:
    """A night that was killed between promotion and smoke test left a version on trial: it is tested now."""
    adapter = registry.read()
    version = adapter.in_use
    if version is None or not adapter.on_trial:
        return
    run.reporter.say(f"version {version.number} was promoted and not tested yet: testing it")
    link = version.stages["records"]
    records = run.store.load(link.stage, link.key)
    if records is None:
        registry.roll_back(reason="smoke test: its records are not in the store", number=version.number)
    else:
        _test(run, registry, version, records)


def _manifests(run: Run, links: Mapping[str, Link]) -> Built:
    """Those of the linked results that are whole in the store."""
    found = {name: run.store.load(link.stage, link.key) for name, link in links.items()}
    return {name: m for name, m in found.items() if m is not None and m.digest == links[name].digest}


def _links(built: Mapping[str, Manifest]) -> dict[str, Link]:
    return {name: manifest.link for name, manifest in built.items()}

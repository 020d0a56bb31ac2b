"""One night: look at the corpus, decide, and where it is worth it train, compare, promote, test, or go back.

It only chains: the choice is the policy's and the pointer the registry's (`tasks.adapters`), the comparison
`tasks.gate`'s, and what follows from a judgement is in `flows.retraining.concluding`. A night that was killed is gone
on with by the next one, which finds its stages in the store and its decision beside the log.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping
from typing import Any

from data.nouns import Chunk, Document, read_jsonl
from flows import pipeline
from flows.pipeline import Built, Run, Step
from flows.retraining.concluding import conclude, end_trial, manifests, take_up
from raft_errors import RaftError
from tasks import evaluate, export, gate, replay, train
from tasks.adapters.decisions import Open, RetrainDecision, append, days_since_training, note, read_decisions, read_open
from tasks.adapters.policy import Change, Choice, choose, choose_start, compare
from tasks.adapters.registry import Registry, now
from tasks.adapters.versions import Adapter
from tasks.build.events import Said
from tasks.build.kept import setting_differences
from tasks.build.keys import key_of, result_fields
from tasks.runtime.recall import recall_then_and_now
from tasks.store.locks import locked
from tasks.store.manifest import Link, Manifest
from tasks.work.train import LORA_FIELDS

log = logging.getLogger("raft.flows")

DECIDING = ("models", "ingest", "chunk", "embed", "index", "retrieval", "questions", "records", "train")
"""The sections whose change asks for another training."""


def retrain(run: Run, *, direct: bool = False, force: bool = False) -> RetrainDecision:
    """Decides what this night asks for, does it, and writes down what and why. One night at a time an adapter.

    What a killed night left is brought to its end first; where tonight asks for nothing more, that is what is returned.

    Args:
        direct: without Prefect, which is not started anyway where nothing changed.
        force: train even if nothing asks for it.
    """
    began = time.monotonic()
    registry = Registry(run.store, run.config.name)
    waiting = f"Another night of {registry.name} is at work"
    with (
        pipeline.at_work(run),
        locked(run.store.lock("retrain", registry.name), on_wait=lambda who: run.reporter(Said(f"{waiting}: {who}"))),
    ):
        concluded = take_up(run, registry)
        end_trial(run, registry)
        begun = _begun(run, registry)
        force = force or (begun is not None and begun.forced)
        night = _unchanged(run, registry, force) if begun is None else None
        if night is not None and concluded is not None:
            return concluded
        if night is None:
            night = pipeline.run_steps(
                run, "evaluate", lambda step: _work(run, registry, step, force, begun), direct=direct
            )
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


def _begun(run: Run, registry: Registry) -> Open | None:
    """What an earlier night decided and did not get to judge, if it holds still: a person asked for it, or corpus and
    settings are the ones it was decided on."""
    decision = read_open(run.store, registry.name)
    if decision is None or decision.forced:
        return decision
    same = (decision.night.corpus, decision.night.settings) == (run.corpus().digest, settings_of(run))
    return decision if same else None


def _unchanged(run: Run, registry: Registry, force: bool) -> RetrainDecision | None:
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
    return RetrainDecision(
        at=now(), action="nothing", reason=reason, result="nothing", corpus=corpus, settings=settings
    )


def _work(run: Run, registry: Registry, step: Step, force: bool, begun: Open | None) -> RetrainDecision:
    """Builds index and records, chooses, and goes as far as was chosen.

    Args:
        begun: what an earlier night chose and did not finish.
    """
    built = pipeline.chain(run, "records", step)
    assert built is not None
    # what was read, and not a second look: a file may be saved between the two
    corpus, settings = built["ingest"].ingredients["inputs"]["corpus"], settings_of(run)
    nights = read_decisions(run.store, registry.name)
    if begun is not None and (begun.night.corpus, begun.night.settings) == (corpus, settings):
        run.reporter(Said(f"going on with the training decided on {begun.night.at}: {begun.night.reason}"))
        night = begun.night.model_copy(update={"stages": _links(built)})
        return _train(run, registry, step, built, Open(night=night, forced=begun.forced))
    choice, change = _choose(run, registry.read(), nights, built, settings, force)
    run.reporter(Said(f"{choice.action}: {choice.reason}"))
    night = RetrainDecision(
        id=uuid.uuid4().hex[:12],
        at=now(),
        action=choice.action,
        reason=choice.reason,
        result="refreshed" if choice.action == "refresh" else "nothing",
        change=change.to_dict() if change else None,
        corpus=corpus,
        settings=settings,
        stages=_links(built),
    )
    if choice.action != "retrain":
        return night
    return _train(run, registry, step, built, Open(night=night, forced=force))


def _choose(
    run: Run, adapter: Adapter, nights: list[RetrainDecision], built: Built, settings: Mapping[str, str], force: bool
) -> tuple[Choice, Change | None]:
    config = run.config.retrain
    trained = next((n for n in reversed(nights) if n.action == "retrain"), None)
    then = manifests(run, adapter.versions[-1].stages) if adapter.versions else {}
    if not {"ingest", "chunk", "index", "records"} <= then.keys():
        return choose(config, change=None, age_days=None, forced=force), None
    change = compare(_documents(then), _documents(built), _passages(then), _passages(built))
    known = trained.settings if trained else {}  # none where the line was written for a night that had died
    facts: dict[str, Any] = {
        "change": change,
        "age_days": days_since_training(nights, adapter),
        "settings": [n for n in settings if known and settings[n] != known.get(n) and _chosen_anew(run, then, n)],
        "forced": force,
    }
    choice = choose(config, **facts)
    if choice.action == "refresh" and change.passages > 0:
        recall = recall_then_and_now(then, built, run.config.retrieval, run.models["embedder"])
        choice = choose(config, **facts, recall=recall)
    return choice, change


def _chosen_anew(run: Run, then: Mapping[str, Manifest], name: str) -> bool:
    """Whether somebody changed a section since the last training.

    The log has digests alone, and they change also where a release brings a new setting or where the project's folder
    was moved; the results of that training say what they were made with.
    """
    if name == "models":
        earlier = {n: digest for m in then.values() for n, digest in m.ingredients["models"].items()}
        return any(run.models[n].digest != digest for n, digest in earlier.items())
    ingredients = then["records"].ingredients["shared"] if name == "retrieval" else {}
    if name in then:
        ingredients = {name: then[name].ingredients["config"]}
    if name not in ingredients:
        return True
    return bool(setting_differences(ingredients[name], getattr(run.config, name)).chosen)


def _documents(built: Mapping[str, Manifest]) -> dict[str, str]:
    return {d.source: d.sha256 for d in read_jsonl(built["ingest"].path("documents.jsonl"), Document)}


def _passages(built: Mapping[str, Manifest]) -> list[str]:
    return [c.id for c in read_jsonl(built["chunk"].path("chunks.jsonl"), Chunk)]


def _train(run: Run, registry: Registry, step: Step, built: Built, decision: Open) -> RetrainDecision:
    """Trains a candidate, has it judged, and lets the registry follow the judgement.

    Before each step that cannot be taken twice, the decision is noted as far as it is known.
    """
    note(run.store, registry.name, decision)
    adapter = registry.read()
    view: dict[str, Any] = dict(built)
    start, start_reason = _warm(run, adapter, step, view)
    run.reporter(Said(f"training: {start_reason}"))
    built = {**built, **({"replay": view["records"]} if start else {})}
    view["train"] = built["train"] = step(run.request(train.STAGE, view))
    view["records"] = built["records"]
    for made in (export.STAGE, evaluate.STAGE):
        view[made.name] = built[made.name] = step(run.request(made, view))
    known = {"start": start, "start_reason": start_reason}
    if adapter.in_use and adapter.in_use.stages["export"] == built["export"].link:
        same = {"version": adapter.in_use.number, "result": "the same adapter"}
        why = "training made the adapter that is in use"
        return decision.night.model_copy(update={**known, **same, "why": why, "stages": _links(built)})
    built["gate"] = step(run.request(gate.STAGE, {**view, **_rivals(run, adapter)}))
    night = decision.night.model_copy(update={**known, "stages": _links(built)})
    judged = decision.model_copy(update={"night": night, "events": len(registry.read().history)})
    note(run.store, registry.name, judged)
    return conclude(run, registry, judged)


def _warm(run: Run, adapter: Adapter, step: Step, view: dict[str, Any]) -> tuple[int | None, str]:
    """Where training starts; for a warm start `view` then has the earlier training and the records to repeat."""
    then = manifests(run, adapter.in_use.stages) if adapter.in_use else {}
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
        return "the base model, or what its chat template is told, was changed"
    shape = {*LORA_FIELDS} - {"dropout"}
    then_set = {n: value for n, value in made["config"].items() if n in shape}
    now_set = {n: value for n, value in result_fields(run.config.train).items() if n in shape}
    return "; ".join(setting_differences(then_set, run.config.train, now_set, prefix="train.").chosen)


def _rivals(run: Run, adapter: Adapter) -> dict[str, Manifest]:
    """What the gate compares with: the promoted version's stages, and the frozen test set."""
    found: dict[str, Manifest] = {}
    if adapter.in_use:
        then = manifests(run, adapter.in_use.stages)
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


def _links(built: Mapping[str, Manifest]) -> dict[str, Link]:
    return {name: manifest.link for name, manifest in built.items()}

"""One night: look at the corpus, decide, and where it is worth it train, compare, promote, test, or go back.

It is a flow made of the pipeline's parts, and only chains: the choice is the policy's and the pointer the registry's
(`tasks.adapters`), the comparison `tasks.gate`'s, and what follows from a judgement is in
`flows.retraining.concluding`. The next night takes up what a killed one left: it finds the stages in the store and the
decision beside the log.
"""

from __future__ import annotations

import functools
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flows.build import work
from flows.calls import CALLS, calls_to
from flows.finished import remember
from flows.pipeline import Prepared, assess, prepare, read
from flows.retraining.choice import choose_action, settings_of
from flows.retraining.concluding import conclude, end_trial, manifests, take_up
from flows.retraining.retriever import RetrieverKeeper
from flows.run import Run, at_work
from flows.step import Step
from flows.walk import Built, Walk, asked_for, follow
from raft_errors import RaftError
from tasks import gate, replay, train
from tasks.adapters.decisions import Open, RetrainDecision, append, days_since_training, note, read_decisions, read_open
from tasks.adapters.policy import Choice, choose_start
from tasks.adapters.registry import Registry, now
from tasks.adapters.smoke import require_command
from tasks.adapters.versions import Adapter
from tasks.build.events import Said
from tasks.build.kept import setting_differences
from tasks.build.keys import result_fields
from tasks.inputs.corpus import Corpus
from tasks.store.locks import locked
from tasks.store.manifest import Link, Manifest
from tasks.work.train import LORA_FIELDS


def retrain(run: Run, *, direct: bool = False, force: bool = False) -> RetrainDecision:
    """Decides what this night asks for, does it, and writes down what and why. One night at a time an adapter.

    What a killed night left is brought to its end first; where tonight asks for nothing more, that is what is returned.

    Args:
        direct: without Prefect, which is not started anyway where nothing changed.
        force: train even if nothing asks for it.
    """
    began = time.monotonic()
    if run.config.retrain.smoke_command:
        require_command(run.config.retrain.smoke_command)  # before anything is trained and promoted for it
    registry = Registry(run.store, run.config.name)
    waiting = f"Another night of {registry.name} is at work"
    with (
        at_work(run),
        locked(run.store.lock("retrain", registry.name), on_wait=lambda who: run.reporter(Said(f"{waiting}: {who}"))),
    ):
        concluded = take_up(run, registry)
        end_trial(run, registry)
        begun = _begun(run, registry)
        force = force or (begun is not None and begun.forced)
        decision = _unchanged(run, registry, force) if begun is None else None
        if decision is not None and concluded is not None:
            return concluded
        if decision is None:
            flow = functools.partial(night, run, registry, force=force, begun=begun)
            decision = work(run, CALLS, lambda step: _followed(run, registry, flow, step), direct=direct)
        decision = decision.model_copy(update={"seconds": round(time.monotonic() - began, 1)})
        append(run.store, registry.name, decision)
        _remember(run, decision)
    return decision


def _followed(run: Run, registry: Registry, flow: Callable[..., RetrainDecision], step: Step) -> RetrainDecision:
    """The flow, with a step that keeps the retriever in use."""
    keeper = RetrieverKeeper(run, registry.read(), step)
    return follow(run, functools.partial(flow, keeper=keeper), Walk(run, keeper))


def _remember(run: Run, night: RetrainDecision) -> None:
    """What is in use after the night counts as finished: all of it, or all but an adapter that was not taken."""
    taken = night.result in ("promoted", "the same adapter")
    calls = [call for call in (CALLS if taken else calls_to("records")) if asked_for(run, call.name)]
    links = {call.name: night.stages[call.name] for call in calls if call.name in night.stages}
    if len(built := manifests(run, links)) == len(calls):
        remember(run, built)


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


def night(
    run: Run,
    registry: Registry,
    make: Walk,
    corpus: Corpus,
    *,
    keeper: RetrieverKeeper,
    force: bool = False,
    begun: Open | None = None,
) -> RetrainDecision:
    """The flow: builds index and records, chooses, and goes as far as was chosen.

    Args:
        begun: what an earlier night chose and did not finish.
        keeper: what keeps the retriever that was fitted for the version in use.
    """
    documents = read(make, corpus)
    prepared = prepare(make, documents)
    settings, nights = settings_of(run), read_decisions(run.store, registry.name)
    if begun is not None and (begun.night.corpus, begun.night.settings) == (corpus.digest, settings):
        run.reporter(Said(f"taking up the training decided on {begun.night.at}: {begun.night.reason}"))
        decision = begun.night.model_copy(update={"stages": _links(make.results)})
        return _train(run, registry, make, prepared, Open(night=decision, forced=begun.forced))
    choice, change = choose_action(run, registry.read(), nights, make.results, settings, force)
    if why := _fits_anew(run, registry.read(), choice, make, keeper):
        run.reporter(Said(f"the retriever is fitted anew: {why}"))
        keeper.give_up()
        prepared = prepare(make, documents)
    if choice.action == "retrain":  # what takes long begins; any other decision is said by whoever gets it
        run.reporter(Said(f"{choice.action}: {choice.reason}"))
    decision = RetrainDecision(
        id=uuid.uuid4().hex[:12],
        at=now(),
        action=choice.action,
        reason=choice.reason,
        result="refreshed" if choice.action == "refresh" else "nothing",
        change=change.to_dict() if change else None,
        corpus=corpus.digest,
        settings=settings,
        stages=_links(make.results),
    )
    if choice.action != "retrain":
        return decision
    return _train(run, registry, make, prepared, Open(night=decision, forced=force))


def _fits_anew(run: Run, adapter: Adapter, choice: Choice, make: Walk, keeper: RetrieverKeeper) -> str:
    """Why a retriever that was kept is fitted anew tonight; "" where it stays, or none was kept."""
    if not keeper.keeps:
        return ""
    if choice.action == "retrain":
        then = manifests(run, adapter.in_use.stages) if adapter.in_use else {}
        version, reason = choose_start(run.config.retrain, adapter.promoted, adapter.warm_starts, _obstacle(run, then))
        if version is None:
            return f"training starts {reason}"
    return keeper.outdated(make.results)


def _train(run: Run, registry: Registry, make: Walk, prepared: Prepared, decision: Open) -> RetrainDecision:
    """The rest of the flow: trains a candidate, has it judged, and lets the registry follow the judgement.

    Before each step that cannot be taken twice, the decision is noted as far as it is known.
    """
    note(run.store, registry.name, decision)
    adapter = registry.read()
    start = _start(run, adapter, make, prepared)
    run.reporter(Said(f"training: {start.reason}"))
    trained = make(train.STAGE, start.records, start=start.earlier)
    exported, report = assess(make, prepared, trained)
    # records that were chosen for a warm start and not trained on after all are no part of the candidate
    stages = {n: m for n, m in make.results.items() if n != replay.STAGE.name or start.version is not None}
    outcome = {"start": start.version, "start_reason": start.reason, "stages": _links(stages)}
    if adapter.in_use and adapter.in_use.stages["export"] == exported.link:
        same = {"version": adapter.in_use.number, "result": "the same adapter"}
        why = "training made the adapter that is in use"
        return decision.night.model_copy(update={**outcome, **same, "why": why})
    candidate = (exported, trained, prepared.records, prepared.index, prepared.chunks, report)
    rival = _rival(run, adapter)
    verdict = make(
        gate.STAGE,
        *candidate,
        promoted_export=rival.get("export"),
        promoted_train=rival.get("train"),
        promoted_records=rival.get("records"),
        frozen=_frozen(run, adapter),
        adapt=prepared.adapt,
    )
    outcome["stages"] = _links({**stages, gate.STAGE.name: verdict})
    judged = decision.model_copy(
        update={"night": decision.night.model_copy(update=outcome), "events": len(registry.read().history)}
    )
    note(run.store, registry.name, judged)
    return conclude(run, registry, judged)


@dataclass(frozen=True)
class Start:
    """Where a training starts.

    Attributes:
        version: of the adapter that a warm start begins with; None for the base model.
        records: what is trained on.
        earlier: the training that a warm start goes on from.
    """

    version: int | None
    reason: str
    records: Manifest
    earlier: Manifest | None = None


def _start(run: Run, adapter: Adapter, make: Walk, prepared: Prepared) -> Start:
    """Where training starts, by policy and by what is still there; for a warm start the records are chosen too."""
    then = manifests(run, adapter.in_use.stages) if adapter.in_use else {}
    version, reason = choose_start(
        run.config.retrain, adapter.promoted, adapter.warm_starts, _obstacle(run, then) if adapter.in_use else ""
    )
    if version is None:
        return Start(None, reason, prepared.records)
    chosen = make(replay.STAGE, prepared.records, then["records"])
    if not chosen.metrics["new"] + chosen.metrics["repeated"]:
        reason = "from the base model: there is no record that the promoted version does not know"
        return Start(None, reason, prepared.records)
    return Start(version, f"{reason}, {chosen.summary}", chosen, then["train"])


def _obstacle(run: Run, then: Mapping[str, Manifest]) -> str:
    """Why training cannot start from the promoted version, or ""."""
    if not {"train", "records"} <= then.keys():
        return "the promoted version's training is no longer in the store"
    earlier = then["train"].ingredients
    if earlier["models"]["base"] != run.models["base"].digest:
        return "the base model, or what its chat template is told, was changed"
    shape = {*LORA_FIELDS} - {"dropout"}
    then_set = {n: value for n, value in earlier["config"].items() if n in shape}
    now_set = {n: value for n, value in result_fields(run.config.train).items() if n in shape}
    return "; ".join(setting_differences(then_set, run.config.train, now_set, prefix="train.").choices)


def _rival(run: Run, adapter: Adapter) -> Built:
    """The stages of the version in use, which the gate compares with; none where there is no such version."""
    if adapter.in_use is None:
        return {}
    then = manifests(run, adapter.in_use.stages)
    missing = [n for n in ("export", "train", "records") if n not in then]
    if missing:
        raise RaftError(
            f"Version {adapter.promoted} of {adapter.name} is in use, but its {', '.join(missing)} in the store is "
            "missing or damaged, so nothing can be compared with it",
            do="build it again (raft run with its configuration), or raft rollback",
        )
    return then


def _frozen(run: Run, adapter: Adapter) -> Manifest | None:
    """The records whose test set was frozen when the first version was made."""
    link = adapter.versions[0].stages.get("records") if adapter.versions else None
    return run.store.load(link.stage, link.key) if link else None


def _links(results: Mapping[str, Manifest]) -> dict[str, Link]:
    return {name: manifest.link for name, manifest in results.items()}

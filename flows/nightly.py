"""The flow that a schedule or a changed corpus starts: one retraining of one domain, in a process of its own.

It only loads the configuration and hands over; what is retrained, and why, is decided in `flows.retraining.night`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.events import emit_event

from data.text.shown import markdown
from tasks.adapters.decisions import Night
from tasks.build.events import Damaged, Event, Finished, Said, Started, Waiting
from tasks.prefect import link as prefect_link

log = logging.getLogger("raft.flows")


FAILED = "raft.run.failed"
DECIDED = "raft.adapter."  # and what became of it: promoted, held, rejected, rolled-back


def tell(event: str, flow_run: FlowRun, payload: dict[str, Any]) -> None:
    """Emits an event about the run's deployment, for notifications and for whoever else listens.

    Prefect's own event of a scheduled run's failure reaches automations only 15 minutes later: it waits for the event
    of the run's scheduling, which the server's scheduler never sends (seen with 3.8.8).
    """
    related = [{"prefect.resource.id": deployment_id(flow_run.deployment_id), "prefect.resource.role": "deployment"}]
    emit_event(event, resource={"prefect.resource.id": f"raft.run.{flow_run.id}"}, related=related, payload=payload)


def deployment_id(number: Any) -> str:
    """How Prefect's events name a deployment."""
    return f"prefect.deployment.{number}"


def _failed(flow: Any, flow_run: FlowRun, state: State) -> None:
    tell(FAILED, flow_run, {"state": state.name, "message": state.message, **flow_run.parameters})


@flow(name="raft-nightly", log_prints=False, flow_run_name="{because}", on_failure=[_failed])
def nightly(config: str, overrides: list[str] | None = None, because: str = "by hand") -> None:
    """Retrains the domain of a configuration, if its corpus or its age asks for it.

    Args:
        config: absolute path of the YAML file; of a deployment's run, the one that is served.
        overrides: `section.field=value` texts, as with `raft run --set`; of a deployment's run, no paths, addresses and
            commands but those that `raft schedule --set` was given.
        because: why now, for the history.
    """
    from flows.pipeline import Run
    from flows.retraining.night import retrain
    from flows.retraining.run_parameters import config_of_run
    from tasks.config import load_config

    logging.getLogger("raft").setLevel(logging.INFO)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    by_server = flow_run_now().deployment_id is not None
    loaded = config_of_run(config, overrides or []) if by_server else load_config(Path(config), overrides or [])
    run = Run.of(loaded, log_event)
    with prefect_link.bounded() as tighten:
        tighten()
        try:
            night = retrain(run)
        except asyncio.CancelledError:  # Prefect ends a run whose place among the deployment's runs it cannot renew
            if prefect_link.still_there():
                raise
            prefect_link.lose(ConnectionError("the run's lease could not be renewed"))
            night = retrain(run, direct=True)
        log.info("%s: %s", night.result, night.why or night.reason)
        _publish(run.config.name, night)
        if not prefect_link.still_there():
            prefect_link.lose(ConnectionError("it does not answer"))
    prefect_link.leave(0)  # the night is in the store; Prefect would wait minutes to say so


def _publish(name: str, night: Night) -> None:
    """The decision, in Prefect's pages and for whoever is notified; a server that is lost hears of none."""
    if prefect_link.lost():
        return
    with prefect_link.only_told():
        create_markdown_artifact(summary(name, night), key=f"night-{name}", description=night.result)
    if night.version is not None:
        told = {"result": night.result, "version": night.version, "why": night.why, "reason": night.reason}
        tell(DECIDED + night.result.replace(" ", "-"), flow_run_now(), told)


def summary(name: str, night: Night) -> str:
    """What was decided and why, for Prefect's pages."""
    lines = [f"# {name}: {night.result}", "", markdown(night.why or night.reason), ""]
    facts = {
        "chosen": markdown(f"{night.action}: {night.reason}"),
        "change": ", ".join(f"{value} {what}" for what, value in (night.change or {}).items()),
        "started from": markdown(night.start_reason),
        "version": night.version,
        "took": f"{night.seconds:.0f} s",
        "corpus": f"`{night.corpus[:12]}`",
    }
    lines += ["| | |", "|---|---|", *(f"| {fact} | {value} |" for fact, value in facts.items() if value)]
    lines += ["", "| stage | key | digest |", "|---|---|---|"]
    lines += [f"| {n} | `{link.key[:12]}` | `{link.digest[:12]}` |" for n, link in night.stages.items()]
    return "\n".join(lines)


def flow_run_now() -> FlowRun:
    """The run that is going on."""
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    return context.flow_run


def log_event(event: Event) -> None:
    """The reporter of a night: its lines go to the run's log."""
    match event:
        case Started(stage):
            log.info("%s …", stage)
        case Waiting(stage, holder):
            log.info("%s is being built by %s: waiting for it", stage, holder or "another run")
        case Damaged(stage, what):
            log.warning("%s in the store is damaged (%s): making it again", stage, what)
        case Finished(manifest, cached):
            took = "cached" if cached else f"{manifest.seconds:.1f} s"
            log.info("%s (%s): %s", manifest.stage, took, manifest.summary)
        case Said(text):
            log.info("%s", text)

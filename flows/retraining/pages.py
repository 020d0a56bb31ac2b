"""What Prefect's pages, and whoever is notified, are told of a night: the decision with its reasons, or a failure."""

from __future__ import annotations

from typing import Any

from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.events import emit_event

from data.text.shown import markdown
from tasks.adapters.decisions import RetrainDecision
from tasks.prefect import link as prefect_link

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


def tell_failure(flow: Any, flow_run: FlowRun, state: State) -> None:
    """The flow's hook for a run that failed."""
    tell(
        FAILED,
        flow_run,
        {"state": state.name, "message": state.message, "config": flow_run.parameters.get("config", "")},
    )


def publish(name: str, night: RetrainDecision) -> None:
    """The decision, in Prefect's pages and for whoever is notified; a server that is lost hears of none."""
    if prefect_link.lost():
        return
    with prefect_link.only_told():
        create_markdown_artifact(summary(name, night), key=f"night-{name}", description=night.result)
    if night.version is not None:
        payload = {"result": night.result, "version": night.version, "why": night.why, "reason": night.reason}
        tell(DECIDED + night.result.replace(" ", "-"), flow_run_now(), payload)


def summary(name: str, night: RetrainDecision) -> str:
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

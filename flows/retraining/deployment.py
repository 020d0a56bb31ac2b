"""The nightly retraining of one domain as a Prefect deployment, and the watch over its corpus that starts it too."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flows.prefect.environment import settle
from flows.prefect.server import answers, running
from raft_errors import BadInput, RaftError
from tasks.config import RunConfig
from tasks.ingest import corpus_of
from tasks.store.store import Store

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.deployments.runner import RunnerDeployment

log = logging.getLogger("raft.flows")

CHANGED = "raft.corpus.changed"
HEARTBEAT_SECONDS = 30  # the least that Prefect allows


def connect(store: Store) -> str:
    """Prefect's settings for a program that talks to the project's server; its address.

    Raises:
        BadInput: no server answers.
    """
    url = running(store)
    if url is None or not answers(url):
        raise BadInput(
            f"No Prefect server answers{f' at {url}' if url else ''}",
            expected="a running server, which keeps the schedule and the history",
            do="start one in another terminal: raft server. Or let cron run `raft retrain`, which needs none",
        )
    os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", str(HEARTBEAT_SECONDS))
    settle(store)
    return url


def deployment(
    flow: Flow[..., Any],
    config: RunConfig,
    path: Path,
    *,
    cron: str | None,
    timezone: str,
    collision: Literal["enqueue", "cancel"],
) -> RunnerDeployment:
    """The nightly flow as a deployment of the domain, named after its adapter.

    What `raft schedule --set` gave is no parameter: it may hold a URL with a secret, and the server shows and stores
    parameters. The processes of the runs are told by `remember`.
    """
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.deployments.runner import EntrypointType, RunnerDeployment
    from prefect.events import DeploymentEventTrigger
    from prefect.schedules import Cron

    strategies = {"enqueue": ConcurrencyLimitStrategy.ENQUEUE, "cancel": ConcurrencyLimitStrategy.CANCEL_NEW}
    changed = DeploymentEventTrigger(
        name=f"{config.name}: its corpus changed",
        expect={CHANGED},
        match={"prefect.resource.id": corpus_id(config)},
        parameters={"because": "corpus {{ (event.payload.digest | default('changed'))[:12] }}"},
    )
    return RunnerDeployment.from_flow(
        flow,
        name=config.name,
        schedule=Cron(cron, timezone=timezone, parameters={"because": "schedule"}) if cron else None,
        parameters={"config": str(path), "overrides": []},
        triggers=[changed],
        concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=strategies[collision]),
        description="Retrains when the corpus asks for it; promotes what passes the gate.",
        entrypoint_type=EntrypointType.MODULE_PATH,
    )


def corpus_id(config: RunConfig) -> str:
    """The resource that events about a domain's corpus name."""
    return f"raft.corpus.{config.name}"


def watch_corpus(config: RunConfig, store: Store, seconds: float) -> None:
    """Looks at the corpus for ever, and emits an event when it has changed and then held still for one look."""
    from prefect.events import emit_event

    known = {m.ingredients.get("inputs", {}).get("corpus") for m in store.manifests("ingest")}
    reported: str | None = None
    last: str | None = None
    now: str | None
    away = False
    while True:
        try:
            now = corpus_of(config.corpus, config.ingest, store).digest
            away = False
        except (OSError, RaftError) as error:  # a source that is away for a moment is no reason to stop watching
            if not away:
                log.warning("the corpus cannot be looked at, trying on: %s", error)
            now, away = last, True
        if now is not None and now == last and now != reported:
            if reported is not None or now not in known:
                emit_event(CHANGED, resource={"prefect.resource.id": corpus_id(config)}, payload={"digest": now})
                log.info("the corpus changed: %s", now[:12])
            reported = now
        last = now
        time.sleep(seconds)

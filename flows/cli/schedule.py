"""`raft schedule`: serves the nightly retraining of one domain, by the clock and whenever its corpus has changed.

The process that serves starts each run as a process of its own, and watches the corpus. Limits, clean-up of runs that
died and notifications are set up on the server in `flows.retraining.automations`. Without a server, cron and
`raft retrain` do.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from flows.cli.app import emit
from flows.cli.verbs import JsonOption, SetOption
from raft_errors import BadInput, RaftError
from tasks.config import CONFIG_NAME, RunConfig, load_config
from tasks.ingest import corpus_of
from tasks.store.store import Store

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

log = logging.getLogger("raft.flows")

CHANGED = "raft.corpus.changed"
HEARTBEAT_SECONDS = 30  # the least that Prefect allows


def schedule(
    config: Annotated[Path | None, typer.Argument(help="YAML file; default ./raft.yaml", show_default=False)] = None,
    cron: Annotated[
        str | None, typer.Option(help="When, as a cron line; empty = only when the corpus changes")
    ] = "0 3 * * *",
    timezone: Annotated[str, typer.Option(help="Time zone of the cron line, e.g. Europe/Berlin")] = "UTC",
    watch: Annotated[float, typer.Option(min=0, help="Seconds between looks at the corpus; 0 = do not watch")] = 60.0,
    collision: Annotated[
        Literal["enqueue", "cancel"],
        typer.Option(help="What a run does that meets another of this domain: wait or give up"),
    ] = "enqueue",
    notify: Annotated[
        list[str] | None,
        typer.Option(help="Told of failures and decisions: https://… (webhook) or mailto://… (any Apprise address)"),
    ] = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Retrain by the clock and when the corpus has changed. Stays in the foreground and needs `raft server`."""
    path = (config or Path(CONFIG_NAME)).absolute()
    loaded = load_config(path, set_ or [])
    store = Store(Path(loaded.store), mode=loaded.store_mode)
    store.prepare()
    url = connect(store)
    _check_cron(cron)
    from prefect import serve

    from flows.nightly import deployment_id
    from flows.prefect.errors import explained
    from flows.retraining.automations import prepare_server
    from flows.retraining.run_parameters import remember

    remember(path, set_ or [])
    made = deployment(loaded, path, set_ or [], cron=cron or None, timezone=timezone, collision=collision)
    with explained(url):
        prepare_server(loaded.name, deployment_id(made.apply()), notify or [])
    words = {
        "deployment": f"{made.flow_name}/{made.name}",
        "server": os.environ["PREFECT_API_URL"],
        "cron": cron or None,
    }
    if json:
        emit({"ok": True, **words, "watch_seconds": watch or None})
    else:
        by = [f"at {cron} ({timezone})"] if cron else []
        by += [f"when the corpus changes (looked at every {watch:g} s)"] if watch else []
        Console(highlight=False).print(
            f"Serving {words['deployment']} {' and '.join(by) or 'on demand'}; pages: "
            f"{url.removesuffix('/api')}. Ctrl-C pauses the schedule.",
            soft_wrap=True,
        )
    if watch:
        threading.Thread(target=watch_corpus, args=(loaded, store, watch), daemon=True).start()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # with which asyncio lets the schedule be paused in peace
    serve(made, limit=2, print_starting_message=False)  # one that works and one that waits for it


def connect(store: Store) -> str:
    """Prefect's settings for a program that talks to the project's server; its address.

    Raises:
        BadInput: no server answers.
    """
    from flows.cli.server import answers, running
    from flows.prefect.flow import settle_environment

    url = running(store)
    if url is None or not answers(url):
        raise BadInput(
            f"No Prefect server answers{f' at {url}' if url else ''}",
            expected="a running server, which keeps the schedule and the history",
            do="start one in another terminal: raft server. Or let cron run `raft retrain`, which needs none",
        )
    os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", str(HEARTBEAT_SECONDS))
    settle_environment(store)
    return url


def deployment(
    config: RunConfig,
    path: Path,
    overrides: list[str],
    *,
    cron: str | None,
    timezone: str,
    collision: Literal["enqueue", "cancel"],
) -> RunnerDeployment:
    """The nightly flow as a deployment of the domain, named after its adapter."""
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.deployments.runner import EntrypointType, RunnerDeployment
    from prefect.events import DeploymentEventTrigger
    from prefect.schedules import Cron

    from flows.nightly import nightly

    strategies = {"enqueue": ConcurrencyLimitStrategy.ENQUEUE, "cancel": ConcurrencyLimitStrategy.CANCEL_NEW}
    changed = DeploymentEventTrigger(
        name=f"{config.name}: its corpus changed",
        expect={CHANGED},
        match={"prefect.resource.id": corpus_id(config)},
        parameters={"because": "corpus {{ (event.payload.digest | default('changed'))[:12] }}"},
    )
    return RunnerDeployment.from_flow(
        nightly,
        name=config.name,
        schedule=Cron(cron, timezone=timezone, parameters={"because": "schedule"}) if cron else None,
        parameters={"config": str(path), "overrides": overrides},
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
    told: str | None = None
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
        if now is not None and now == last and now != told:
            if told is not None or now not in known:
                emit_event(CHANGED, resource={"prefect.resource.id": corpus_id(config)}, payload={"digest": now})
                log.info("the corpus changed: %s", now[:12])
            told = now
        last = now
        time.sleep(seconds)


def _check_cron(cron: str | None) -> None:
    from prefect.client.schemas.schedules import CronSchedule

    if not cron:
        return
    try:
        CronSchedule(cron=cron)
    except ValueError as error:
        raise BadInput(f"--cron {cron!r} is no cron line", expected='five fields, e.g. "0 3 * * *"') from error

"""The verb `schedule`: serves the nightly retraining of one domain, by the clock and when its corpus has changed.

The serving process starts each run as a process of its own, and watches the corpus. Limits, clean-up of dead runs and
notifications are set up on the server by `flows.retraining.automations`. Without a server, use cron and `raft retrain`.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.cli.options import JsonOption, SetOption
from flows.cli.output import Terminal, emit
from flows.retraining.deployment import connect, deployment, watch_corpus
from raft_errors import BadInput
from tasks.config import CONFIG_NAME, load_config
from tasks.store.store import Store


def schedule(
    config: Annotated[Path | None, typer.Argument(help="YAML file; default ./raft.yaml", show_default=False)] = None,
    cron: Annotated[str | None, typer.Option(help="Cron line; empty = only when the corpus changes")] = "0 3 * * *",
    timezone: Annotated[str, typer.Option(help="Time zone of the cron line, e.g. Europe/Berlin")] = "UTC",
    watch: Annotated[float, typer.Option(min=0, help="Seconds between looks at the corpus; 0 = do not watch")] = 60.0,
    collision: Annotated[
        Literal["enqueue", "cancel"],
        typer.Option(help="What a run does if another one of this domain is running: wait or give up"),
    ] = "enqueue",
    notify: Annotated[
        list[str] | None,
        typer.Option(help="Send failures and decisions to: https://… (webhook) or mailto://… (any Apprise address)"),
    ] = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Retrain by the clock and when the corpus has changed. Stays in the foreground and needs `raft server`."""
    path = (config or Path(CONFIG_NAME)).absolute()
    run_config = load_config(path, set_ or [])
    store = Store(Path(run_config.store), mode=run_config.store_mode)
    store.prepare()
    url = connect(store)
    _check_cron(cron)
    from prefect import serve

    from flows.nightly import nightly
    from flows.prefect.errors import explained
    from flows.retraining.automations import prepare_server
    from flows.retraining.pages import deployment_id
    from flows.retraining.run_parameters import remember

    remember(path, set_ or [])
    runner = deployment(nightly, run_config, path, cron=cron or None, timezone=timezone, collision=collision)
    with explained(url):
        prepare_server(run_config.name, deployment_id(runner.apply()), notify or [])
    words = {
        "deployment": f"{runner.flow_name}/{runner.name}",
        "server": os.environ["PREFECT_API_URL"],
        "cron": cron or None,
    }
    if json:
        emit({"ok": True, **words, "watch_seconds": watch or None})
    else:
        by = [f"at {cron} ({timezone})"] if cron else []
        by += [f"when the corpus changes (looked at every {watch:g} s)"] if watch else []
        Terminal().print(
            f"Serving {words['deployment']} {' and '.join(by) or 'on demand'}; pages: "
            f"{url.removesuffix('/api')}. Ctrl-C pauses the schedule.",
            soft_wrap=True,
        )
    if watch:
        threading.Thread(target=watch_corpus, args=(run_config, store, watch), daemon=True).start()
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # with it asyncio lets Prefect pause the schedule before it ends
    serve(runner, limit=2, print_starting_message=False)  # one run at work and one waiting


def _check_cron(cron: str | None) -> None:
    from prefect.client.schemas.schedules import CronSchedule

    if not cron:
        return
    try:
        CronSchedule(cron=cron)
    except ValueError as error:
        raise BadInput(f"--cron {cron!r} is not a cron line", expected='five fields, e.g. "0 3 * * *"') from error

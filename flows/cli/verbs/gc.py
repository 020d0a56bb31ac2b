"""The verb `gc`: shows what the store no longer needs and, with --yes, deletes it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from data.text.counts import counted
from flows.cli.options import JsonOption, SetOption
from flows.cli.output import Terminal, emit, table
from tasks.config import load_config
from tasks.store.manifest import Link
from tasks.store.store import Store
from tasks.upkeep import gc as collection

YesOption = Annotated[bool, typer.Option("--yes", help="Delete; without --yes nothing is touched")]


def gc(
    config: Annotated[
        list[Path] | None,
        typer.Argument(help="YAML files whose results stay; default ./raft.yaml. Name all that share the store"),
    ] = None,
    days: Annotated[float, typer.Option(min=0, help="Keep everything younger than this many days")] = 0.0,
    yes: YesOption = False,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Show what the store no longer needs; with --yes delete it."""
    configs = [load_config(path, set_ or []) for path in config or (None,)]
    store = Store(Path(configs[0].store))
    runs = [link for one in configs for link in _results(one)]
    outcome = collection.collect(store, runs, days) if yes else collection.plan(store, runs, days)
    if json:
        rows = {"keep": [t.to_dict() for t in outcome.keep], "drop": [t.to_dict() for t in outcome.drop]}
        emit({"ok": True, "deleted": yes, "bytes": outcome.freed, **rows})
        return
    out = Terminal()
    columns = ("stage", "key", "what", "size", "why")
    for title, things in (("stays", outcome.keep), ("goes" if not yes else "deleted", outcome.drop)):
        rows_ = [(t.stage, t.key[:8], t.kind, f"{t.bytes / 1e6:.1f} MB", t.why) for t in things]
        if rows_:
            out.print(table(title, columns, rows_))
            out.print()
    if not outcome.drop:
        out.print("Nothing can go.")
    else:
        words = f"{counted(len(outcome.drop), 'folder')}, {outcome.freed / 1e6:.1f} MB"
        out.print(f"Deleted {words}." if yes else f"Would delete {words}. Nothing was touched: --yes deletes.")


def _results(config) -> list[Link]:
    """What a run of the configuration would take from the store, as far as stages are finished and models are here."""
    from flows.run import Models, Run
    from flows.walk import walk
    from raft_errors import RaftError
    from tasks.build.events import silent
    from tasks.build.stage import Request, find
    from tasks.inputs.models import on_this_machine

    run = Run(config, Store(Path(config.store)), Models(config, on_this_machine), silent)
    links: list[Link] = []

    def look(request: Request):
        if any(run.models[role] is None for role in request.roles):
            return None
        if manifest := find(request, run.store, silent):
            links.append(manifest.link)
        return manifest

    # a corpus or file that is missing: its results stay, since they are the newest
    with contextlib.suppress(RaftError):
        walk(run, look)
    return links

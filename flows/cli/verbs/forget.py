"""The verb `forget`: what a document has touched, what to do about it, and, with --yes, its removal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from data.text.counts import counted
from flows.cli.options import ConfigOption, JsonOption, SetOption
from flows.cli.output import Terminal, emit, indented, plain, table
from tasks.config import load_config
from tasks.store.store import Store
from tasks.upkeep.forget import carry_out, plan
from tasks.upkeep.touched import Touched, touched


def forget(
    source: Annotated[
        str,
        typer.Argument(help="A document as citations name it, its last parts, or a pattern with *"),
    ],
    yes: Annotated[
        bool, typer.Option("--yes", help="Delete every result it is in; without --yes nothing is touched")
    ] = False,
    caches: Annotated[
        bool, typer.Option("--caches", help="With --yes: also the item caches, in which its text is kept")
    ] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """List the chunks, questions, records and adapters that a document is in, and plan their retirement."""
    run_config = load_config(config, set_ or [])
    store = Store(Path(run_config.store))
    traces = touched(store, source)
    steps = plan(traces, store, source, run_config.corpus, run_config.ingest)
    if yes:
        carry_out(traces, store, source, run_config.corpus, run_config.ingest, caches=caches)
    if json:
        emit({"ok": True, "deleted": yes, **traces.to_dict(), "plan": steps})
        return
    out = Terminal()
    _show(out, traces)
    if yes:
        freed = sum(thing.bytes for thing in traces.folders)
        out.print(
            f"Deleted {counted(len(traces.folders), 'result')} ({freed / 1e6:.1f} MB). The next run makes new ones."
        )
        return
    out.print("What to do:")
    for number, step in enumerate(steps, 1):
        out.print(indented(f"{number}. {step}", 2, hanging=3))
    out.print("Nothing was changed.")


def _show(out: Console, traces: Touched) -> None:
    out.print(
        f"{plain(', '.join(traces.sources))}: {counted(len(traces.chunks), 'chunk')}, "
        f"{counted(len(traces.questions), 'question')}",
        soft_wrap=True,
    )
    records = [(r.split, r.role, r.id, r.question) for r in traces.records]
    if records:
        out.print(table(counted(len(records), "record"), ("split", "as", "record", "question"), records))
    adapters = [
        (a.version or "-", a.state, a.key[:8], str(a.trained_on), str(a.tested_on), _verdict(a.trained_on))
        for a in traces.adapters
    ]
    if adapters:
        columns = ("version", "state", "export", "trained on", "tested on", "what that means")
        out.print(table(counted(len(adapters), "adapter"), columns, adapters))
    out.print()


def _verdict(trained_on: int) -> str:
    return "its weights learned from it: retire" if trained_on else "only its index holds it: build the index again"

"""The verb `ingest`: reads the sources or, with `--dry-run`, says what reading them would change."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from data.text.shown import few
from flows.cli.options import ConfigArgument, ForceOption, JsonOption, KeepOption, NoPrefectOption, SetOption
from flows.cli.output import Terminal, emit, table
from flows.cli.verbs.run import build_to
from flows.plan import plan
from tasks.config import RunConfig, load_config
from tasks.store.store import Store
from tasks.upkeep.changes import file_changes

STATES = {
    "new": "will be read",
    "changed": "will be read again; their chunks are replaced",
    "moved": "same bytes under a new name",
    "vanished": "",
    "unchanged": "only their time stamps are looked at",
}


def ingest(
    config: ConfigArgument = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change; change nothing")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Drop the documents of files that have vanished")] = False,
    set_: SetOption = None,
    keep: KeepOption = None,
    force: ForceOption = False,
    no_prefect: NoPrefectOption = False,
    json: JsonOption = False,
) -> None:
    """Read the sources into documents. Builds what it needs first."""
    overrides = [*(set_ or []), *(["ingest.prune=true"] if prune else [])]
    if not dry_run:
        build_to(config, overrides, "ingest", force, no_prefect, json, keep)
        return
    run_config = load_config(config, overrides)
    outlook = changes(run_config, Store(Path(run_config.store)))
    if json:
        emit({"ok": True, **outlook})
        return
    out = Terminal()
    rows = [
        (state, str(len(part["files"])), str(part["chunks"] or ""), part["what"], few(part["files"]))
        for state, part in outlook["files"].items()
        if part["files"]
    ]
    out.print(table("", ("files", "number", "chunks now", "what happens", "which"), rows))
    out.print()
    out.print(table("", ("stage", "state", "why"), [(r["stage"], r["state"], r["why"]) for r in outlook["stages"]]))
    out.print("Nothing was changed.")


def changes(config: RunConfig, store: Store) -> dict[str, Any]:
    """What an ingest would do: the files by state with their present chunk counts, and the outlook of the stages."""
    difference = file_changes(config.corpus, config.ingest, store)
    words = {**STATES, "vanished": _fate(config, difference.kept)}
    files = {
        state: {"files": list(names), "chunks": sum(difference.chunks[name] for name in names), "what": words[state]}
        for state, names in difference.states.items()
    }
    return {"files": files, "kept": list(difference.kept), "stages": [asdict(row) for row in plan(config, "index")]}


def _fate(config: RunConfig, names: Collection[str]) -> str:
    if config.ingest.prune:
        return "dropped, with the chunks (--prune)"
    return "kept (--prune drops them)" if names else "dropped: the store does not hold them as they would be read today"

"""The verb `models`: lists the models of a run, verifies and fetches them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.options import ConfigOption, JsonOption, SetOption
from flows.cli.output import Terminal, emit, plain
from tasks.config import load_config


def models(
    config: ConfigOption = None,
    set_: SetOption = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="Fetch what is not here yet")] = False,
    refresh: Annotated[bool, typer.Option("--refresh", help="Fetch again, and choose the source again")] = False,
    json: JsonOption = False,
) -> None:
    """List the models of a run, verify their bytes, and fetch them."""
    from tasks.inputs.models import forget, on_this_machine, resolve

    names = load_config(config, set_ or []).model_names
    say = Terminal(stderr=True).print
    rows = []
    for role, (name, revision) in names.items():
        if refresh and not Path(name).is_dir():
            forget(name, revision)
        files = resolve(name, revision, say=say) if fetch or refresh else on_this_machine(name, revision)
        row: dict[str, Any] = {"role": role, "name": name, "state": "verified" if files else "not fetched"}
        if files:
            row |= {"source": files.source, "digest": files.digest, "folder": str(files.folder)}
        rows.append(row)
    if json:
        emit({"ok": True, "models": rows})
        return
    out = Terminal()
    for row in rows:
        out.print(f"{row['role']:<9} {plain(row['name'])}: {row['state']}", soft_wrap=True)
        if "folder" in row:
            out.print(f"{'':<9} {plain(row['source'])}, digest {row['digest'][:12]}", soft_wrap=True)
            out.print(f"{'':<9} {plain(row['folder'])}", soft_wrap=True)

"""The verb `report`: where the report on the adapter lies, what it says in one line, and the page in the browser."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import ConfigOption, JsonOption, SetOption
from flows.cli.output import Terminal, below_here, emit, plain, warn
from flows.finished import stable
from flows.ready import facts, ready


def report(
    open_: Annotated[
        bool, typer.Option("--open", help="Show it in the browser; where there is none, only its address is printed")
    ] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Say where the report of the last finished run lies, and open it: base against adapter, with intervals."""
    run, built, stale = ready(config, set_, "evaluate")
    warn(stale)
    page = stable(run, built, "report.html")
    opened = open_ and has_browser() and webbrowser.open(page.as_uri())
    summary = built["evaluate"].summary
    if json:
        place = {"report": str(page), "url": page.as_uri(), "opened": opened}
        emit({"ok": True, **facts(stale), **place, "summary": summary})
        return
    out = Terminal()
    out.print(plain(summary), soft_wrap=True)
    out.print(f"report  {plain(below_here(page))}", soft_wrap=True)
    if open_ and not opened:
        out.print("There is no browser here. Its address, for a browser that sees this disk:", soft_wrap=True)
        out.print(plain(page.as_uri()), soft_wrap=True)


def has_browser() -> bool:
    """Whether a browser with windows can be started here; one that draws into this terminal would not do."""
    if os.environ.get("BROWSER") or sys.platform in ("darwin", "win32"):
        return True
    windows = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return bool(windows) or Path("/proc/sys/fs/binfmt_misc/WSLInterop").exists()

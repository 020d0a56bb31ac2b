"""The verb `run`, the verbs that build up to one stage and have nothing of their own beside it, and what they share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from flows.calls import CALLS
from flows.cli.options import (
    ConfigArgument,
    ForceOption,
    JsonOption,
    KeepOption,
    NoPrefectOption,
    SetOption,
    kept_names,
)
from flows.cli.output import Display, emit, table
from tasks.build.events import Said
from tasks.config import load_config


def run(
    config: ConfigArgument = None,
    set_: SetOption = None,
    keep: KeepOption = None,
    force: ForceOption = False,
    no_prefect: NoPrefectOption = False,
    json: JsonOption = False,
) -> None:
    """Do everything: from the corpus to the adapter, the merged model and the report."""
    build_to(config, set_, "evaluate", force, no_prefect, json, keep)


OWN_FILES = ("ingest", "questions", "records", "export")
"""Stages whose verb does more than build."""


def stage_verbs() -> dict[str, Callable[..., None]]:
    """Each verb by its name, which is that of its call in the pipeline."""
    return {call.name: _stage_verb(call.name, call.stage.help) for call in CALLS if call.name not in OWN_FILES}


def _stage_verb(name: str, text: str) -> Callable[..., None]:
    def verb(
        config: ConfigArgument = None,
        set_: SetOption = None,
        keep: KeepOption = None,
        force: ForceOption = False,
        no_prefect: NoPrefectOption = False,
        json: JsonOption = False,
    ) -> None:
        build_to(config, set_, name, force, no_prefect, json, keep)

    verb.__doc__ = f"{text} Builds what it needs before."
    return verb


def build_to(
    path: Path | None,
    overrides: list[str] | None,
    until: str,
    force: bool,
    direct: bool,
    as_json: bool,
    keep: list[str] | None = None,
) -> None:
    from flows.build import build
    from flows.calls import calls_to
    from flows.finished import remember
    from flows.run import Run
    from flows.walk import published

    display = Display()
    config = load_config(path, overrides or [])
    names = list(dict.fromkeys(call.stage.name for call in calls_to(until)))
    run_ = Run.of(config, display, kept_names(keep, names, force))
    try:
        built = None if force else published(run_, until)
        if built is not None:
            remember(run_, built)
            display(Said("Nothing had to run: every stage is cached."))
        else:
            built = build(run_, until, direct=direct, force=force)
    finally:
        display.close()
    states = {name: "kept" if m._kept else display.states.get(name, "cached") for name, m in built.items()}
    results = _results(built)
    if as_json:
        stages = [
            {
                "stage": name,
                "state": states[name],
                "seconds": m.seconds,
                "key": m.key,
                "digest": m.digest,
                "summary": m.summary,
                "metrics": m.metrics,
                "folder": str(m.folder),
            }
            for name, m in built.items()
        ]
        emit({"ok": True, "ran": [n for n, s in states.items() if s == "built"], "stages": stages, **results})
        return
    out = Console(highlight=False)
    rows = [(name, states[name], f"{m.seconds:.1f} s", m.summary) for name, m in built.items()]
    out.print(table("", ("stage", "state", "took", "what it did"), rows))
    out.print()
    for label, place in results.items():
        out.print(f"{label:<13} {_short(place)}", soft_wrap=True)


def _results(built: dict[str, Any]) -> dict[str, str]:
    """What people want from a run, as far as it went."""
    places = {
        "adapter": ("export", "adapter"),
        "merged model": ("export", "merged"),
        "records": ("records", ""),
        "report": ("evaluate", "report.html"),
    }
    results = {label: str(built[s].path(name)) for label, (s, name) in places.items() if s in built}
    last = list(built)[-1]
    return results if "evaluate" in built else {**results, last: str(built[last].folder)}


def _short(place: str) -> str:
    """Relative to the working directory if it lies below it."""
    try:
        return str(Path(place).relative_to(Path.cwd()))
    except ValueError:
        return place

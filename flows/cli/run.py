"""The verb `run`, and `build`, which it shares with the verbs that build up to a stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

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
    build(config, set_, "evaluate", force, no_prefect, json, keep)


def build(
    path: Path | None,
    overrides: list[str] | None,
    until: str,
    force: bool,
    direct: bool,
    as_json: bool,
    keep: list[str] | None = None,
) -> None:
    from flows import pipeline

    display = Display()
    config = load_config(path, overrides or [])
    run_ = pipeline.Run.of(config, display, kept_names(keep, [s.name for s in pipeline.stages_to(until)], force))
    try:
        built = None if force else pipeline.published(run_, until)
        if built is not None:
            display(Said("Nothing had to run: every stage is cached."))
        elif direct:
            built = pipeline.run_direct(run_, until, force=force)
        else:
            built = pipeline.run_with_prefect(run_, until, force=force)
    finally:
        display.close()
    states = {name: "kept" if m._kept else display.states.get(name, "cached") for name, m in built.items()}
    results = _results(built)
    if as_json:
        stages = [
            {
                "stage": m.stage,
                "state": states[m.stage],
                "seconds": m.seconds,
                "key": m.key,
                "digest": m.digest,
                "summary": m.summary,
                "metrics": m.metrics,
                "folder": str(m.folder),
            }
            for m in built.values()
        ]
        emit({"ok": True, "ran": [n for n, s in states.items() if s == "built"], "stages": stages, **results})
        return
    out = Console(highlight=False)
    rows = [(m.stage, states[m.stage], f"{m.seconds:.1f} s", m.summary) for m in built.values()]
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

"""The verb `run`, the verbs that build up to one stage and have nothing of their own beside it, and what they share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.loading.options import Quarantined
from data.nouns import read_jsonl
from data.text.counts import counted
from data.text.shown import shown
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
from flows.cli.output import Display, Terminal, below_here, emit, plain, show_next, table
from flows.finished import places_of, remember, stable
from flows.licences import warnings_of
from tasks.build.events import Said
from tasks.config import load_config
from tasks.store.manifest import Manifest


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
    from flows.run import Run
    from flows.walk import published

    display = Display()
    config = load_config(path, overrides or [])
    names = list(dict.fromkeys(call.stage.name for call in calls_to(until)))
    run_ = Run.of(config, display, kept_names(keep, names, force))
    notices: list[str] = []
    try:
        built = None if force else published(run_, until)
        if built is not None:
            remember(run_, built)
            display(Said("Nothing had to run: every stage is cached."))
        else:
            built = build(run_, until, direct=direct, force=force)
            notices = warnings_of(config, built["ingest"]) if "records" in built else []
            for sentence in notices:
                display(Said(sentence))
    finally:
        display.close()
    states = {name: "kept" if m._kept else display.states.get(name, "cached") for name, m in built.items()}
    results = _results(built)
    refused = _refused(built["ingest"]) if states["ingest"] == "built" or until == "ingest" else None
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
        ran = [n for n, s in states.items() if s == "built"]
        told = {"quarantined": refused, "notices": notices}
        emit({"ok": True, "ran": ran, "stages": stages, **results, **{k: v for k, v in told.items() if v}})
        return
    out = Terminal()
    rows = [(name, states[name], f"{m.seconds:.1f} s", m.summary) for name, m in built.items()]
    out.print(table("", ("stage", "state", "took", "what it did"), rows))
    out.print()
    if refused:
        _tell_refused(out, refused)
    paths = {label: stable(run_, built, file) for label, file in _LABELS.items() if file in places_of(built)}
    if until not in ("export", "evaluate"):
        paths |= {until: built[until].folder}
    for label, place in paths.items():
        out.print(f"{label:<13} {plain(below_here(place))}", soft_wrap=True)
    show_next(out, next_steps(until, path))


def _refused(ingest: Manifest) -> dict[str, Any] | None:
    """The files that could not be read: how many, the first with their reasons, and where all of them stand."""
    path = ingest.path("quarantine.jsonl")
    rows = list(read_jsonl(path, Quarantined))
    first = [{"source": row.source, "reason": row.reason, "detail": row.detail} for row in rows[:REFUSED_SHOWN]]
    return {"number": len(rows), "first": first, "list": str(path)} if rows else None


def _tell_refused(out: Terminal, refused: dict[str, Any]) -> None:
    """One line a file, a few of them, and where the list is."""
    out.print(f"{counted(refused['number'], 'source')} could not be used:")
    for row in refused["first"]:
        out.print(f"  {shown(row['source'])}: {shown(row['detail'])} ({row['reason']})", soft_wrap=True, markup=False)
    more = refused["number"] - len(refused["first"])
    words = f"and {more} more; all of them" if more else "the list"
    out.print(f"  {words}: {plain(below_here(refused['list']))}", soft_wrap=True)
    out.print()


REFUSED_SHOWN = 10
_LABELS = {"adapter": "adapter", "merged model": "merged", "records": "records", "report": "report.html"}


def next_steps(until: str, config: Path | None) -> list[tuple[str, str]]:
    """What people do next, once the results up to a call are there: commands, and what each is for."""
    here, option = (f" {config}", f" -c {config}") if config else ("", "")
    steps = {
        "ingest": [(f"raft plan{here}", "what the rest will take")],
        "index": [(f'raft search "..."{option}', "what is found for a question")],
        "questions": [(f"raft questions --dropped{option}", "what was left out, and why")],
        "records": [
            (f"raft records --show 3{option}", "as the model will see them"),
            (f"raft advise{here}", "whether training is likely to pay"),
        ],
        "export": [
            (f'raft ask "..."{option}', "ask the adapter"),
            (f"raft evaluate{here}", "compare it with the base"),
        ],
        "evaluate": [
            (f'raft ask "..."{option}', "ask the adapter"),
            (f"raft report --open{option}", "read how it compares with the base"),
        ],
    }
    return steps.get(until, [(f"raft run{here}", "go on to the adapter and its report")])


def _results(built: dict[str, Any]) -> dict[str, str]:
    """What people want from a run, as far as it went."""
    places = places_of(built)
    results = {label: str(places[file]) for label, file in _LABELS.items() if file in places}
    last = list(built)[-1]
    return results if "evaluate" in built else {**results, last: str(built[last].folder)}

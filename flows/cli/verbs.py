"""The verbs of the `raft` command that build: run, plan, and one per stage. The others are registered from here."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from flows.cli.app import emit
from flows.cli.display import Display, table
from raft_errors import BadInput
from tasks.config import RunConfig, load_config

ConfigArgument = Annotated[
    Path | None, typer.Argument(help="YAML file; without one ./raft.yaml, or the built-in defaults", show_default=False)
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML file; without one ./raft.yaml, or the built-in defaults")
]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="section.field=value, may be repeated")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on standard output")]
ForceOption = Annotated[bool, typer.Option("--force", help="Build again what is in the store")]
KeepOption = Annotated[
    list[str] | None,
    typer.Option(
        "--keep",
        help="Take a stage's finished result though other code made it (repeat, or a,b): a name, all (wherever only "
        "the code differs), or none (give up what was kept before)",
        show_default=False,
    ),
]
NoPrefectOption = Annotated[bool, typer.Option("--no-prefect", help="Run without Prefect: no history, starts faster")]

STAGE_HELP = {
    "ingest": "Read the sources into documents.",
    "chunk": "Cut the documents into chunks.",
    "embed": "Embed the chunks.",
    "index": "Build the search index.",
    "questions": "Import questions or ask the teacher for them.",
    "records": "Compose RAFT records.",
    "train": "Train the LoRA adapter.",
    "export": "Write the PEFT adapter and the merged model, and check that they agree with the engine.",
    "evaluate": "Compare base and adapter on held-out documents.",
}


def register(app: typer.Typer) -> None:
    """Puts every verb into the command."""
    from flows.cli import advise as advising
    from flows.cli import ask as answering
    from flows.cli import domains, schedule, server
    from flows.cli import evaluate_retrieval as judging
    from flows.cli import explain as explaining
    from flows.cli import forget as forgetting
    from flows.cli import gc as tidying
    from flows.cli import ingest as ingesting
    from flows.cli import init as setting_up
    from flows.cli import promote as promoting
    from flows.cli import records as record_views

    _command(app, run, "raft run my.yaml --set train.max_steps=50")
    _command(app, plan, "raft plan my.yaml")
    _command(app, ingesting.ingest, "raft ingest my.yaml --dry-run")
    for name, text in STAGE_HELP.items():
        if name not in ("ingest", "records"):
            _command(app, _stage_verb(name, text), f"raft {name} my.yaml", name=name)
    _command(app, record_views.records, "raft records my.yaml --show 3; raft records --diff previous latest")
    _command(app, judging.evaluate_retrieval, "raft evaluate retrieval my.yaml", name="evaluate retrieval")
    _command(app, advising.advise, "raft advise my.yaml --questions 40")
    _command(app, answering.search, 'raft search "How do closures work?" -k 3')
    _command(app, answering.ask, 'raft ask "How do closures work?"')
    _command(app, promoting.retrain, "raft retrain my.yaml --no-prefect")
    _command(app, promoting.promote, 'raft promote 3 --reason "looked at by hand"')
    _command(app, promoting.rollback, 'raft rollback --reason "complaints"')
    _command(app, promoting.adapters, "raft adapters")
    _command(app, explaining.explain, "raft explain --verify")
    _command(app, explaining.card, "raft card --out my-adapter")
    _command(app, forgetting.forget, "raft forget handbook/leave.md")
    _command(app, tidying.gc, "raft gc --days 7 --yes")
    _command(app, domains.domains, "raft domains domains.yaml --jobs 2")
    _command(app, schedule.schedule, 'raft schedule --cron "0 3 * * *" --watch 60')
    _command(app, server.server, "raft server")
    _command(app, setting_up.init, "raft init --corpus docs/")
    _command(app, setting_up.schema, "raft schema > raft.schema.json")
    _command(app, setting_up.models, "raft models --fetch")


def _command(app: typer.Typer, function: Callable[..., Any], example: str, name: str | None = None) -> None:
    app.command(name, epilog=f"Example: {example}")(function)


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


def _stage_verb(name: str, text: str) -> Callable[..., None]:
    def verb(
        config: ConfigArgument = None,
        set_: SetOption = None,
        keep: KeepOption = None,
        force: ForceOption = False,
        no_prefect: NoPrefectOption = False,
        json: JsonOption = False,
    ) -> None:
        build(config, set_, name, force, no_prefect, json, keep)

    verb.__doc__ = f"{text} Builds what it needs before."
    return verb


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
            display.say("Nothing had to run: every stage is cached.")
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


def kept_names(keep: list[str] | None, stages: Collection[str], force: bool = False) -> list[str]:
    """The values of `--keep`, which may be lists with commas.

    Args:
        stages: those that the command reaches.
    Raises:
        BadInput: a name that is none of them, or `all` together with `--force`.
    """
    names = [name.strip() for text in keep or [] for name in text.split(",") if name.strip()]
    for name in names:
        if name not in (*stages, "all", "none"):
            known = ", ".join((*stages, "all", "none"))
            raise BadInput(f"--keep {name}: this command reaches no such stage", expected=f"one of {known}")
    if force and "all" in names:
        raise BadInput("--force and --keep all ask for opposite things", do="give one of the two")
    return names


def _results(built: dict[str, Any]) -> dict[str, str]:
    """The things a person came for, as far as the run went."""
    places = {
        "adapter": ("export", "adapter"),
        "merged model": ("export", "merged"),
        "records": ("records", ""),
        "report": ("evaluate", "report.html"),
    }
    found = {label: str(built[s].path(name)) for label, (s, name) in places.items() if s in built}
    last = list(built)[-1]
    return found if "evaluate" in built else {**found, last: str(built[last].folder)}


def _short(place: str) -> str:
    """Relative to the working directory where that is below it."""
    try:
        return str(Path(place).relative_to(Path.cwd()))
    except ValueError:
        return place


def plan(
    config: ConfigArgument = None,
    set_: SetOption = None,
    keep: KeepOption = None,
    engine: Annotated[bool, typer.Option("--engine", help="Compile the training step: memory, steps, time")] = False,
    devices: Annotated[int | None, typer.Option(min=1, max=512, help="Plan for N accelerators instead")] = None,
    memory: Annotated[
        float | None, typer.Option(min=0.1, help="GiB of a device: finds remat and micro batch that fit")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show for each stage whether it is cached or will run, and why. Starts nothing."""
    from flows.plan import notices_of
    from flows.plan import plan as outlook

    loaded = load_config(config, set_ or [])
    if engine or devices or memory:
        _engine_plan(loaded, devices, memory, json)
        return
    from flows.pipeline import NAMES

    rows = outlook(loaded, "evaluate", kept_names(keep, NAMES))
    notices = notices_of(loaded)
    if json:
        emit({"ok": True, "stages": [row.__dict__ for row in rows], "notices": notices})
        return
    words = {"cached": "cached", "kept": "kept", "fetch": "will be fetched", "run": "will run", "maybe": "may run"}
    took = [f"{row.seconds:.0f} s" if row.seconds is not None else "" for row in rows]
    shown = [(row.stage, words[row.state], t, row.why) for row, t in zip(rows, took)]
    Console(highlight=False).print(table("", ("stage", "state", "last took", "why"), shown))
    for notice in notices:
        Console(highlight=False).print(notice, soft_wrap=True, markup=False)


def _engine_plan(config: RunConfig, devices: int | None, memory: float | None, json: bool) -> None:
    from flows.engine_plan import engine_plan, lines

    tried = engine_plan(config, devices, memory)
    if json:
        emit({"ok": True, "fits": tried[-1]["fits"], "tried": tried})
        return
    for line in lines(tried):
        Console(highlight=False).print(line, soft_wrap=True)

"""The verb `retrain`: looks at the corpus and does what its changes require."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import ConfigArgument, JsonOption, KeepOption, NoPrefectOption, SetOption, kept_names
from flows.cli.output import Display, Terminal, emit, plain, show_next
from tasks.adapters.decisions import RetrainDecision
from tasks.config import load_config

HELD, ROLLED_BACK = 3, 4  # exit codes of a night, for cron: a person should look


def retrain(
    config: ConfigArgument = None,
    set_: SetOption = None,
    keep: KeepOption = None,
    force: Annotated[bool, typer.Option("--force", help="Train even without a reason")] = False,
    no_prefect: NoPrefectOption = False,
    json: JsonOption = False,
) -> None:
    """Look at the corpus and do what its changes require: nothing, refresh the index, or train, compare and promote.

    Exit codes: 0 nothing to do, refreshed or promoted; 3 held or rejected; 4 rolled back; else as with every verb.
    """
    from flows.calls import NAMES
    from flows.retraining.night import retrain as one_night
    from flows.run import Run

    display = Display()
    try:
        stages = kept_names(keep, (*NAMES, "replay", "gate"))
        run = Run.of(load_config(config, set_ or []), display, stages)
        night = one_night(run, direct=no_prefect, force=force)
    finally:
        display.close()
    code = {"held": HELD, "rejected": HELD, "rolled back": ROLLED_BACK}.get(night.result, 0)
    if json:
        emit({"ok": True, "exit_code": code, **night.model_dump(mode="json")})
    else:
        out = Terminal()
        version = f"version {night.version} of {run.config.name}: " if night.version is not None else ""
        out.print(plain(f"{night.action}: {night.reason}"), soft_wrap=True)
        if night.action == "retrain":
            out.print(plain(night.start_reason), soft_wrap=True)
            out.print(plain(f"{version}{night.result}: {night.why}"), soft_wrap=True)
        show_next(out, next_steps(night, config))
    if code:
        raise typer.Exit(code)


def next_steps(night: RetrainDecision, config: Path | None) -> list[tuple[str, str]]:
    """What people do after a night, by what became of it."""
    here, option = (f" {config}", f" -c {config}") if config else ("", "")
    log = (f"raft adapters --history{option}", "every night with its reason")
    match night.result:
        case "promoted" | "the same adapter":
            return [(f'raft ask "..."{option}', "ask the version in use"), log]
        case "held":
            return [log, (f'raft promote {night.version} --reason "..."{option}', "put it into use all the same")]
        case "refreshed":
            return [(f'raft search "..."{option}', "what is found now"), log]
        case "nothing":
            return [(f"raft retrain --force{here}", "train all the same"), log]
    return [log]

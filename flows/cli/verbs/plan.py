"""The verb `plan`: what a run would do and why or, with `--engine`, what training will need."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.options import ConfigArgument, JsonOption, KeepOption, SetOption, kept_names
from flows.cli.output import Terminal, emit, table
from tasks.config import RunConfig, load_config


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

    run_config = load_config(config, set_ or [])
    if engine or devices or memory:
        _engine_plan(run_config, devices, memory, json)
        return
    from flows.calls import NAMES

    rows = outlook(run_config, "evaluate", kept_names(keep, NAMES))
    notices = notices_of(run_config)
    if json:
        emit({"ok": True, "stages": [row.__dict__ for row in rows], "notices": notices})
        return
    words = {"cached": "cached", "kept": "kept", "fetch": "will be fetched", "run": "will run", "maybe": "may run"}
    took = [f"{row.seconds:.0f} s" if row.seconds is not None else "" for row in rows]
    cells = [(row.stage, words[row.state], t, row.why) for row, t in zip(rows, took)]
    Terminal().print(table("", ("stage", "state", "last took", "why"), cells))
    for notice in notices:
        Terminal().print(notice, soft_wrap=True, markup=False)


def _engine_plan(config: RunConfig, devices: int | None, memory: float | None, json: bool) -> None:
    from flows.engine_plan import engine_plan, lines

    attempts = engine_plan(config, devices, memory)
    if json:
        emit({"ok": True, "fits": attempts[-1]["fits"], "tried": attempts})
        return
    for line in lines(attempts):
        Terminal().print(line, soft_wrap=True)

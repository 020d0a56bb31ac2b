"""The verb `plan`: what a run would do and why or, with `--engine`, what training will need."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import ConfigArgument, JsonOption, KeepOption, SetOption, kept_names
from flows.cli.output import Terminal, emit, table
from tasks.config import RunConfig, load_config

if TYPE_CHECKING:
    from flows.plan import Planned


ROUGH = "rough, from the size of corpus and models at the rates of two CPU cores"


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
    from flows.preflight import refusals

    run_config = load_config(config, set_ or [])
    if engine or devices or memory:
        _engine_plan(run_config, devices, memory, json)
        return
    from flows.calls import NAMES

    rows = outlook(run_config, "evaluate", kept_names(keep, NAMES))
    notices = notices_of(run_config) + refusals(run_config)
    if json:
        emit({"ok": True, "stages": [dataclasses.asdict(row) for row in rows], "notices": notices})
        return
    words = {"cached": "cached", "kept": "kept", "fetch": "will be fetched", "run": "will run", "maybe": "may run"}
    cells = [(row.stage, words[row.state], _time(row), row.why) for row in rows]
    Terminal().print(table("", ("stage", "state", "time", "why"), cells))
    if words_of_all := _total(rows):
        Terminal().print(words_of_all, markup=False)
    for notice in notices:
        Terminal().print(notice, soft_wrap=True, markup=False)


def _time(row: Planned) -> str:
    """What a stage will take, with a mark that it is a guess, or what its result took."""
    if row.estimate:
        return f"≈ {_duration(row.estimate.seconds)}"
    return _duration(row.seconds) if row.seconds is not None else ""


def _total(rows: Sequence[Planned]) -> str:
    """Time and disk space of all that will or may run, and what the figures rest on."""
    estimates = [row.estimate for row in rows if row.estimate]
    if not estimates:
        return ""
    may = any(row.state == "maybe" for row in rows)
    rough = sum(one.basis.startswith("rough") for one in estimates)
    measured = f"{len(estimates) - rough} of {len(estimates)} by measured rates of this store"
    basis = {0: "by measured rates of this store", len(estimates): ROUGH}.get(rough, f"{measured}, the others {ROUGH}")
    seconds, size = sum(one.seconds for one in estimates), sum(one.bytes for one in estimates)
    return (
        f"≈ is an estimate: {_duration(seconds)} and {_size(size)} on disk{' at most' if may else ''} in all; {basis}"
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _size(size: float) -> str:
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"


def _engine_plan(config: RunConfig, devices: int | None, memory: float | None, json: bool) -> None:
    from flows.engine_plan import engine_plan, lines

    attempts = engine_plan(config, devices, memory)
    if json:
        emit({"ok": True, "fits": attempts[-1]["fits"], "tried": attempts})
        return
    for line in lines(attempts):
        Terminal().print(line, soft_wrap=True)

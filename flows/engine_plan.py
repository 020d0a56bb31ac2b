"""`raft plan --engine`: what training will need on these devices or on others, compiled in a child process."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from data.text.counts import counted
from flows.run import Models, Run
from flows.walk import published
from raft_errors import BadInput
from tasks.build.events import silent
from tasks.build.supervisor import run_child
from tasks.config import RunConfig
from tasks.inputs.models import on_this_machine
from tasks.runtime.folders import write_json
from tasks.store.manifest import Manifest
from tasks.store.places import compile_cache
from tasks.store.store import Store
from tasks.work.train import engine_job

GIB = 2**30


def engine_plan(
    config: RunConfig,
    devices: int | None = None,
    memory_gib: float | None = None,
    records: Manifest | None = None,
) -> list[dict[str, Any]]:
    """The settings that were tried, as `jora_engine.training.plan.Plan.to_json` tells them; the last one is the choice.

    The records are used where they are built already, else rows count as full; the time comes from the last training
    of the same base.

    Args:
        records: of the run, where they are known.
    Raises:
        BadInput: the base is not on this machine, or the mesh does not fit the devices.
    """
    models = Models(config, on_this_machine)
    run = Run(config, Store(Path(config.store)), models, silent)
    base = models["base"]
    if base is None:
        raise BadInput(
            f"model {models.name('base')} is not on this machine", expected="its files", do="run `raft models --fetch`"
        )
    if records is None and models["embedder"] and (built := published(run, "records")):
        records = built["records"]
    last = run.store.latest("train")
    known = last is not None and last.ingredients.get("models", {}).get("base") == base.digest
    speed = last.metrics["tokens"] / last.seconds if last is not None and known and last.seconds else None
    job = {
        **engine_job(config.train, base, config.seed, compile_cache()),
        "train": str(records.path("train.jsonl")) if records else None,
        "devices": devices,
        "memory_gib": memory_gib,
        "tokens_per_second": speed if not devices else None,
    }
    attempts: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder, "job.json"), job)
        run_child(
            "jora_engine.training.plan_job",
            [str(Path(folder, "job.json"))],
            log_file=Path(folder, "planner.log"),
            on_event=lambda event: attempts.extend(event.get("tried", [])),
        )
    return attempts


def lines(tried: list[dict[str, Any]]) -> list[str]:
    """The plan in words."""
    chosen = tried[-1]
    rows = []
    for plan in tried:
        large = {name: size for name, size in plan["bytes"].items() if size >= GIB / 200}
        parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in large.items()) or "each below 0.01"
        room = "" if plan["available"] is None else f" of {plan['available'] / GIB:.2f}"
        verdict = "" if plan["available"] is None else ", fits" if plan["fits"] else ", does not fit"
        rows.append(
            f"remat {plan['remat']}, {plan['micro_batch_rows']} × {plan['sequence_length']} tokens a micro batch, "
            f"{plan['accumulation']} a step: {plan['total'] / GIB:.2f}{room} GiB a device ({parts}){verdict}"
        )
    mesh = ", ".join(f"{axis} {size}" for axis, size in chosen["mesh"].items() if size > 1) or "one device"
    rows.append(f"devices: {chosen['devices']} ({mesh}), compiled for {chosen['compiled_for']}, not run")
    rows.append(
        f"{counted(chosen['steps'], 'step')}, {counted(chosen['tokens'], 'token')}, "
        f"{100 * chosen['padding']:.1f} % padding, {chosen['flops']:.2e} FLOPs"
        + (f", about {chosen['seconds']:.0f} s" if chosen["seconds"] else "")
    )
    if chosen["collectives"]:
        rows.append("collectives: " + ", ".join(f"{n} {kind}" for kind, n in chosen["collectives"].items()))
    return rows + list(chosen["notes"])

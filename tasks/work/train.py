"""The work of `train`: JAX LoRA in a child process that checkpoints and can be killed at any moment."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.distillation import distillation_words
from data.nouns import Progress, Record, read_jsonl, write_jsonl
from data.text.counts import counted
from data.training_coverage import unseen_records
from tasks.runtime.folders import ModelFolder, StageFiles, read_json, write_json
from tasks.work.bench import Bench, Outcome

if TYPE_CHECKING:
    from tasks.train import TrainSection

log = logging.getLogger("raft.tasks")


LORA_FIELDS = ("rank", "alpha", "target_modules", "layers_to_transform", "dropout", "use_rslora")
HUGE_PAGES = "glibc.malloc.hugetlb=1"
"""A tenth of a CPU's training time goes into mapping small pages; elsewhere than under glibc it means nothing."""
LIMITS = ("silent_minutes", "max_minutes")


def build(
    bench: Bench, config: TrainSection, records: StageFiles, start: StageFiles | None = None, *, base: ModelFolder
) -> Outcome:
    """Writes adapter/ (PEFT), metrics.jsonl, loss.png and training.json; goes on from the training `start`."""
    validation = records.path("validation.jsonl").stat().st_size
    job = {
        **engine_job(config, base, bench.seed, bench.compiled),
        "train": str(_chats(records, "train", bench.scratch)),
        "validation": str(_chats(records, "validation", bench.scratch)) if validation else None,
        "out": str(bench.scratch / "out"),
        "start": str(start.path("adapter")) if start else None,
        "work": str(bench.scratch),
        "base_name": base.name,
        "base_digest": base.digest,
        "writers": config.writers,
        "logs": str(bench.scratch.parents[2] / "logs"),  # beside the store's results: scratch is removed
        "run_name": bench.scratch.name[:16],
    }
    write_json(bench.scratch / "job.json", job)
    bench.run_child(
        "jora_engine.training.job",
        [str(bench.scratch / "job.json")],
        log_file=bench.scratch / "trainer.log",
        on_event=lambda event: show(event, bench.progress),
        environment={"GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", HUGE_PAGES)},
        silent_seconds=config.silent_minutes and 60 * config.silent_minutes,
        limit_seconds=config.max_minutes and 60 * config.max_minutes,
    )
    shutil.copytree(bench.scratch / "out", bench.out, dirs_exist_ok=True)
    facts = read_json(bench.out / "training.json")
    return Outcome(
        in_words(facts),
        {name: value for name, value in facts.items() if not isinstance(value, dict)},
        machine=facts.get("machine") or {},
    )


def in_words(facts: Mapping[str, Any]) -> str:
    """What a training did, by its `training.json`."""
    more = "".join(f"; {clause}" for clause in (unseen_records(facts), distillation_words(facts)) if clause)
    return (
        f"{counted(facts['records'], 'record')} ({facts['records_too_long']} too long) in "
        f"{counted(facts['rows'], 'row')}, {counted(facts['steps'], 'step')}: "
        f"loss {facts['first_loss']:.3f} → {facts['final_loss']:.3f}{more}"
    )


def _chats(records: StageFiles, split: str, folder: Path) -> Path:
    """The records of a split as the chats that they are: how a triple is joined is not for the engine to know."""
    chats = folder / f"{split}.chat.jsonl"
    write_jsonl(chats, ({"messages": record.messages} for record in read_jsonl(records.path(f"{split}.jsonl"), Record)))
    return chats


def engine_job(config: TrainSection, base: ModelFolder, seed: int, compiled: Path) -> dict[str, Any]:
    """The part of a trainer's or planner's job that the section and the base decide.

    Args:
        compiled: folder where JAX keeps compiled programs.
    """
    settings = config.model_dump(mode="json", exclude={"writers"})
    lora = {name: settings.pop(name) for name in LORA_FIELDS}
    settings = {name: value for name, value in settings.items() if name not in LIMITS}
    return {
        "model": str(base.folder),
        "chat": dict(base.chat),
        "compile_cache": str(compiled),
        "lora": lora,
        "training": {**settings, "seed": seed},
    }


def show(event: dict[str, Any], progress: Progress) -> None:
    """The trainer's events as progress: loss, tokens a second, time left."""
    kind, part = event.get("event"), event.get("pass", "")
    if kind == "step":
        left = int(event["seconds_left"])
        words = f"{event['tokens_per_second']:.0f} tokens/s, {left // 60}:{left % 60:02d} left"
        words = f"{part}: divergence {event['loss']:.4f}, {words}" if part else f"loss {event['loss']:.3f}, {words}"
        if event.get("validation_loss") is not None and not part:
            words += f", validation {event['validation_loss']:.3f}"
        progress(event["step"], event["steps"], words)
    elif kind == "start" and part:
        progress(0, event["steps"], f"{part}, {counted(event['steps'], 'step')}, loading the base in full")
    elif kind == "start":
        records, steps = counted(event["records"], "record"), counted(event["steps"], "step")
        progress(0, event["steps"], f"{records}, {steps}, compiling")
    elif kind == "resumed":
        progress(event["step"], None, f"{part and f'{part}, '}resumed at step {event['step']}")
    elif kind == "warning":
        log.warning("training: %s", event["what"])

"""The work of `train`: JAX LoRA in a child process that checkpoints and can be killed at any moment."""

from __future__ import annotations

import itertools
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.distillation import distillation_words
from data.nouns import Progress, Record, read_jsonl, write_jsonl
from data.records.rehearsal import drawn, rehearsal_count
from data.text.counts import counted
from data.training_coverage import unseen_records
from tasks.runtime.folders import ModelFolder, StageFiles, read_json, write_json
from tasks.runtime.rehearsal import replies
from tasks.work.bench import Bench, Outcome

if TYPE_CHECKING:
    from tasks.train import TrainSection

log = logging.getLogger("raft.tasks")


LORA_FIELDS = ("rank", "alpha", "target_modules", "layers_to_transform", "dropout", "use_rslora")
HUGE_PAGES = "glibc.malloc.hugetlb=1"
"""A tenth of a CPU's training time goes into mapping small pages; elsewhere than under glibc it means nothing."""
NOT_THE_ENGINES = ("silent_minutes", "max_minutes", "rehearsal")
"""Settings of the section that the trainer does not hear."""


def build(
    bench: Bench, config: TrainSection, records: StageFiles, start: StageFiles | None = None, *, base: ModelFolder
) -> Outcome:
    """Writes adapter/ (PEFT), metrics.jsonl, loss.png and training.json; goes on from the training `start`."""
    validation = records.path("validation.jsonl").stat().st_size
    with records.path("train.jsonl").open("rb") as lines:
        rehearsals = _rehearsals(rehearsal_count(sum(1 for _ in lines), config.rehearsal), bench, config, base)
    job = {
        **engine_job(config, base, bench.seed, bench.compiled),
        "train": str(_write(bench.scratch, "train", itertools.chain(_chats(records, "train"), rehearsals))),
        "validation": str(_write(bench.scratch, "validation", _chats(records, "validation"))) if validation else None,
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
    facts = {**read_json(bench.out / "training.json"), "rehearsals": len(rehearsals)}
    write_json(bench.out / "training.json", facts)
    return Outcome(
        in_words(facts),
        {name: value for name, value in facts.items() if not isinstance(value, dict)},
        machine=facts.get("machine") or {},
    )


def in_words(facts: Mapping[str, Any]) -> str:
    """What a training did, by its `training.json`."""
    general = f", {facts['rehearsals']} of general skills" if facts.get("rehearsals") else ""
    more = "".join(f"; {clause}" for clause in (unseen_records(facts), distillation_words(facts)) if clause)
    return (
        f"{counted(facts['records'], 'record')} ({facts['records_too_long']} too long{general}) in "
        f"{counted(facts['rows'], 'row')}, {counted(facts['steps'], 'step')}: "
        f"loss {facts['first_loss']:.3f} → {facts['final_loss']:.3f}{more}"
    )


Example = dict[str, Any]
"""`messages`, the last of which is trained, and `rehearsed`: it is the base's own (`training.records`)."""


def _chats(records: StageFiles, split: str) -> Iterator[Example]:
    """The records of a split as the chats that they are: how a triple is joined is not for the engine to know."""
    return ({"messages": record.messages} for record in read_jsonl(records.path(f"{split}.jsonl"), Record))


def _write(folder: Path, split: str, examples: Iterable[Example]) -> Path:
    file = folder / f"{split}.chat.jsonl"
    write_jsonl(file, examples)
    return file


def _rehearsals(count: int, bench: Bench, config: TrainSection, base: ModelFolder) -> list[Example]:
    """So many examples of plain instructions with the beginnings of the base's own answers."""
    if not count:
        return []

    def ask(job: dict[str, Any]) -> list[str]:
        out, file = bench.scratch / "rehearsal.json", bench.scratch / "rehearsal-job.json"
        write_json(file, {**job, "out": str(out)})
        bench.run_child(
            "tasks.runtime.rehearsal",
            [str(file)],
            log_file=bench.scratch / "rehearsal.log",
            on_event=lambda e: bench.progress(e.get("done", 0), e.get("total"), "the base answers what is rehearsed"),
            silent_seconds=config.silent_minutes and 60 * config.silent_minutes,
        )
        answers: list[str] = json.loads(out.read_text(encoding="utf-8"))
        return answers

    asks, held = drawn(count, bench.seed), {"dtype": config.dtype, "precision": config.base_precision}
    texts = replies(asks, base, **held, cache=bench.cache, ask=ask)
    examples: list[Example] = [
        {
            "messages": [
                {"role": "user", "content": instruction},
                {"role": "assistant", "content": reply.rstrip()},
            ],
            "rehearsed": True,
        }
        for (_, instruction), reply in zip(asks, texts, strict=True)
        if reply.strip()
    ]
    if not examples:
        log.warning("the base says nothing to plain instructions: nothing of its general skills is rehearsed")
    return examples


def engine_job(config: TrainSection, base: ModelFolder, seed: int, compiled: Path) -> dict[str, Any]:
    """The part of a trainer's or planner's job that the section and the base decide.

    Args:
        compiled: folder where JAX keeps compiled programs.
    """
    settings = config.model_dump(mode="json", exclude={"writers"})
    lora = {name: settings.pop(name) for name in LORA_FIELDS}
    settings = {name: value for name, value in settings.items() if name not in NOT_THE_ENGINES}
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

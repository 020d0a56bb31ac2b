"""Stage `train`: JAX LoRA in a supervised child process that checkpoints and can be killed at any moment."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any, Literal

from data.nouns import Progress
from tasks.build.section import Section, setting
from tasks.build.stage import Bench, Outcome, Stage
from tasks.build.supervisor import run_child
from tasks.inputs.device import one_training
from tasks.inputs.models import ModelFiles, compile_cache
from tasks.store.locks import locked
from tasks.store.store import Manifest, read_json, write_json

log = logging.getLogger("raft.tasks")


class TrainSection(Section):
    """How the adapter is trained."""

    rank: int = setting(16, "LoRA rank", ge=1, le=1024)
    alpha: float = setting(16.0, "LoRA scale is alpha / rank", gt=0, le=4096)
    target_modules: str | tuple[str, ...] = setting(
        "all-linear", "Linear layers that carry an adapter: all-linear, a list of names, or a regular expression"
    )
    layers_to_transform: tuple[int, ...] | None = setting(
        None, "Numbers of the decoder layers that carry an adapter, from 0; null = all"
    )
    dropout: float = setting(0.0, "LoRA dropout", ge=0, lt=1)
    use_rslora: bool = setting(False, "Scale by alpha / sqrt(rank) instead")
    learning_rate: float | None = setting(
        None,
        "Peak learning rate; null = by the base's size: 1e-3 below 1 B parameters, 5e-4 below 7 B, else 2e-4",
        gt=0,
        le=0.1,
    )
    schedule: Literal["cosine", "linear", "constant"] = setting("cosine", "Learning rate after the warm-up")
    warmup_ratio: float = setting(0.03, "Share of the steps spent warming up", ge=0, le=1)
    weight_decay: float = setting(0.0, "AdamW weight decay", ge=0, le=1)
    clip_norm: float = setting(1.0, "Gradients are clipped to this norm", gt=0)
    epochs: int = setting(3, "Passes over the training records", ge=1, le=1000)
    max_steps: int | None = setting(None, "Optimiser steps at most; null = as many as the epochs have", ge=1)
    micro_batch_rows: int = setting(2, "Rows in one forward and backward pass", unit="rows", ge=1, le=4096)
    accumulation: int = setting(1, "Forward and backward passes per optimiser step", ge=1, le=4096)
    sequence_length: int = setting(2048, "Tokens in a row of packed records", unit="tokens", ge=64, le=131072)
    eval_every_steps: int = setting(0, "Steps between validations; 0 = none", unit="steps", ge=0)
    early_stopping_patience: int = setting(0, "Validations without improvement before stopping; 0 = never", ge=0)
    checkpoint_every_steps: int = setting(10, "Steps between checkpoints", unit="steps", ge=1, result=False)
    silent_minutes: float | None = setting(
        60.0,
        "A trainer silent for so long (compiling included) hangs: it is stopped and tried again; null = wait",
        unit="minutes",
        gt=0,
        result=False,
    )
    max_minutes: float | None = setting(
        None,
        "Longest training; it ends with its state saved and the next run goes on",
        unit="minutes",
        gt=0,
        result=False,
    )
    dtype: Literal["bfloat16", "float32"] = setting("bfloat16", "Precision of the frozen base and the activations")
    remat: Literal["auto", "none", "names", "layer", "offload"] = setting(
        "names",
        "What the backward pass computes again, from nothing (most memory) to each layer, its input kept on the host; "
        "auto = the first that fits",
    )
    mesh: Literal["auto"] | tuple[int, int, int, int] = setting(
        "auto",
        "Devices along data, fsdp, tensor and context, one of them may be -1; auto = all on fsdp (a CPU's cores: data)",
        result=False,
    )
    writers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = setting(
        (),
        "Also send the metrics there (each needs its package); they get this configuration only",
        result=False,
        from_outside=False,
    )


LORA_FIELDS = ("rank", "alpha", "target_modules", "layers_to_transform", "dropout", "use_rslora")
HUGE_PAGES = "glibc.malloc.hugetlb=1"
"""A tenth of a CPU's training time goes into mapping small pages; elsewhere than under glibc it means nothing."""
LIMITS = ("silent_minutes", "max_minutes")


def build(
    bench: Bench, config: TrainSection, records: Manifest, base: ModelFiles, start: Manifest | None = None
) -> Outcome:
    """Writes adapter/ (PEFT), metrics.jsonl, loss.png and training.json; goes on from the training `start`."""
    validation = records.path("validation.jsonl")
    job = {
        **engine_job(config, base, bench.seed),
        "train": str(records.path("train.jsonl")),
        "validation": str(validation) if validation.stat().st_size else None,
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
    waiting = "waiting for the training of {}, on the same device"
    with locked(one_training(), on_wait=lambda who: bench.progress(0, None, waiting.format(who or "another run"))):
        run_child(
            "jora_engine.trainer",
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
        f"{facts['records']} records ({facts['records_too_long']} too long) in {facts['rows']} rows, "
        f"{facts['steps']} steps: loss {facts['first_loss']:.3f} → {facts['final_loss']:.3f}",
        {name: value for name, value in facts.items() if not isinstance(value, dict)},
        machine=facts.get("machine") or {},
    )


def engine_job(config: TrainSection, base: ModelFiles, seed: int) -> dict[str, Any]:
    """The part of a trainer's or planner's job that the section and the base decide."""
    settings = config.model_dump(mode="json", exclude={"writers"})
    lora = {name: settings.pop(name) for name in LORA_FIELDS}
    settings = {name: value for name, value in settings.items() if name not in LIMITS}
    settings["learning_rate"] = config.learning_rate or rate_for(base.folder)
    return {
        "model": str(base.folder),
        "compile_cache": str(compile_cache()),
        "lora": lora,
        "training": {**settings, "seed": seed},
    }


def rate_for(folder: Path) -> float:
    """A peak rate for LoRA by the size of the base; smaller models take larger ones."""
    from jora_engine.weights import parameter_total, read_model_config

    parameters = parameter_total(read_model_config(folder))
    return 1e-3 if parameters < 1e9 else 5e-4 if parameters < 7e9 else 2e-4


def show(event: dict[str, Any], progress: Progress) -> None:
    """The trainer's events as progress: loss, tokens a second, time left."""
    kind = event.get("event")
    if kind == "step":
        left = int(event["seconds_left"])
        words = (
            f"loss {event['loss']:.3f}, {event['tokens_per_second']:.0f} tokens/s, {left // 60}:{left % 60:02d} left"
        )
        if event.get("validation_loss") is not None:
            words += f", validation {event['validation_loss']:.3f}"
        progress(event["step"], event["steps"], words)
    elif kind == "start":
        progress(0, event["steps"], f"{event['records']} records, {event['steps']} steps, compiling")
    elif kind == "resumed":
        progress(event["step"], None, f"resumed at step {event['step']}")
    elif kind == "warning":
        log.warning("training: %s", event["what"])


STAGE = Stage(
    "train",
    TrainSection,
    build,
    inputs=("records",),
    optional=("start",),
    models=("base",),
    seeded=True,
    modules=("jora_engine.trainer",),
    packages=("jax", "jaxlib", "optax", "numpy"),
    describing=("metrics.jsonl", "loss.png", "training.json"),
)

"""Stage `train`: JAX LoRA in a supervised child process that checkpoints and can be killed at any moment."""

from __future__ import annotations

from typing import Literal

from tasks.build.section import Section, setting
from tasks.build.stage import Stage
from tasks.inputs.device import one_training
from tasks.work.train import build


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


STAGE = Stage(
    "train",
    TrainSection,
    build,
    help="Train the LoRA adapter.",
    models=("base",),
    alone=one_training,
    seeded=True,
    modules=("jora_engine.training.job",),
    packages=("jax", "jaxlib", "optax", "numpy"),
    describing=("metrics.jsonl", "loss.png", "training.json"),
)

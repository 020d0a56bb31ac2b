"""Stage `train`: JAX LoRA in a supervised child process that checkpoints and can be killed at any moment."""

from __future__ import annotations

from typing import Literal

from jora_engine.config.lora import LoraConfig
from jora_engine.config.recipe import TrainConfig
from tasks.build.section import Section, setting
from tasks.build.stage import Stage
from tasks.inputs.device import one_training
from tasks.work.train import build


class TrainSection(Section):
    """How the adapter is trained. What the engine's own configuration has as well has its name and its default."""

    rank: int = setting(LoraConfig.rank, "LoRA rank", ge=1, le=1024)
    alpha: float = setting(LoraConfig.alpha, "LoRA scale is alpha / rank", gt=0, le=4096)
    target_modules: str | tuple[str, ...] = setting(
        LoraConfig.target_modules,
        "Linear layers that carry an adapter: all-linear, a list of names, or a regular expression",
    )
    layers_to_transform: tuple[int, ...] | None = setting(
        LoraConfig.layers_to_transform, "Numbers of the decoder layers that carry an adapter, from 0; null = all"
    )
    dropout: float = setting(LoraConfig.dropout, "LoRA dropout", ge=0, lt=1)
    use_rslora: bool = setting(LoraConfig.use_rslora, "Scale by alpha / sqrt(rank) instead")
    learning_rate: float | None = setting(
        TrainConfig.learning_rate,
        "Peak learning rate; null = by the base's size: 1e-3 below 1 B parameters, 5e-4 below 7 B, else 2e-4",
        gt=0,
        le=0.1,
    )
    schedule: Literal["cosine", "linear", "constant"] = setting(TrainConfig.schedule, "Learning rate after the warm-up")
    warmup_ratio: float = setting(TrainConfig.warmup_ratio, "Share of the steps spent warming up", ge=0, le=1)
    weight_decay: float = setting(TrainConfig.weight_decay, "AdamW weight decay", ge=0, le=1)
    clip_norm: float = setting(TrainConfig.clip_norm, "Gradients are clipped to this norm", gt=0)
    epochs: int = setting(TrainConfig.epochs, "Passes over the training records", ge=1, le=1000)
    max_steps: int | None = setting(
        TrainConfig.max_steps, "Optimiser steps at most; null = as many as the epochs have", ge=1
    )
    rehearsal: float = setting(
        0.3,
        "Share of what is trained on that are plain instructions, at whose answers the adapter is held to the base, so "
        "that general skills stay; 0 = none",
        ge=0,
        le=0.9,
    )
    micro_batch_rows: int = setting(
        TrainConfig.micro_batch_rows, "Rows in one forward and backward pass", unit="rows", ge=1, le=4096
    )
    accumulation: int = setting(
        TrainConfig.accumulation, "Forward and backward passes per optimiser step", ge=1, le=4096
    )
    sequence_length: int = setting(
        TrainConfig.sequence_length, "Tokens in a row of packed records", unit="tokens", ge=64, le=131072
    )
    eval_every_steps: int = setting(
        TrainConfig.eval_every_steps, "Steps between validations; 0 = none", unit="steps", ge=0
    )
    early_stopping_patience: int = setting(
        TrainConfig.early_stopping_patience, "Validations without improvement before stopping; 0 = never", ge=0
    )
    checkpoint_every_steps: int = setting(
        TrainConfig.checkpoint_every_steps, "Steps between checkpoints", unit="steps", ge=1, result=False
    )
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
    dtype: Literal["bfloat16", "float32"] = setting(
        TrainConfig.dtype, "Precision of the frozen base and the activations"
    )
    base_precision: Literal["bfloat16", "int8", "nf4", "as_stored"] = setting(
        TrainConfig.base_precision,
        "How the base's linear layers are held: in dtype (bfloat16), packed in 8 or 4 bits (int8, nf4), or as a "
        "quantised file has them (as_stored); see docs/quantised.md",
    )
    distil_steps: int = setting(
        TrainConfig.distil_steps,
        "Steps that fit the trained adapter to its own answers on the base in full, where base_precision is int8 or "
        "nf4; kept where the validation loss is lower; 0 = none; see docs/quantised.md",
        unit="steps",
        ge=0,
    )
    remat: Literal["auto", "none", "names", "layer", "offload"] = setting(
        TrainConfig.remat,
        "What the backward pass computes again, from nothing (most memory) to each layer, its input kept on the host; "
        "auto = the first that fits",
    )
    mesh: Literal["auto"] | tuple[int, int, int, int] = setting(
        TrainConfig.mesh,
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

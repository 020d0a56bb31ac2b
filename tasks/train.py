"""Stage `train`: JAX LoRA in a supervised child process that checkpoints and can be killed at any moment."""

from __future__ import annotations

from typing import Literal

from tasks.section import Section, setting


class TrainSection(Section):
    """How the adapter is trained."""

    rank: int = setting(16, "LoRA rank", ge=1, le=1024)
    alpha: float = setting(32.0, "LoRA scale is alpha / rank", gt=0, le=4096)
    target_modules: str = setting("all-linear", "Linear layers that carry an adapter")
    dropout: float = setting(0.0, "LoRA dropout", ge=0, lt=1)
    use_rslora: bool = setting(False, "Scale by alpha / sqrt(rank)")
    learning_rate: float = setting(5e-4, "Peak learning rate", gt=0, le=0.1)
    max_steps: int | None = setting(None, "Optimiser steps at most; none = by epochs", unit="steps", ge=1)
    epochs: int = setting(1, "Passes over the training records", ge=1, le=1000)
    micro_batch_rows: int = setting(1, "Rows in one forward and backward pass", unit="rows", ge=1, le=4096)
    accumulation: int = setting(8, "Micro batches per optimiser step", ge=1, le=4096)
    sequence_length: int = setting(1024, "Tokens a row", unit="tokens", ge=64, le=131072)
    checkpoint_every_steps: int = setting(10, "Steps between checkpoints", unit="steps", ge=1, result=False)
    dtype: Literal["bfloat16", "float32"] = setting("float32", "Precision of the frozen base and the activations")

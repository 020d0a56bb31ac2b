"""The recipe of a training as a frozen value: optimiser, schedule, rows and steps, checked when it is made.

Its names and defaults are also those of the pipeline's `train` section, which reads them here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jora_engine.config.checks import from_keys, require, whole

PRECISIONS = ("bfloat16", "int8", "nf4", "as_stored")
"""How a frozen base may be held; `bfloat16` stands for the computation's own dtype, without packing."""

DISTILLED = ("int8", "nf4")
"""Those that are packed from a base in full, so that there is one to learn from."""


@dataclass(frozen=True)
class TrainConfig:
    """The optimiser (AdamW) and the loop.

    Attributes:
        learning_rate: the peak; None = by the size of the base, see `for_base`.
        micro_batch_rows: rows of `sequence_length` tokens in one forward and backward pass, over all devices.
        accumulation: micro batches per optimiser step; the loss is the token mean over all of them.
        epochs, max_steps: training ends at whichever comes first.
        warmup_ratio, min_lr_ratio: share of the steps spent warming up; final rate as a share of the peak.
        eval_every_steps, checkpoint_every_steps: 0 means only at the end.
        early_stopping_patience: evaluations without improvement before stopping; 0 means never.
        remat: what the backward pass computes again, from nothing to all: `none`, `names`, `layer`, `offload`
            (`decoder.rematted`); `auto` is the first that fits, chosen by `training.plan`.
        base_precision: how the base's linear layers are held: in `dtype` (`bfloat16`), packed in 8 or 4 bits (`int8`,
            `nf4`), or as a quantised file has them (`as_stored`).
        distil_steps: steps of distillation onto a packed base that follow the training (`training.distil`); 0 = none.
        keep_checkpoints: newest ones kept; with two, one that is damaged costs the steps since the one before.
        mesh: devices along (data, fsdp, tensor, context), one of them may be -1; `auto` puts all on fsdp.
    """

    learning_rate: float | None = None
    schedule: str = "cosine"
    warmup_ratio: float = 0.03
    min_lr_ratio: float = 0.1
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    clip_norm: float = 1.0
    epochs: int = 3
    max_steps: int | None = None
    micro_batch_rows: int = 2
    accumulation: int = 1
    sequence_length: int = 2048
    seed: int = 0
    eval_every_steps: int = 0
    checkpoint_every_steps: int = 10
    early_stopping_patience: int = 0
    keep_checkpoints: int = 2
    dtype: str = "bfloat16"
    base_precision: str = "bfloat16"
    distil_steps: int = 0
    remat: str = "names"
    mesh: str | tuple[int, ...] = "auto"

    def __post_init__(self) -> None:
        if isinstance(self.mesh, list):
            object.__setattr__(self, "mesh", tuple(self.mesh))
        ok = self.mesh == "auto" or (
            isinstance(self.mesh, tuple) and len(self.mesh) == 4 and all(map(whole, self.mesh))
        )
        require(ok, "mesh", self.mesh, "auto, or four sizes: data, fsdp, tensor, context")
        rate = self.learning_rate
        require(rate is None or 0 < rate < 1, "learning_rate", rate, "above 0 and below 1, or none")
        for name, choices in (
            ("schedule", ("cosine", "linear", "constant")),
            ("dtype", ("bfloat16", "float32")),
            ("base_precision", PRECISIONS),
            ("remat", ("auto", "none", "names", "layer", "offload")),
        ):
            require(getattr(self, name) in choices, name, getattr(self, name), "one of " + ", ".join(choices))
        for name in ("warmup_ratio", "min_lr_ratio"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "0 to 1")
        for name in ("beta1", "beta2"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "0 or more and below 1")
        for name in ("weight_decay",):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name in ("eps", "clip_norm"):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        for name in ("epochs", "micro_batch_rows", "accumulation", "keep_checkpoints"):
            value = getattr(self, name)
            require(whole(value) and value >= 1, name, value, "a whole number of at least 1")
        for name in ("seed", "eval_every_steps", "checkpoint_every_steps", "early_stopping_patience", "distil_steps"):
            value = getattr(self, name)
            require(whole(value) and value >= 0, name, value, "a whole number of at least 0")
        distils = not self.distil_steps or self.base_precision in DISTILLED
        held = f"0 where base_precision is {self.base_precision}, or base_precision {' or '.join(DISTILLED)}"
        require(distils, "distil_steps", self.distil_steps, held)
        require(self.max_steps is None or self.max_steps >= 1, "max_steps", self.max_steps, "at least 1, or none")
        require(self.sequence_length >= 8, "sequence_length", self.sequence_length, "at least 8 tokens")

    def for_base(self, parameters: int) -> TrainConfig:
        """The recipe for a base of so many parameters: where no peak rate is given, smaller models take larger ones."""
        if self.learning_rate is not None:
            return self
        rate = 1e-3 if parameters < 1e9 else 5e-4 if parameters < 7e9 else 2e-4
        return dataclasses.replace(self, learning_rate=rate)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """From config keys. An unknown key is a `BadInput` that names the nearest known one."""
        return from_keys(cls, values, {})

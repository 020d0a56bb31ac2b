"""What makes two trainings the same: all that decides the adapter's bytes, as a small record of digests and settings.

Checkpoints carry it, so that a state is never gone on from under other data, another seed or another base. What only
decides how a training is run (paths, how often it saves, its devices) is not in it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jora_engine.adapters.peft_folder import ADAPTER_WEIGHTS
from jora_engine.config.lora import LoraConfig
from jora_engine.config.recipe import TrainConfig
from jora_engine.files.weights import model_digest
from jora_engine.model.lora import Adapter
from jora_engine.training.loop import Progress
from jora_engine.training.packing import Example
from jora_engine.training.step import TrainState

HOW_IT_IS_RUN = ("checkpoint_every_steps", "keep_checkpoints", "mesh")
AFTERWARDS = ("distil_steps",)  # a finished training's states serve with and without what follows it
DIGITS = 32  # hex digits of a digest


def training_identity(
    *,
    examples: Iterable[Example],
    validation: Iterable[Example],
    base: Path,
    base_digest: str,
    start: Path | None,
    lora: LoraConfig,
    training: TrainConfig,
) -> dict[str, Any]:
    """The record as JSON values; two trainings with equal ones end, on one machine, in the same bytes.

    Records count as the tokens that are trained on: so do the tokenizer, the chat template and its date.

    Args:
        base_digest: identity of the base's files where the caller knows it; "" = computed here, reading every byte.
    """
    settings = dataclasses.asdict(training)
    return {
        "records": _tokens_digest(examples),
        "validation": _tokens_digest(validation),
        "base": (base_digest or model_digest(base))[:DIGITS],
        "start": _file_digest(start / ADAPTER_WEIGHTS) if start else "",
        "lora": dataclasses.asdict(lora),
        "training": {name: value for name, value in settings.items() if name not in HOW_IT_IS_RUN + AFTERWARDS},
        "layout": [f.name for kind in (TrainState, Progress) for f in dataclasses.fields(kind)],
    }


def distillation_identity(training: Mapping[str, Any], steps: int, lora: Adapter) -> dict[str, Any]:
    """That of the distillation of `lora` after the training of that identity, as JSON values."""
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(lora):
        total.update(np.asarray(leaf, "<f4").tobytes())
    return {**training, "distil_steps": steps, "adapter": total.hexdigest()[:DIGITS]}


def _tokens_digest(examples: Iterable[Example]) -> str:
    total = hashlib.sha256()
    for example in examples:
        for part in (example.prompt, example.completion):
            total.update(len(part).to_bytes(8, "little") + part.astype("<i4").tobytes())
        if example.rehearsed:
            total.update(b"rehearsed")
    return total.hexdigest()[:DIGITS]


def _file_digest(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()[:DIGITS]

"""Distillation onto a packed base: the trained adapter is fitted to what it answers on the base's own weights.

The idea is CA-LoRA's (arXiv 2307.07705), with plain LoRA, so that the result is exported and merged as ever. The
teacher is the base in full with the adapter as it was trained, frozen; the student is the packed base with the same
adapter, which learns the teacher's distribution over the vocabulary at the supervised positions. It is a training with
another loss, so rows, mesh, checkpoints and an exact resume are `loop`'s. Which adapter is kept, the validation loss
says.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jora_engine.model.decoder import head_matrix
from jora_engine.model.lora import Adapter
from jora_engine.model.parameters import Params
from jora_engine.model.sharding import with_shardings
from jora_engine.training.checkpoint import Checkpoints
from jora_engine.training.loop import Diverged, Trainer
from jora_engine.training.loss import supervised_divergence
from jora_engine.training.packing import Batch
from jora_engine.training.step import StepOptions, hidden_states

RATE = 0.3
"""Peak learning rate as a share of the training's: the adapter is near its aim already."""


class Bases(NamedTuple):
    """What is frozen: the packed base, the decoder layers of the same base in full, and the teacher's adapter.

    Embedding, final norm and head are never packed, so the teacher takes the student's.
    """

    student: Params
    layers: dict[str, Any]
    adapter: Adapter


def summed_divergence(
    lora: Adapter, bases: Bases, batch: Batch, key: jax.Array | None, options: StepOptions
) -> tuple[jax.Array, jax.Array]:
    """The objective: KL(teacher || student) summed over the supervised tokens, in nats."""
    teacher = {**bases.student, "layers": bases.layers}
    total = supervised_divergence(
        hidden_states(lora, bases.student, batch, key, options),
        hidden_states(bases.adapter, teacher, batch, None, options),
        head_matrix(bases.student, options.placement),
        batch.supervision.weight,
        divisor=options.model.logit_divisor,
        softcap=options.model.logit_softcap,
    )
    return total, total


def distiller(trainer: Trainer, layers: dict[str, Any]) -> Trainer:
    """The trainer of the distillation that follows a training: its rows, mesh and recipe, its own short schedule.

    It has `Bases` for parameters. The adapter that it begins with, and its teacher's, is `distil`'s to give: here it is
    a shape, as the bases may be (`plan.abstract_params`).

    Args:
        layers: of the base in full.
    """
    config, placement = trainer.config, trainer.placement
    adapter = jax.eval_shape(trainer.initial_state).lora
    if placement:
        adapter = with_shardings(adapter, placement.adapters(adapter))
    an_epoch = trainer.schedule.steps_of_all_epochs // config.epochs
    assert config.learning_rate is not None, "the trainer's recipe is one for its base"
    own = dataclasses.replace(
        config,
        learning_rate=RATE * config.learning_rate,
        epochs=-(-config.distil_steps // an_epoch),
        max_steps=config.distil_steps,
        eval_every_steps=0,
        early_stopping_patience=0,
    )
    return Trainer(
        Bases(trainer.params, layers, adapter),
        trainer.model,
        dataclasses.replace(trainer.lora_config, dropout=0.0),  # the teacher drops nothing
        own,
        trainer.examples,
        trainer.validation,
        placement,
        objective=summed_divergence,
        name="distillation",
    )


def distil(
    second: Trainer,
    trainer: Trainer,
    layers: dict[str, Any],
    lora: Adapter,
    checkpoints: Checkpoints | None = None,
    *,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[dict[str, Any]], None] = lambda event: None,
    checkpoint_seconds: float = math.inf,
) -> tuple[Adapter, dict[str, Any]]:
    """The distilled adapter, or `lora` where its validation loss is not lower, and the figures of both.

    Args:
        second: from `distiller`.
        trainer: whose base is packed, and whose validation loss decides.
        layers: of the base in full.
        lora: the trained adapter.
        checkpoints, stop, report, checkpoint_seconds: as for `Trainer.run`; its events have `pass: distillation`.

    Returns:
        The figures are `distil_steps`, `distil_kept`, and before and after, on the validation records and the packed
        base, `distil_loss_*` (mean loss per token) and `distil_kl_*` (mean KL from the teacher, nats per token); None
        for what is no number because it diverged.

    Raises:
        Interrupted: `stop` said so; the state is saved.
    """
    second.params, second.start = Bases(trainer.params, layers, lora), lora
    steps = len(second.schedule.steps)
    report({"event": "start", "pass": "distillation", "steps": steps})
    before = trainer.evaluate(lora)
    facts: dict[str, Any] = {
        "distil_steps": steps,
        "distil_kept": False,
        "distil_loss_before": before,
        "distil_loss_after": None,
        "distil_kl_before": _finite(second.evaluate(lora)),
        "distil_kl_after": None,
    }
    try:
        fitted, progress = second.run(
            checkpoints,
            stop=stop,
            report=lambda event: report({**event, "pass": "distillation"}),
            checkpoint_seconds=checkpoint_seconds,
        )
    except Diverged as error:  # which is no reason to lose the training
        report({"event": "warning", "what": error.what})
        return lora, facts
    after = trainer.evaluate(fitted)
    kept = after < before
    facts |= {"distil_kept": kept, "distil_loss_after": _finite(after), "distil_kl_after": _finite(progress.best_loss)}
    return (fitted if kept else lora), facts


def _finite(value: float | None) -> float | None:
    """As JSON has it: no NaN."""
    return value if value is not None and math.isfinite(value) else None

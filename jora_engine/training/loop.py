"""The training loop: packed rows in, adapter out, with evaluation, checkpoints and an exact resume.

What a step computes stands in `step`. `Trainer.run` can be stopped at any micro batch and goes on, bit for bit, from
the last checkpoint. Files of the run and the process around it are the business of `job`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jora_engine.config.architecture import ModelConfig
from jora_engine.config.lora import LoraConfig
from jora_engine.config.recipe import TrainConfig
from jora_engine.model.attention_backends import Choice, Shape, choose
from jora_engine.model.lora import Adapter, init_lora
from jora_engine.model.parameters import parameter_total
from jora_engine.model.sharding import Placement, with_shardings
from jora_engine.model.target import is_here
from jora_engine.training.checkpoint import Checkpoints
from jora_engine.training.optimizer import learning_rate, make_optimizer
from jora_engine.training.packing import BaseStates, Batch, Example, Packing, fitting, make_batch, pack, split_steps
from jora_engine.training.rehearsal import base_states
from jora_engine.training.step import (
    Objective,
    StepOptions,
    TrainState,
    Weights,
    add_gradient,
    train_step,
    validation_loss,
)
from raft_errors import BadInput, Interrupted, RaftError

DIVERGED_AFTER = 5  # consecutive steps far above the first loss


class Diverged(RaftError):
    """The loss is not finite or far above the first one; the last good checkpoint is kept."""


class _Stopped(Exception):
    """A step is given up for somebody who said stop."""


@dataclass
class Progress:
    """Counters that travel with a checkpoint as JSON."""

    step: int = 0
    best_loss: float | None = None
    best_step: int = 0
    first_loss: float | None = None
    bad_evaluations: int = 0
    high_steps: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Schedule:
    """Every optimiser step of the run: (epoch, rows of that epoch's packing).

    Attributes:
        steps_of_all_epochs: how many there would be without `max_steps`.
    """

    packings: tuple[Packing, ...]
    steps: tuple[tuple[int, range], ...]
    steps_of_all_epochs: int

    @property
    def capacity(self) -> int:
        return max(p.capacity for p in self.packings)

    def examples_seen(self, steps: int) -> int:
        """How many different examples the first `steps` steps hold."""
        rows = ((self.packings[epoch].rows, numbers) for epoch, numbers in self.steps[:steps])
        return len({example for packed, numbers in rows for i in numbers for example in packed[i]})


def plan_steps(examples: Sequence[Example], config: TrainConfig) -> Schedule:
    """All epochs packed and cut into steps.

    Raises:
        BadInput: no example fits a row, or there are fewer rows than one optimiser step takes.
    """
    kept = [examples[i] for i in fitting(examples, config.sequence_length)]
    per_step = config.micro_batch_rows * config.accumulation
    packings, steps = [], []
    for epoch in range(config.epochs):
        packing = pack(kept, config.sequence_length, seed=config.seed, epoch=epoch)
        if len(packing.rows) < per_step:
            raise BadInput(
                f"the {len(kept)} training records fill {len(packing.rows)} rows of {config.sequence_length} tokens,"
                f" fewer than one batch of {per_step}",
                expected=f"at least {per_step} rows",
                do="add questions, or lower train.micro_batch_rows, train.accumulation or train.sequence_length",
            )
        packings.append(packing)
        steps += [(epoch, rows) for rows in split_steps(len(packing.rows), per_step)]
    return Schedule(tuple(packings), tuple(steps[: config.max_steps]), len(steps))


class Trainer:
    """Holds the frozen base, the examples and the compiled functions of one run."""

    def __init__(
        self,
        params: Any,
        model: ModelConfig,
        lora: LoraConfig,
        config: TrainConfig,
        examples: Sequence[Example],
        validation: Sequence[Example] = (),
        placement: Placement | None = None,
        start: Adapter | None = None,
        objective: Objective | None = None,
        name: str = "training",
    ) -> None:
        """Args:
        params: the frozen base, or what else the objective takes.
        start: the adapter that training goes on from (a warm start); by default a fresh one.
        objective: what is lowered, and measured as loss; by default the cross-entropy (`step.summed_loss`).
        name: what messages call it.
        """
        if placement and config.micro_batch_rows % placement.rows:
            raise BadInput(
                f"train.micro_batch_rows is {config.micro_batch_rows} on a mesh that cuts rows {placement.rows} ways",
                expected=f"a multiple of {placement.rows}",
                do="set train.micro_batch_rows to one, or lower data and fsdp in train.mesh",
            )
        config = config.for_base(parameter_total(model))
        self.placement, self.start, self.name = placement, start, name
        self.params, self.model, self.lora_config, self.config = params, model, lora, config
        self.examples = [examples[i] for i in fitting(examples, config.sequence_length)]
        self.schedule = plan_steps(examples, config)
        self.validation = [validation[i] for i in fitting(validation, config.sequence_length)]
        self.validation_packing = pack(self.validation, config.sequence_length, seed=config.seed, epoch=0)
        self.optimizer = make_optimizer(config, len(self.schedule.steps))
        self.rate = learning_rate(config, len(self.schedule.steps))
        self.backend = self._attention()
        self.options = StepOptions(model, lora, config.remat, self.backend.backend, placement, objective)
        rehearses = objective is None and any(example.rehearsed for example in self.examples)
        self.base = BaseStates(model.hidden_size, config.dtype) if rehearses else None
        self._compiled: jax.stages.Compiled | None = None

    def compile(self) -> jax.stages.Compiled:
        """The gradient of a micro batch, compiled from shapes alone (`params` may be abstract); steps then use it."""
        if self._compiled is None:
            lora = jax.eval_shape(self.initial_state).lora
            rows = self.schedule.packings[0].rows[: self.config.micro_batch_rows]
            batch = self._batch(rows)
            if self.placement:
                lora = with_shardings(lora, self.placement.adapters(lora))
                batch = with_shardings(batch, self.placement.batch(batch))
            like = (lora, lora, self.params, batch, Weights(np.float32(1), np.float32(1)), jax.random.key(0))
            self._compiled = add_gradient.lower(*like, options=self.options).compile()
        return self._compiled

    def _attention(self) -> Choice:
        """The attention back end for one device's part of a micro batch."""
        cut = self.placement.size if self.placement else lambda axis: 1
        barred = "the only one for a sequence cut over devices" if cut("context") > 1 else ""
        own = (self.model.attention_scale, self.model.attention_softcap) != (None, None)
        if own or len(self.model.kinds) > 1:
            barred = "the only one for layers of several kinds or scores with their own scale or cap"
        if not is_here():
            barred = "the only one that is right without a check on the device, which is not here"
        tensor = cut("tensor") if self.placement and self.placement.heads_cut else 1
        packings = (*self.schedule.packings, self.validation_packing)
        return choose(
            Shape(
                rows=self.config.micro_batch_rows // (cut("data") * cut("fsdp")),
                length=self.config.sequence_length,
                heads=self.model.num_heads // tensor,
                kv_heads=self.model.num_kv_heads // tensor,
                head_dim=self.model.head_dim,
                window=self.model.sliding_window,
                packed=any(len(row) > 1 for packing in packings for row in packing.rows),
                dtype=self.config.dtype,
            ),
            barred,
        )

    def initial_state(self) -> TrainState:
        lora = self.start or init_lora(self.lora_config, self.model, self.config.seed)
        lora = jax.tree.map(jnp.copy, lora)  # the update consumes its state
        return self.options.place(TrainState(lora, self.optimizer.init(lora), jax.tree.map(jnp.copy, lora)))

    def run(
        self,
        checkpoints: Checkpoints | None = None,
        *,
        stop: Callable[[], bool] = lambda: False,
        report: Callable[[dict[str, Any]], None] = lambda event: None,
        checkpoint_seconds: float = math.inf,
    ) -> tuple[Adapter, Progress]:
        """Trains to the end and returns the adapter (the best by validation loss where there is one) and the record.

        Args:
            checkpoints: where states are kept; training goes on from the newest one.
            stop: asked before every micro batch; True saves the last finished step and raises `Interrupted`.
            report: called with progress events (JSON values).
            checkpoint_seconds: also save when this much time has passed since the last save.

        Raises:
            Interrupted: `stop` said so; the state is saved.
            Diverged: the loss is not finite or far above the first one; the last good checkpoint is kept.
        """
        state, progress = self.initial_state(), Progress()
        found = checkpoints.restore(state) if checkpoints else None
        if found:
            _, state, notes = found
            progress = Progress(**notes)
            report({"event": "resumed", "step": progress.step})
        if self.base and progress.step < len(self.schedule.steps):
            self.base.of.update(base_states(self.examples, self.params, self.config, self.options, self._put))
        saved, saved_at = progress.step, time.monotonic()

        def save() -> None:
            nonlocal saved, saved_at
            if checkpoints and saved != progress.step:
                checkpoints.save(progress.step, state, dict(vars(progress)))
                report({"event": "checkpoint", "step": progress.step})
            saved, saved_at = progress.step, time.monotonic()

        total = len(self.schedule.steps)
        # asked before a step, not after one: a state that was saved at an early stop is at its end
        while progress.step < total and not self._out_of_patience(progress):
            began = time.monotonic()
            taken = self._step(state, progress.step, stop, report)
            if taken is None:
                save()
                raise Interrupted(
                    f"{self.name} stopped at step {progress.step} of {total}, state saved", do="run it again"
                )
            state, row = taken
            self._guard(row, progress)
            progress.step += 1
            seconds = time.monotonic() - began
            if self._evaluation_due(progress.step):
                row["validation_loss"] = self.evaluate(state.lora)
                state = self._note_best(state, progress, row["validation_loss"])
            progress.history.append(row)
            rate = {"tokens_per_second": row["tokens"] / seconds, "seconds_left": seconds * (total - progress.step)}
            report({"event": "step", "steps": total, **row, **rate})
            every = self.config.checkpoint_every_steps
            if (every and progress.step % every == 0) or time.monotonic() - saved_at > checkpoint_seconds:
                save()
        if self._out_of_patience(progress):
            report({"event": "early-stop", "step": progress.step, "best_step": progress.best_step})
        save()
        return (state.best_lora if progress.best_step else state.lora), progress

    def evaluate(self, lora: Adapter) -> float:
        """Mean loss per supervised token over the validation examples."""
        rows, packing = self.config.micro_batch_rows, self.validation_packing
        total, weight = 0.0, 0.0
        for at in range(0, len(packing.rows), rows):
            part = list(packing.rows[at : at + rows])
            part += [()] * (rows - len(part))
            batch = self._put(make_batch(self.validation, part, packing.length, packing.capacity))
            total += float(validation_loss(lora, self.params, batch, options=self.options))
            weight += float(batch.supervision.weight.sum())
        return total / max(weight, 1.0)

    def _step(self, state, step, stop, report):
        """(new state, metrics row), or None where `stop` interrupted it; `state` is consumed only at the update."""
        epoch, rows = self.schedule.steps[step]
        packing, width = self.schedule.packings[epoch], self.config.micro_batch_rows
        numbers = [packing.rows[i] for i in rows]
        parts = [numbers[at : at + width] for at in range(0, len(rows), width)]
        batches = [self._batch(part + [()] * (width - len(part))) for part in parts]
        of_records = sum(float(b.supervision.weight.sum()) for b in batches)
        supervised = sum(float(b.supervision.weights.sum()) for b in batches)
        weights = Weights(np.float32(supervised), np.float32(max(of_records, 1.0)))

        def micro_batches() -> Iterator[Batch]:
            for micro, batch in enumerate(batches, 1):
                if stop():
                    raise _Stopped
                yield self._put(batch)
                if len(batches) > 1:
                    report({"event": "micro", "step": step + 1, "micro": micro, "micros": len(batches)})
            if stop():
                raise _Stopped

        key = jax.random.fold_in(jax.random.key(self.config.seed), step)
        try:
            state, taken = train_step(
                state, self.params, micro_batches(), weights, key, self.optimizer, self.options, self._compiled
            )
        except _Stopped:
            return None
        row = {
            "step": step + 1,
            "epoch": epoch + 1,
            "loss": taken.loss,
            "learning_rate": float(self.rate(step)),
            "gradient_norm": taken.gradient_norm,
            "tokens": int(sum((b.mask.segments > 0).sum() for b in batches)),
            "supervised_tokens": int(supervised),
        }
        return state, row

    def _batch(self, rows: Sequence[Sequence[int]]) -> Batch:
        return make_batch(self.examples, rows, self.config.sequence_length, self.schedule.capacity, self.base)

    def _put(self, batch: Batch) -> Batch:
        return jax.device_put(batch, self.placement.batch(batch)) if self.placement else batch

    def _evaluation_due(self, step: int) -> bool:
        every = self.config.eval_every_steps
        return bool(self.validation) and (step == len(self.schedule.steps) or bool(every and step % every == 0))

    def _out_of_patience(self, progress: Progress) -> bool:
        patience = self.config.early_stopping_patience
        return bool(patience) and progress.bad_evaluations >= patience

    def _note_best(self, state: TrainState, progress: Progress, loss: float) -> TrainState:
        if progress.best_loss is not None and not loss < progress.best_loss:
            progress.bad_evaluations += 1
            return state
        progress.best_loss, progress.best_step, progress.bad_evaluations = loss, progress.step, 0
        return dataclasses.replace(state, best_lora=jax.tree.map(functools.partial(jnp.array, copy=True), state.lora))

    def _guard(self, row: dict[str, Any], progress: Progress) -> None:
        """Stops on a loss or gradient that is not finite, and on a loss that stays far above the first one."""
        where = f"step {row['step']} (epoch {row['epoch']})"
        kept = "the last checkpoint is kept"
        if not (math.isfinite(row["loss"]) and math.isfinite(row["gradient_norm"])):
            raise Diverged(
                f"{self.name} diverged at {where}: loss {row['loss']}, gradient norm {row['gradient_norm']}; {kept}",
                do="lower train.learning_rate, or set train.dtype to float32",
            )
        if (
            progress.first_loss is None and row["loss"] > 0
        ):  # 0 is that of a step without records, which rehearses alone
            progress.first_loss = row["loss"]
        first = math.inf if progress.first_loss is None else progress.first_loss
        progress.high_steps = progress.high_steps + 1 if row["loss"] > 2 * first + 1 else 0
        if progress.high_steps >= DIVERGED_AFTER:
            raise Diverged(
                f"{self.name} diverged at {where}: loss {row['loss']:.3f}, at first {progress.first_loss:.3f}; {kept}",
                do="lower train.learning_rate",
            )

"""One step of training as pure functions: the loss of a micro batch, its gradient, the update of the adapter.

The loss is the token mean over the whole effective batch, so that N micro batches are one large batch, also when their
token counts differ. Knows nothing of epochs, checkpoints or files.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from jora_engine.config.architecture import ModelConfig
from jora_engine.config.lora import LoraConfig
from jora_engine.model.decoder import forward, head_matrix
from jora_engine.model.lora import Adapter, prepare
from jora_engine.model.parameters import Params
from jora_engine.model.sharding import Placement
from jora_engine.training.loss import supervised_divergence, supervised_loss
from jora_engine.training.packing import Batch


@struct.dataclass
class TrainState:
    """What a checkpoint holds besides the step number: float32 adapter and optimiser state."""

    lora: Adapter
    optimizer: Any
    best_lora: Adapter


Objective = Callable[..., tuple[jax.Array, jax.Array]]
"""`objective(lora, params, batch, key, options)`: what a step lowers, summed over the supervised tokens, and what it
tells as loss: the same, or the records' part where something is rehearsed beside them."""


@dataclass(frozen=True)
class StepOptions:
    """What a step is compiled for; hashable, a static argument of its programs. No objective: `summed_loss`."""

    model: ModelConfig
    lora: LoraConfig
    remat: str
    backend: str
    placement: Placement | None
    objective: Objective | None = None

    def pin(self, tree: Any) -> Any:
        """Adapter-shaped arrays where they belong on the mesh."""
        return jax.lax.with_sharding_constraint(tree, self.placement.adapters(tree)) if self.placement else tree

    def place(self, tree: Any) -> Any:
        """Adapter-shaped trees where the compiled functions leave them: placed otherwise, they compile twice."""
        return jax.device_put(tree, self.placement.adapters(tree) if self.placement else jax.devices()[0])


class Weights(NamedTuple):
    """Tokens of a step, float32: all that are supervised, and the records' own (1 where there is none)."""

    supervised: np.float32
    records: np.float32


class Taken(NamedTuple):
    """A step's loss per token of its records, and the norm of its gradient before clipping."""

    loss: float
    gradient_norm: float


def train_step(
    state: TrainState,
    params: Params,
    batches: Iterable[Batch],
    weights: Weights,
    key: jax.Array,
    optimizer: optax.GradientTransformation,
    options: StepOptions,
    add: Callable[..., tuple[Adapter, jax.Array]] | None = None,
) -> tuple[TrainState, Taken]:
    """The state after one optimiser step; `state` is consumed once all gradients are there, not before.

    Args:
        batches: micro batches, each asked for when the one before has been computed.
        weights: of all of them.
        key: of the step, for dropout.
        add: `add_gradient` compiled ahead of time.
    """
    add = add or functools.partial(add_gradient, options=options)
    gradient, losses = options.place(jax.tree.map(jnp.zeros_like, state.lora)), []
    for micro, batch in enumerate(batches):
        gradient, loss = add(gradient, state.lora, params, batch, weights, jax.random.fold_in(key, micro))
        losses.append(jax.block_until_ready(loss))
    lora, moments, norm = apply_gradient(state.lora, state.optimizer, gradient, optimizer=optimizer, options=options)
    return dataclasses.replace(state, lora=lora, optimizer=moments), Taken(float(sum(losses)), float(norm))


@functools.partial(jax.jit, static_argnames="options", donate_argnums=0)
def add_gradient(gradient, lora, params, batch, weights: Weights, key, *, options: StepOptions):
    """(the gradient with this micro batch's share, its share of the loss that is told)."""
    lowers = jax.value_and_grad(options.objective or summed_loss, has_aux=True)
    (_, loss), more = lowers(lora, params, batch, key, options)
    return options.pin(jax.tree.map(lambda a, b: a + b / weights.supervised, gradient, more)), loss / weights.records


def summed_loss(
    lora: Adapter, params: Params, batch: Batch, key: jax.Array | None, options: StepOptions
) -> tuple[jax.Array, jax.Array]:
    """The objective: the loss of the records' tokens and KL(base || model) at the rehearsed ones; told is the loss.

    Dropout only where a key is given.
    """
    hidden, supervision = hidden_states(lora, params, batch, key, options), batch.supervision
    head = head_matrix(params, options.placement)  # gathered once, not once for every chunk of the loss
    divisor, softcap = options.model.logit_divisor, options.model.logit_softcap
    loss = supervised_loss(hidden, head, supervision, divisor, softcap)
    if (rehearsal := supervision.rehearsal) is None:
        return loss, loss
    base = jnp.asarray(rehearsal.base)
    return loss + supervised_divergence(hidden, base, head, rehearsal.weight, divisor, softcap), loss


def hidden_states(
    lora: Adapter, params: Params, batch: Batch, key: jax.Array | None, options: StepOptions
) -> jax.Array:
    """`[batch, capacity, embed]` at the supervised positions; dropout only where a key is given."""
    dropout = options.lora.dropout
    return forward(
        params,
        prepare(lora, options.lora.scale, jnp.float32),
        batch.tokens,
        batch.mask,
        options.model,
        remat=options.remat,
        dropout=dropout,
        dropout_key=key if dropout else None,
        backend=options.backend,
        placement=options.placement,
        places=batch.supervision.places,
    )


@functools.partial(jax.jit, static_argnames=("optimizer", "options"), donate_argnums=(0, 1))
def apply_gradient(lora, moments, gradient, *, optimizer: optax.GradientTransformation, options: StepOptions):
    """(adapter and optimiser state after the update, the gradient's norm)."""
    norm = optax.global_norm(gradient)
    updates, moments = optimizer.update(gradient, moments, lora)
    return options.pin(optax.apply_updates(lora, updates)), options.pin(moments), norm


@functools.partial(jax.jit, static_argnames="options")
def validation_loss(lora: Adapter, params: Params, batch: Batch, *, options: StepOptions) -> jax.Array:
    """What the objective tells, summed over the supervised tokens, without dropout."""
    return (options.objective or summed_loss)(lora, params, batch, None, options)[1]

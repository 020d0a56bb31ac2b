"""Cross-entropy, or divergence from a teacher, at supervised positions only, and never the logits of a whole batch.

RAFT supervises a small share of the tokens, so hidden states are computed at those positions only, and the frozen head
is applied chunk by chunk; the forward pass keeps the gradient of the hidden states and no logits.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jora_engine.model.ops import Array, accumulate, scaled, soft_cap
from jora_engine.model.places import Places

CHUNK = 128  # positions, over all rows, whose logits exist at one time


class Rehearsal(NamedTuple):
    """The slots of a `Supervision` in which the model learns to stay where the base is.

    Attributes:
        weight: `[batch, capacity]` float32, 0 in all other slots.
        base: `[batch, capacity, embed]`, the base's hidden states there; anything in other slots.
    """

    weight: Array
    base: Array


class Supervision(NamedTuple):
    """Which positions of each row are trained on.

    Attributes:
        position: `[batch, capacity]` int32, position whose hidden state predicts `target`; unused slots repeat 0.
        target: `[batch, capacity]` int32 token ids.
        weight: `[batch, capacity]` float32 of the target's loss, 0 in unused slots and in rehearsed ones.
        rehearsal: where no record of the batch is rehearsed, None.
    """

    position: Array
    target: Array
    weight: Array
    rehearsal: Rehearsal | None = None

    @property
    def weights(self) -> Array:
        """`[batch, capacity]` of all slots that are trained on."""
        return self.weight if self.rehearsal is None else self.weight + self.rehearsal.weight

    @property
    def places(self) -> Places:
        """Where hidden states are wanted."""
        return Places(self.position, self.weights > 0)


def supervised_loss(
    hidden: jax.Array, head: jax.Array, supervision: Supervision, divisor: float = 1.0, softcap: float | None = None
) -> jax.Array:
    """Sum over supervised positions of `weight * -log p(target)`, float32 scalar.

    Args:
        hidden: `[batch, capacity, embed]`, of `supervision.places`.
        head: `[vocab, embed]`, frozen: its gradient is not computed.
        divisor, softcap: what makes logits of the head's products, see `ModelConfig.logit_divisor`, `logit_softcap`.
    """
    size = max(1, CHUNK // hidden.shape[0])
    chunks = (_chunks(x, size) for x in (hidden, supervision.target, supervision.weight))
    return _cross_entropy(*chunks, head, divisor, softcap)


def supervised_divergence(
    hidden: jax.Array,
    teacher: jax.Array,
    head: jax.Array,
    weight: Array,
    divisor: float = 1.0,
    softcap: float | None = None,
) -> jax.Array:
    """Sum over supervised positions of `weight * KL(teacher || student)` in nats, float32 scalar.

    KL(t || s) is the sum over the vocabulary of `t (log t - log s)`, as in arXiv 1503.02531 at temperature 1. A chunk
    of positions without weight is not computed.

    Args:
        hidden, teacher: `[batch, capacity, embed]`, both under the same head; only `hidden` has a gradient.
        weight: `[batch, capacity]`, of `Supervision`.
        head, divisor, softcap: as for `supervised_loss`.
    """
    size = max(1, CHUNK // hidden.shape[0])
    chunks = (_chunks(x, size) for x in (hidden, teacher, weight))
    return _divergence(*chunks, head, divisor, softcap)


def _chunks(x: Array, size: int) -> jax.Array:
    """`[batch, capacity, ...]` -> `[chunks, batch, size, ...]`: rows stay rows, so their cut over devices stays."""
    x = jnp.asarray(x)
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % size), *[(0, 0)] * (x.ndim - 2)))
    return jnp.moveaxis(x.reshape(x.shape[0], -1, size, *x.shape[2:]), 1, 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _cross_entropy(hidden, target, weight, head, divisor, softcap):
    return _forward(hidden, target, weight, head, divisor, softcap)[0]


def _forward(hidden, target, weight, head, divisor, softcap):
    vocab = jnp.arange(head.shape[0])

    def chunk(total, xs):
        h, ids, w = xs
        logits = _logits(h, head, divisor, softcap)
        lse = jax.nn.logsumexp(logits, axis=-1)
        hot = ids[..., None] == vocab  # a dense compare is faster than a scatter
        nll = lse - jnp.where(hot, logits, 0.0).sum(-1)
        d_logits = (jnp.exp(logits - lse[..., None]) - hot) * w[..., None]
        d_logits = _of_products(d_logits, logits, divisor, softcap).astype(h.dtype)
        return total + (w * nll).sum(), accumulate("bcv,vd->bcd", d_logits, head).astype(h.dtype)

    return lax.scan(chunk, jnp.float32(0), (hidden, target, weight))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _divergence(hidden, teacher, weight, head, divisor, softcap):
    return _divergence_forward(hidden, teacher, weight, head, divisor, softcap)[0]


def _divergence_forward(hidden, teacher, weight, head, divisor, softcap):
    def weighed(h, t, w):
        logits = _logits(h, head, divisor, softcap)
        ours, theirs = (jax.nn.log_softmax(x, axis=-1) for x in (logits, _logits(t, head, divisor, softcap)))
        aim = jnp.exp(theirs)
        divergence = (aim * (theirs - ours)).sum(-1)
        d_logits = (jnp.exp(ours) - aim) * w[..., None]
        d_logits = _of_products(d_logits, logits, divisor, softcap).astype(h.dtype)
        return (w * divergence).sum(), accumulate("bcv,vd->bcd", d_logits, head).astype(h.dtype)

    def chunk(total, xs):
        share, d_hidden = lax.cond(jnp.any(xs[2] > 0), weighed, lambda h, t, w: (0.0, jnp.zeros_like(h)), *xs)
        return total + share, d_hidden

    return lax.scan(chunk, jnp.float32(0), (hidden, teacher, weight))


def _logits(hidden, head, divisor, softcap):
    return soft_cap(scaled(accumulate("bcd,vd->bcv", hidden, head), 1 / divisor), softcap)


def _of_products(d_logits, logits, divisor, softcap):
    """The gradient of the head's products for that of the logits."""
    if softcap is not None:
        d_logits *= 1.0 - jnp.square(logits / softcap)  # tanh's own slope
    return scaled(d_logits, 1 / divisor)


def _backward(divisor, softcap, d_hidden, g):
    return (d_hidden * g).astype(d_hidden.dtype), None, None, None


_cross_entropy.defvjp(_forward, _backward)
_divergence.defvjp(_divergence_forward, _backward)

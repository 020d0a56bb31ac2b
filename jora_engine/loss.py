"""Cross-entropy at supervised positions only, without ever holding logits for a whole batch.

RAFT supervises a small share of the tokens, so hidden states are gathered at those positions first, and the frozen
head is applied chunk by chunk; the forward pass keeps the gradient of the hidden states and no logits.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jora_engine.ops import Array, accumulate

CHUNK = 128  # positions whose logits exist at one time


class Supervision(NamedTuple):
    """Which positions of each row are trained on.

    Attributes:
        position: `[batch, capacity]` int32, position whose hidden state predicts `target`; unused slots repeat 0.
        target: `[batch, capacity]` int32 token ids.
        weight: `[batch, capacity]` float32, 0 in unused slots.
    """

    position: Array
    target: Array
    weight: Array


def supervised_loss(hidden: jax.Array, head: jax.Array, supervision: Supervision) -> jax.Array:
    """Sum over supervised positions of `weight * -log p(target)`, float32 scalar.

    Args:
        hidden: `[batch, seq, embed]`.
        head: `[vocab, embed]`, frozen: its gradient is not computed.
    """
    gathered = _gather(hidden, supervision.position, supervision.weight)
    flat = gathered.reshape(-1, hidden.shape[-1])
    pad = -flat.shape[0] % CHUNK
    flat = jnp.pad(flat, ((0, pad), (0, 0)))
    target = jnp.pad(jnp.ravel(supervision.target), (0, pad))
    weight = jnp.pad(jnp.ravel(supervision.weight), (0, pad))
    return _cross_entropy(flat, head, target, weight)


@jax.custom_vjp
def _gather(hidden, index, weight):
    return jnp.take_along_axis(hidden, index[:, :, None], axis=1)


def _gather_forward(hidden, index, weight):
    return _gather(hidden, index, weight), (index, weight, hidden.shape[1])


def _gather_backward(saved, g):
    # the transpose of a gather is a scatter-add, slow everywhere; positions are distinct, so a second gather does it
    index, weight, length = saved
    batch, capacity = index.shape
    slot = jnp.where(weight > 0, index, length)  # unused slots write past the end and are dropped
    inverse = jnp.full((batch, length), capacity, jnp.int32)
    rows = jnp.arange(batch)[:, None]
    inverse = inverse.at[rows, slot].set(jnp.arange(capacity, dtype=jnp.int32)[None], mode="drop")
    g = jnp.pad(g, ((0, 0), (0, 1), (0, 0)))
    return jnp.take_along_axis(g, inverse[:, :, None], axis=1), None, None


_gather.defvjp(_gather_forward, _gather_backward)


@jax.custom_vjp
def _cross_entropy(hidden, head, target, weight):
    return _chunked(hidden, head, target, weight)[0]


def _chunked(hidden, head, target, weight):
    vocab = jnp.arange(head.shape[0])

    def chunk(total, xs):
        h, ids, w = xs
        logits = accumulate("cd,vd->cv", h, head)
        lse = jax.nn.logsumexp(logits, axis=-1)
        hot = ids[:, None] == vocab  # a dense compare is faster than a scatter
        nll = lse - jnp.where(hot, logits, 0.0).sum(-1)
        d_logits = ((jnp.exp(logits - lse[:, None]) - hot) * w[:, None]).astype(h.dtype)
        return total + (w * nll).sum(), accumulate("cv,vd->cd", d_logits, head).astype(h.dtype)

    cut = functools.partial(_cut, size=CHUNK)
    total, d_hidden = lax.scan(chunk, jnp.float32(0), (cut(hidden), cut(target), cut(weight)))
    return total, d_hidden.reshape(hidden.shape)


def _cut(x: jax.Array, size: int) -> jax.Array:
    return x.reshape(-1, size, *x.shape[1:])


_cross_entropy.defvjp(
    _chunked,
    lambda d_hidden, g: ((d_hidden * g).astype(d_hidden.dtype), None, None, None),
)

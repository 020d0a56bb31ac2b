"""The choice of a token from logits: the most likely one, or a seeded draw from the nucleus.

A row's draw depends on its own key and count only, never on its neighbours.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

NEGATIVE = -1e30


def pick(logits: jax.Array, key: jax.Array, made: jax.Array, temperature: float, top_p: float) -> jax.Array:
    """One token per row.

    Args:
        logits: `[rows, vocab]` float32.
        key: `[rows, 2]` uint32, raw PRNG key of each row.
        made: `[rows]` how many tokens each row has, which numbers its draws.
        temperature: 0 takes the largest (lowest id of equals).
        top_p: draws from the smallest set of largest probabilities whose sum reaches it.

    Returns:
        `[rows]` int32.
    """
    if temperature == 0.0:
        return _first_largest(logits)
    logits = logits / temperature
    if top_p < 1.0:
        logits = jnp.where(nucleus(jax.nn.softmax(logits, axis=-1), top_p), logits, NEGATIVE)

    def draw(row_key, count, row):
        noise = jax.random.gumbel(jax.random.fold_in(jax.random.wrap_key_data(row_key), count), row.shape)
        return row + noise

    return _first_largest(jax.vmap(draw)(key, made, logits))


def _first_largest(x: jax.Array) -> jax.Array:
    """`argmax` over the last axis of `[rows, n]` in two plain reductions, which XLA:CPU does faster than its own."""
    index = jnp.arange(x.shape[-1], dtype=jnp.int32)
    largest = jnp.where(x == x.max(axis=-1, keepdims=True), index, x.shape[-1] - 1)
    return largest.min(axis=-1)


def nucleus(probabilities: jax.Array, top_p: float) -> jax.Array:
    """Mask of the smallest set of largest probabilities whose sum reaches `top_p` (arXiv 1904.09751), without sorting.

    Bisects the threshold on the bits of the float: non-negative floats order as their bit patterns do.
    """
    bits = lax.bitcast_convert_type(probabilities, jnp.int32)

    def halve(_, bounds):
        low, high = bounds  # what is at least `low` reaches top_p, what is at least `high` does not
        middle = low + (high - low) // 2
        enough = jnp.sum(jnp.where(bits >= middle[:, None], probabilities, 0.0), axis=-1) >= top_p
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    rows = probabilities.shape[0]
    one = lax.bitcast_convert_type(jnp.float32(1.0), jnp.int32)
    low, _ = lax.fori_loop(0, 31, halve, (jnp.zeros(rows, jnp.int32), jnp.full(rows, one + 1)))
    return bits >= low[:, None]

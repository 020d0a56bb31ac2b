"""The choice of a token from logits: the most likely one, or a seeded draw from the nucleus.

What a request asks for stands in one array per parameter with a number per row, so that no value compiles a program
anew. A row's draw depends on its own key and count only, never on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

NEGATIVE = -1e30
COLDEST, NARROWEST = 1e-6, 1e-30
"""Temperature and top_p below these are as these, which leave the largest alone: what they divide would be infinite for
several tokens, and a sum of probabilities that is to reach nothing is reached by none."""
TOP_LOGPROBS = 20  # alternatives that a request may ask for, as in the OpenAI API


class Sampling(NamedTuple):
    """How the rows choose, `[rows]` arrays.

    Attributes:
        temperature: float32; 0 takes the largest (lowest id of equals).
        top_p: float32; draws from the smallest set of largest probabilities whose sum reaches it.
        top_k: int32; draws from the that many largest, 0 for all. Where both are given, `top_p` counts among those.
        key: `[rows, 2]` uint32, raw PRNG key of each row.
    """

    temperature: jax.Array | np.ndarray
    top_p: jax.Array | np.ndarray
    top_k: jax.Array | np.ndarray
    key: jax.Array | np.ndarray


def pick(logits: jax.Array, sampling: Sampling, made: jax.Array) -> jax.Array:
    """One token per row.

    Args:
        logits: `[rows, vocab]` float32.
        made: `[rows]` how many tokens each row has, which numbers its draws.

    Returns:
        `[rows]` int32.
    """
    largest = _first_largest(logits)
    temperature, top_p, top_k, key = (jnp.asarray(x) for x in sampling)
    warm = temperature > 0

    def draws(logits: jax.Array) -> jax.Array:
        hot = logits / jnp.where(warm, jnp.maximum(temperature, COLDEST), 1.0)[:, None]
        hot = lax.cond(jnp.any(warm & (top_k > 0)), lambda x: _narrowed(x, leaders, top_k, top_k > 0), same, hot)
        hot = lax.cond(jnp.any(warm & (top_p < 1)), lambda x: _narrowed(x, nucleus, top_p, top_p < 1), same, hot)

        def draw(row_key, count, row):
            noise = jax.random.gumbel(jax.random.fold_in(jax.random.wrap_key_data(row_key), count), row.shape)
            return row + noise

        return jnp.where(warm, _first_largest(jax.vmap(draw)(key, made, hot)), largest)

    return lax.cond(jnp.any(warm), draws, lambda logits: largest, logits)


def same(x: jax.Array) -> jax.Array:
    """The identity."""
    return x


def logprobs(logits: jax.Array, token: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Natural log probabilities of what was chosen and of the most likely tokens, at temperature 1.

    Returns:
        `[rows]` float32, `[rows, TOP_LOGPROBS]` float32, and the ids of these, `[rows, TOP_LOGPROBS]` int32.
    """
    scores = jax.nn.log_softmax(logits, axis=-1)
    best, ids = lax.top_k(scores, min(TOP_LOGPROBS, scores.shape[-1]))
    short = TOP_LOGPROBS - best.shape[-1]
    best = jnp.pad(best, ((0, 0), (0, short)), constant_values=NEGATIVE)
    ids = jnp.pad(ids.astype(jnp.int32), ((0, 0), (0, short)), constant_values=-1)
    return jnp.take_along_axis(scores, token[:, None], axis=-1)[:, 0], best, ids


def _first_largest(x: jax.Array) -> jax.Array:
    """`argmax` over the last axis of `[rows, n]` in two plain reductions, which XLA:CPU does faster than its own."""
    index = jnp.arange(x.shape[-1], dtype=jnp.int32)
    largest = jnp.where(x == x.max(axis=-1, keepdims=True), index, x.shape[-1] - 1)
    return largest.min(axis=-1)


def _narrowed(logits: jax.Array, mask: Callable[..., jax.Array], bound: jax.Array, where: jax.Array) -> jax.Array:
    """The logits `[rows, vocab]` with what a mask leaves out made impossible, in the rows `where`."""
    inside = mask(jax.nn.softmax(logits, axis=-1), bound)
    return jnp.where(inside | ~where[:, None], logits, NEGATIVE)


def nucleus(probabilities: jax.Array, top_p: jax.Array) -> jax.Array:
    """Mask of the smallest set of largest probabilities whose sum reaches `top_p` `[rows]` (arXiv 1904.09751)."""
    least = jnp.maximum(top_p, NARROWEST)
    return _from_threshold(
        probabilities, lambda inside: jnp.sum(jnp.where(inside, probabilities, 0.0), axis=-1) >= least
    )


def leaders(probabilities: jax.Array, top_k: jax.Array) -> jax.Array:
    """Mask of the `top_k` `[rows]` largest probabilities of each row, and whatever equals the last of them."""
    return _from_threshold(probabilities, lambda inside: inside.sum(axis=-1) >= top_k)


def _from_threshold(probabilities: jax.Array, enough: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Mask of the probabilities `[rows, n]` from the highest threshold on that still leaves enough, without sorting.

    Bisects the threshold on the bits of the float: non-negative floats order as their bit patterns do.
    """
    bits = lax.bitcast_convert_type(probabilities, jnp.int32)

    def halve(_, bounds):
        low, high = bounds  # what is at least `low` is enough, what is at least `high` is not
        middle = low + (high - low) // 2
        good = enough(bits >= middle[:, None])
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    rows = probabilities.shape[0]
    one = lax.bitcast_convert_type(jnp.float32(1.0), jnp.int32)
    low, _ = lax.fori_loop(0, 31, halve, (jnp.zeros(rows, jnp.int32), jnp.full(rows, one + 1)))
    return bits >= low[:, None]

"""Dropout on an adapter's input: a mask that is a function of a key and a place, cheap enough to be drawn twice.

Bits come from a counter-based generator (Salmon et al. 2011): the place is mixed, nothing is kept from draw to draw. So
a mask is the same however rows are spread over devices and whatever is computed again, and the backward pass draws it
anew instead of keeping it. JAX's own generator costs a third of a training step on a CPU.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax


@struct.dataclass
class Dropout:
    """Which inputs of a group of adapters are dropped.

    Attributes:
        salt: `[2]` uint32, another one in each step, micro batch, layer and group.
        rate: the probability that an input is dropped, 0 up to below 1.
    """

    salt: jax.Array
    rate: float = struct.field(pytree_node=False)


def dropout(key: jax.Array, rate: float) -> Dropout:
    """From a key of `jax.random`."""
    return Dropout(jax.random.bits(key, (2,), jnp.uint32), rate)


def drop(x: jax.Array, mask: Dropout | None) -> jax.Array:
    """`x / (1 - rate)` where an input is kept, 0 where it is dropped; `[..., features]` in `x.dtype`.

    Linear in `x` and its own transpose: a cotangent is dropped alike. None drops nothing.
    """
    if mask is None:
        return x
    kept = bits(mask.salt, x.shape) >= np.uint32(threshold(mask.rate))
    return jnp.where(kept, x.astype(jnp.float32) * np.float32(1.0 / (1.0 - mask.rate)), 0).astype(x.dtype)


def threshold(rate: float) -> int:
    """The number of 32 bits below which an input is dropped: the rate to 2 ** -33."""
    return min(round(rate * 2**32), 2**32 - 1)


def bits(salt: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """32 random bits for each place of an array, uint32.

    A row's number (all axes but the last) and the salt give two words by a full mixing each; the column enters with one
    and meets the other inside the mixing, so that two rows' bits are no shifted copies of each other.
    """
    count = np.prod(shape[:-1], dtype=np.int64)
    rows = lax.iota(jnp.uint32, int(count)).reshape(*shape[:-1], 1)
    first = _mixed(_mixed(rows ^ salt[0]) + salt[1])
    second = _mixed(first ^ np.uint32(0x9E3779B9))
    first, second = lax.optimization_barrier((first, second))  # else XLA mixes them for every column anew
    columns = lax.broadcasted_iota(jnp.uint32, shape, len(shape) - 1)
    return _mixed(columns * np.uint32(0x9E3779B9) + first, second)


def _mixed(x: jax.Array, more: jax.Array | None = None) -> jax.Array:
    """A permutation of 32 bits in which each bit in decides each bit out with probability 1/2, to 0.17 in 1000.

    `lowbias32` of Chris Wellons's hash prospector (public domain), the form of Murmur3's finalizer; `more` comes in by
    exclusive or between its two products.
    """
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = x ^ (x >> 15)
    if more is not None:
        x = x ^ more
    x = x * np.uint32(0x846CA68B)
    return x ^ (x >> 16)

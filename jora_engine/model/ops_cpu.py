"""What XLA:CPU must be told in other words to be fast; each form computes exactly what the plain one would.

bfloat16 arrays that a loop slices or stacks travel as bits, half of a head is turned by a product, an embedding stays
out of a loop's hoisting. On other back ends the first and last do nothing.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from jora_engine.model.target import platform


def to_bits(x: jax.Array) -> jax.Array:
    """On a CPU a bfloat16 array as uint16, any other as it is.

    XLA:CPU slices and updates bfloat16 arrays by converting the whole array to float32 and back, in every iteration of
    a loop; integers it leaves alone.
    """
    on_cpu = platform() == "cpu"
    return lax.bitcast_convert_type(x, jnp.uint16) if on_cpu and x.dtype == jnp.bfloat16 else x


def from_bits(x: jax.Array) -> jax.Array:
    """Undoes `to_bits`."""
    return lax.bitcast_convert_type(x, jnp.bfloat16) if x.dtype == jnp.uint16 else x


@jax.custom_vjp
def revive(bits: jax.Array, x: jax.Array) -> jax.Array:
    """`from_bits(bits)`, which must equal `x`, with the gradient going to `x`: `jax.checkpoint` then keeps the bits."""
    return from_bits(bits)


revive.defvjp(lambda bits, x: (from_bits(bits), None), lambda _, g: (None, g))


def named(x: jax.Array, name: str) -> jax.Array:
    """`x`, which a remat policy can keep under `name`, as bits."""
    return revive(checkpoint_name(to_bits(x), name), x)


def turned(x: jax.Array) -> jax.Array:
    """`(first, second)` halves of the last axis as `(-second, first)`, float32; x is `[batch, seq, heads, head_dim]`.

    A product with a signed permutation is exact, and XLA:CPU takes twice as long to concatenate or reverse halves.
    """
    half = x.shape[-1] // 2
    swap = np.zeros((2 * half, 2 * half), np.float32)
    swap[half:, :half], swap[:half, half:] = -np.eye(half), np.eye(half)
    return jnp.einsum(
        "bthd,de->bthe",
        x,
        swap.astype(x.dtype),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


def beside(table: Any, index: Any) -> tuple[jax.Array, jax.Array]:
    """Both, tied together: XLA:CPU would convert a whole bfloat16 table to float32 ahead of the loop that gathers from
    it."""
    return lax.optimization_barrier((table, index))

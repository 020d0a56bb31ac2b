"""Some places of each row: hidden states are wanted there and nowhere else.

Training takes a loss at few of a row's tokens. Behind the last attention no token sees another one, so the last layer's
projections and MLP, the final norm and the head run on these places alone.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jora_engine.model.attention import Mask
from jora_engine.model.ops import Array


class Places(NamedTuple):
    """Distinct places of each row.

    Attributes:
        position: `[batch, capacity]` int32; unused slots hold any place.
        used: `[batch, capacity]` bool; what is computed in other slots carries no gradient.
    """

    position: Array
    used: Array


def asked(mask: Mask, places: Places) -> Mask:
    """The mask in which a query that is at none of the places sees nothing: blocks of such queries are skipped."""
    length = mask.segments.shape[1]
    is_asked = _inverse(places, length) < places.position.shape[1]
    return mask._replace(positions=jnp.where(is_asked, mask.positions, -length))


@jax.custom_vjp
def take(x: jax.Array, places: Places) -> jax.Array:
    """The rows of x `[batch, seq, ...]` at the places, `[batch, capacity, ...]`."""
    return _along(x, places.position)


def _take_backward(saved, g):
    # the transpose of a gather is a scatter-add, slow everywhere; places are distinct, so a second gather does it
    places, length = saved
    g = jnp.pad(g, ((0, 0), (0, 1), *[(0, 0)] * (g.ndim - 2)))
    return _along(g, _inverse(places, length)), None


take.defvjp(lambda x, places: (take(x, places), (places, x.shape[1])), _take_backward)


def _along(x: jax.Array, index: Array) -> jax.Array:
    return jnp.take_along_axis(x, jnp.expand_dims(index, tuple(range(2, x.ndim))), axis=1)


def _inverse(places: Places, length: int) -> jax.Array:
    """`[batch, length]` int32: the slot that holds each place, the capacity where none does."""
    batch, capacity = places.position.shape
    slot = jnp.where(places.used, places.position, length)  # unused slots write past the end and are dropped
    rows = jnp.arange(batch)[:, None]
    empty = jnp.full((batch, length), capacity, jnp.int32)
    return empty.at[rows, slot].set(jnp.arange(capacity, dtype=jnp.int32)[None], mode="drop")

"""Base weights in fewer bits: the arrays that stand in a weight's place, and the weight that they stand for.

A packed weight is a small pytree where the parameter tree has an array otherwise. `fetched` unfolds one where it is
multiplied and nowhere else, so that at most one layer's weights exist in full at any time. Making packed weights of
plain ones is `files.quantiser`'s business, reading GGUF's blocks `model.ggml_blocks`'.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from jora_engine.model.ggml_blocks import Blocks
from jora_engine.model.ops_cpu import from_bits, to_bits

NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""The 16 numbers of NormalFloat4, quantiles of a normal distribution (arXiv 2305.14314, appendix E)."""

BLOCK = 64
"""Numbers of a row that share a scale."""

NESTED = 256
"""Scales that share a scale of their own; they are counted through the whole weight, not by rows."""


@struct.dataclass
class Int8:
    """A weight in 8 bits, one scale for each output channel: `codes * scale`.

    Attributes:
        codes: `[out, in]` int8.
        scale: `[out]` float32.
    """

    codes: jax.Array
    scale: jax.Array

    AXES: ClassVar[Mapping[str, tuple[int | None, ...]]] = {"codes": (0, 1), "scale": (0,)}
    """Which axis of the weight each dimension of an array lies along; None for none."""

    def dense(self, dtype: Any) -> jax.Array:
        """The weight `[out, in]`, computed in float32 and rounded once."""
        return (self.codes.astype(jnp.float32) * self.scale[:, None]).astype(dtype)


@struct.dataclass
class NormalFloat:
    """A weight in 4 bits, its scales in 8, as bitsandbytes' NF4 with double quantisation has them.

    Attributes:
        codes: `[out, in / block, block / 2]` uint8; a byte holds number j of its block in the high half and number
            `j + block / 2` in the low one.
        scales: `[out, in / block]` uint8, numbers of `levels`; float32 where they are not quantised themselves, and
            the rest is then None.
        values: `[16]` float32, what the codes stand for. An array and no constants: each of those would be laid out in
            the weight's size ahead of the loop over the layers.
        levels: `[256]` float32, the values of `scales`.
        nested: `[out * in / block / 256]` float32, rounded up: the scale of each 256 `scales`.
        offset: `[]` float32, the mean that was taken off before.
    """

    codes: jax.Array
    scales: jax.Array
    values: jax.Array
    levels: jax.Array | None
    nested: jax.Array | None
    offset: jax.Array | None

    AXES: ClassVar[Mapping[str, tuple[int | None, ...]]] = {
        "codes": (0, 1, None),
        "scales": (0, 1),
        "values": (None,),
        "levels": (None,),
        "nested": (None,),
        "offset": (),
    }

    def dense(self, dtype: Any) -> jax.Array:
        """The weight `[out, in]`, computed in float32 and rounded once."""
        rows, blocks = self.scales.shape
        scale = self.scales
        if self.levels is not None and self.nested is not None and self.offset is not None:
            number = jnp.arange(rows, dtype=jnp.int32)[:, None] * blocks + jnp.arange(blocks, dtype=jnp.int32)
            scale = self.levels[scale] * self.nested[number // NESTED] + self.offset
        codes = (self.codes >> 4, self.codes & 15)
        # each half is finished before the two are laid side by side, and that as bits: the numbers go through memory
        # twice as bfloat16 and not, on the way, as float32
        halves = [to_bits((_chosen(code, self.values) * scale[..., None]).astype(dtype)) for code in codes]
        return from_bits(jnp.concatenate(halves, axis=-1).reshape(rows, -1))


Packed = Int8 | NormalFloat | Blocks
PACKED = (Int8, NormalFloat, Blocks)


def is_packed(weight: Any) -> bool:
    """Whether a leaf of the parameter tree is a packed weight (`is_leaf` for `jax.tree`)."""
    return isinstance(weight, PACKED)


def fetched(weight: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A weight `[out, in]` as it is multiplied with `x`, in its dtype, and `x`; what is not packed comes as it is.

    The two are tied together: XLA would unfold the packed weights of all layers ahead of a loop that does not change
    them.
    """
    if not is_packed(weight):
        return weight, x
    weight, x = lax.optimization_barrier((weight, x))
    return weight.dense(x.dtype), x


def block_of(columns: int) -> int:
    """Numbers that share a scale in rows of so many: 64, or the largest power of two that divides the row."""
    return int(np.gcd(columns, BLOCK))


def packed_shape(precision: str, shape: tuple[int, ...], layers: int | None = None) -> Packed:
    """A packed weight of `shape` (out, in) as `jax.ShapeDtypeStruct`; with `layers`, that many stacked on axis 0."""
    rows, columns = shape
    block = block_of(columns)
    stack = () if layers is None else (layers,)

    def array(dtype: Any, *own: int) -> Any:
        return jax.ShapeDtypeStruct((*stack, *own), jnp.dtype(dtype))

    if precision == "int8":
        return Int8(array(jnp.int8, rows, columns), array(jnp.float32, rows))
    blocks = columns // block
    return NormalFloat(
        array(jnp.uint8, rows, blocks, block // 2),
        array(jnp.uint8, rows, blocks),
        array(jnp.float32, len(NF4)),
        array(jnp.float32, 256),
        array(jnp.float32, -(-rows * blocks // NESTED)),
        array(jnp.float32),
    )


def untrained_packed(shape: Packed, key: jax.Array) -> Packed:
    """A packed weight of that shape with codes by chance and scales of about a trained one's, for measurements."""

    def place(array: Any, axes: tuple[int | None, ...]) -> jax.Array:
        if jnp.issubdtype(array.dtype, jnp.integer):
            bits = jax.random.bits(key, array.shape, jnp.uint8)
            return jnp.zeros(array.shape, array.dtype) if array.dtype == jnp.int32 else bits.astype(array.dtype)
        return jnp.full(array.shape, 2.0**-9, array.dtype)

    return by_array(shape, place)


def by_array(weight: Packed, place: Callable[[Any, tuple[int | None, ...]], Any]) -> Packed:
    """`place(array, axes)` for each array of a packed weight, `axes` as in `AXES`; a tree of its structure."""
    arrays = {name: getattr(weight, name) for name in weight.AXES}
    placed = {name: place(x, weight.AXES[name]) for name, x in arrays.items() if x is not None}
    return dataclasses.replace(weight, **placed)


def _chosen(code: jax.Array, values: jax.Array) -> jax.Array:
    """`values[code]` float32, by halving: a gather is slower, and a product with one-hot rows far slower."""
    left = [values[number] for number in range(values.shape[0])]
    bit = 1
    while len(left) > 1:
        odd = (code & bit) != 0
        left = [jnp.where(odd, high, low) for low, high in zip(left[::2], left[1::2], strict=True)]
        bit *= 2
    return left[0]

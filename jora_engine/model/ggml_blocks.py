"""Weights as GGUF stores them: rows of blocks of bytes, kept as they are and unfolded where they are multiplied.

The formulas are ggml's (`ggml-quants.c`, `dequantize_row_*`); sums and products in float32. A leaf's layers may be of
several kinds, as K-quants mix them: their bytes are padded to equal length, and each layer takes its own formula.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from jora_engine.model.ops_cpu import from_bits, to_bits

Parts = tuple[jax.Array, ...]
"""A block's numbers in float32, in pieces `[..., n]` that are laid side by side: each is finished and rounded before it
is, or XLA:CPU would write all of them in float32 on the way, or ask of each number to which piece it belongs. With a
further axis `[..., m, n]` the pieces of each m-th of the block lie side by side."""


def _halves(bytes_: jax.Array) -> jax.Array:
    """Two bytes each as one float16, float32 `[..., n]` of `[..., 2 n]` uint8, or `[..., 1]` of two."""
    pairs = bytes_.reshape(*bytes_.shape[:-1], -1, 2)
    return lax.bitcast_convert_type(pairs, jnp.float16).astype(jnp.float32)


def _low_high(bytes_: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The low halves of all bytes, and the high ones."""
    return bytes_ & 15, bytes_ >> 4


def _nibbles(bytes_: jax.Array) -> jax.Array:
    """`[..., n]` bytes as `[..., 2, n]`: the low halves of all, then the high ones."""
    return jnp.stack(_low_high(bytes_), axis=-2)


def _flat(x: jax.Array, axes: int = 2) -> jax.Array:
    return x.reshape(*x.shape[:-axes], -1)


def _fifth_bits(bytes_: jax.Array) -> jax.Array:
    """Bit i of four bytes as number i: `[..., 32]` of `[..., 4]`, 0 or 16."""
    bits = (bytes_[..., None] >> jnp.arange(8, dtype=jnp.uint8)) & 1
    return _flat(bits) << 4


def _five_bits(codes: jax.Array, fifth: jax.Array) -> list[jax.Array]:
    """The codes of 16 bytes with the fifth bits of four more, as two parts."""
    return [code | bit for code, bit in zip(_low_high(codes), jnp.split(_fifth_bits(fifth), 2, axis=-1), strict=True)]


def _q4_0(b: jax.Array) -> Parts:
    scale = _halves(b[..., :2])
    return tuple(scale * (code.astype(jnp.float32) - 8) for code in _low_high(b[..., 2:]))


def _q4_1(b: jax.Array) -> Parts:
    scale, least = _halves(b[..., :2]), _halves(b[..., 2:4])
    return tuple(scale * code.astype(jnp.float32) + least for code in _low_high(b[..., 4:]))


def _q5_0(b: jax.Array) -> Parts:
    scale = _halves(b[..., :2])
    return tuple(scale * (code.astype(jnp.float32) - 16) for code in _five_bits(b[..., 6:], b[..., 2:6]))


def _q5_1(b: jax.Array) -> Parts:
    scale, least = _halves(b[..., :2]), _halves(b[..., 2:4])
    return tuple(scale * code.astype(jnp.float32) + least for code in _five_bits(b[..., 8:], b[..., 4:8]))


def _q8_0(b: jax.Array) -> Parts:
    return (_halves(b[..., :2]) * lax.bitcast_convert_type(b[..., 2:], jnp.int8).astype(jnp.float32),)


def _q2_k(b: jax.Array) -> Parts:
    scales, codes = b[..., :16], b[..., 16:80].reshape(*b.shape[:-1], 2, 2, 16)
    d, least = _halves(b[..., 80:82]), _halves(b[..., 82:84])
    factor, base = d * (scales & 15).astype(jnp.float32), least * (scales >> 4).astype(jnp.float32)
    quarters = [((codes >> shift) & 3).astype(jnp.float32) for shift in (0, 2, 4, 6)]
    return tuple(_flat(_of(factor, j) * code - _of(base, j)) for j, code in enumerate(quarters))


def _q3_k(b: jax.Array) -> Parts:
    high, packed, d = b[..., None, :32], b[..., 96:108], _halves(b[..., 108:110])
    codes = b[..., 32:96].reshape(*b.shape[:-1], 2, 32)
    low4 = _flat(_nibbles(packed[..., :8]))
    high2 = _flat((packed[..., None, 8:] >> _shifts(0, 2, 4, 6)) & 3)
    scale = d * ((low4 | (high2 << 4)).astype(jnp.float32) - 32)

    def part(j: int) -> jax.Array:
        bit = (high >> _shifts(j, j + 4)) & 1
        code = ((codes >> 2 * j) & 3).astype(jnp.float32) - 4 * (1 - bit.astype(jnp.float32))  # a set bit adds nothing
        return _flat(_of(scale, j) * code.reshape(*code.shape[:-1], 2, 16))

    return tuple(part(j) for j in range(4))


def _of(scales: jax.Array, j: int) -> jax.Array:
    """Part j's scales `[..., 2, 2, 1]` of a block's 16: each half of a block has four parts, and each part two."""
    return scales.reshape(*scales.shape[:-1], 2, 4, 2)[..., j, :, None]


def _k_scales(packed: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Factors and minima of eight parts, 6 bits each in 12 bytes: `[..., 4, 2]`, as the parts' codes share bytes."""
    first, second, third = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    factor = jnp.concatenate([first & 63, (third & 15) | ((first >> 2) & 48)], axis=-1)
    least = jnp.concatenate([second & 63, (third >> 4) | ((second >> 2) & 48)], axis=-1)
    pairs = (*packed.shape[:-1], 4, 2)
    return factor.astype(jnp.float32).reshape(pairs), least.astype(jnp.float32).reshape(pairs)


def _by_pairs(b: jax.Array, codes: Sequence[jax.Array]) -> Parts:
    """Q4_K's and Q5_K's numbers, of the codes `[..., 4, 32]` of each first and each second part."""
    factor, least = _k_scales(b[..., 4:16])
    factor, least = _halves(b[..., :2])[..., None] * factor, _halves(b[..., 2:4])[..., None] * least
    return tuple(factor[..., i, None] * c.astype(jnp.float32) - least[..., i, None] for i, c in enumerate(codes))


def _q4_k(b: jax.Array) -> Parts:
    return _by_pairs(b, _low_high(b[..., 16:].reshape(*b.shape[:-1], 4, 32)))


def _q5_k(b: jax.Array) -> Parts:
    high, low = b[..., None, 16:48], _low_high(b[..., 48:].reshape(*b.shape[:-1], 4, 32))
    bits = [(high >> _shifts(i, i + 2, i + 4, i + 6)) & 1 for i in (0, 1)]
    return _by_pairs(b, [code | (bit << 4) for code, bit in zip(low, bits, strict=True)])


def _q6_k(b: jax.Array) -> Parts:
    low, high = b[..., :128].reshape(*b.shape[:-1], 2, 2, 32), b[..., 128:192].reshape(*b.shape[:-1], 2, 32)
    scale = _halves(b[..., 208:210]) * lax.bitcast_convert_type(b[..., 192:208], jnp.int8).astype(jnp.float32)

    def part(j: int) -> jax.Array:
        four = _low_high(low[..., j % 2, :])[j // 2]
        code = (four | (((high >> 2 * j) & 3) << 4)).astype(jnp.float32) - 32
        return _flat(_of(scale, j) * code.reshape(*code.shape[:-1], 2, 16))

    return tuple(part(j) for j in range(4))


def _shifts(*bits: int) -> jax.Array:
    return jnp.asarray(bits, jnp.uint8)[:, None]


def _plain(dtype: Any) -> Callable[[jax.Array], Parts]:
    width = jnp.dtype(dtype).itemsize

    def unfold(b: jax.Array) -> Parts:
        return (lax.bitcast_convert_type(b.reshape(*b.shape[:-1], -1, width), dtype).astype(jnp.float32),)

    return unfold


class Kind(NamedTuple):
    """A type of GGUF: numbers and bytes of a block, and its numbers `[..., numbers]` in parts, of `[..., bytes]`."""

    numbers: int
    bytes: int
    unfold: Callable[[jax.Array], Parts]


KINDS: Mapping[str, Kind] = {
    "F32": Kind(1, 4, _plain(jnp.float32)),
    "F16": Kind(1, 2, _plain(jnp.float16)),
    "BF16": Kind(1, 2, _plain(jnp.bfloat16)),
    "Q4_0": Kind(32, 18, _q4_0),
    "Q4_1": Kind(32, 20, _q4_1),
    "Q5_0": Kind(32, 22, _q5_0),
    "Q5_1": Kind(32, 24, _q5_1),
    "Q8_0": Kind(32, 34, _q8_0),
    "Q2_K": Kind(256, 84, _q2_k),
    "Q3_K": Kind(256, 110, _q3_k),
    "Q4_K": Kind(256, 144, _q4_k),
    "Q5_K": Kind(256, 176, _q5_k),
    "Q6_K": Kind(256, 210, _q6_k),
}


class Tile(NamedTuple):
    """The part of a row that is never cut: whole blocks of each kind that a leaf's layers have."""

    numbers: int
    bytes: int


def tile_of(kinds: tuple[str, ...]) -> Tile:
    """Of these kinds."""
    numbers = math.lcm(*(KINDS[kind].numbers for kind in kinds))
    return Tile(numbers, max(numbers // KINDS[kind].numbers * KINDS[kind].bytes for kind in kinds))


@struct.dataclass
class Blocks:
    """A weight in GGUF's blocks.

    Attributes:
        data: `[out, in / tile, bytes of a tile]` uint8; a kind with fewer bytes than another leaves the rest 0.
        kind: `[]` int32, the weight's own kind, by its place in `kinds`.
        kinds: those of all layers.
    """

    data: jax.Array
    kind: jax.Array
    kinds: tuple[str, ...] = struct.field(pytree_node=False)

    AXES: ClassVar[Mapping[str, tuple[int | None, ...]]] = {"data": (0, 1, None), "kind": ()}

    def dense(self, dtype: Any) -> jax.Array:
        """The weight `[out, in]`, computed in float32 and rounded once."""
        numbers = tile_of(self.kinds).numbers

        def unfold(name: str) -> Callable[[jax.Array], jax.Array]:
            kind = KINDS[name]
            count = numbers // kind.numbers

            def one(data: jax.Array) -> jax.Array:
                blocks = data[..., : count * kind.bytes].reshape(*data.shape[:-1], count, kind.bytes)
                parts = [to_bits(part.astype(dtype)) for part in kind.unfold(blocks)]
                return jnp.concatenate(parts, axis=-1).reshape(data.shape[0], -1)

            return one

        return from_bits(lax.switch(self.kind, [unfold(name) for name in self.kinds], self.data))

"""The key/value cache of generation, and attention over it.

A column is a position, so rows of different lengths share arrays and need no shifting; what lies at or beyond a row's
position is masked. Wide caches are cut into segments, because XLA:CPU is faster on them and because a row's numbers
then do not depend on how wide its neighbours make the cache. Knows nothing of prompts or sampling.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from jora_engine.config.architecture import ModelConfig
from jora_engine.model.ops import accumulate, soft_cap

NEGATIVE = -1e30
SEGMENT = 512  # columns; products with more columns take another path on XLA:CPU, with other last digits
WIDTHS = (128, 256, 512)


class Stretch(NamedTuple):
    """Rotated keys `[rows, kv_heads, head_dim, columns]` and values `[rows, kv_heads, columns, head_dim]`.

    Keys lie transposed because XLA:CPU multiplies float32 several times faster that way round.
    """

    k: jax.Array
    v: jax.Array


Cache = list[tuple[Stretch, ...]]
"""For each layer its segments, in order of position."""


def columns_for(width: int) -> int:
    """The number of columns to make for `width`: one of few, so that few programs are compiled."""
    return next((w for w in WIDTHS if w >= width), -(-width // SEGMENT) * SEGMENT)


def columns_of(cache: Cache) -> int:
    """Columns of a cache, all segments together."""
    return sum(segment.v.shape[2] for segment in cache[0])


def _widths(columns: int) -> list[int]:
    return [columns] if columns <= SEGMENT else [SEGMENT] * (columns // SEGMENT)


def new_cache(config: ModelConfig, rows: int, columns: int, dtype: jnp.dtype) -> Cache:
    """An empty cache; `columns` as `columns_for` gives it."""
    heads, width = config.num_kv_heads, config.head_dim

    def stretch(size: int) -> Stretch:
        return Stretch(jnp.zeros((rows, heads, width, size), dtype), jnp.zeros((rows, heads, size, width), dtype))

    return [tuple(stretch(size) for size in _widths(columns)) for _ in range(config.num_layers)]


@functools.partial(jax.jit, static_argnames="columns")
def reshape_cache(cache: Cache, rows: jax.Array, columns: int) -> Cache:
    """The given rows `[n]` in the given order, with columns dropped or added at the end."""

    def fit(x: jax.Array, axis: int, size: int) -> jax.Array:
        if size <= x.shape[axis]:
            return lax.slice_in_dim(x, 0, size, axis=axis)
        return jnp.pad(x, [(0, size - have if a == axis else 0) for a, have in enumerate(x.shape)])

    out = []
    for layer in cache:
        taken = [Stretch(jnp.take(s.k, rows, axis=0), jnp.take(s.v, rows, axis=0)) for s in layer]
        widths = _widths(columns)
        empty = jax.tree.map(jnp.zeros_like, taken[0])
        taken += [empty] * (len(widths) - len(taken))
        out.append(tuple(Stretch(fit(s.k, 3, w), fit(s.v, 2, w)) for s, w in zip(taken, widths)))
    return out


@functools.partial(jax.jit, donate_argnums=0)
def insert_row(cache: Cache, row: jax.Array, single: Cache) -> Cache:
    """The cache with one row replaced by a cache of one row that is no wider."""
    out = []
    for layer, new in zip(cache, single, strict=True):
        written = [
            Stretch(
                lax.dynamic_update_slice(old.k, part.k, (row, 0, 0, 0)),
                lax.dynamic_update_slice(old.v, part.v, (row, 0, 0, 0)),
            )
            for old, part in zip(layer, new)
        ]
        out.append((*written, *layer[len(new) :]))
    return out


def write(layer: Sequence[Stretch], new: Stretch, row, column) -> tuple[Stretch, ...]:
    """The segments of a layer with `new` at a row and column; it may lie across two segments."""
    size = new.v.shape[2]
    out, base = [], 0
    for segment in layer:
        width = segment.v.shape[2]
        if len(layer) == 1:
            part, at = new, column
        else:
            at = jnp.clip(column - base, 0, width - size)
            source = jnp.arange(size) + (base + at - column)
            inside = (source >= 0) & (source < size)
            shape = (new.k.shape[0], *segment.k.shape[1:3], size)
            old_k = lax.dynamic_slice(segment.k, (row, 0, 0, at), shape)
            old_v = lax.dynamic_slice(segment.v, (row, 0, at, 0), (*shape[:2], size, shape[2]))
            part = Stretch(
                jnp.where(inside, jnp.take(new.k, source, axis=3, mode="clip"), old_k),
                jnp.where(inside[:, None], jnp.take(new.v, source, axis=2, mode="clip"), old_v),
            )
        out.append(
            Stretch(
                lax.dynamic_update_slice(segment.k, part.k.astype(segment.k.dtype), (row, 0, 0, at)),
                lax.dynamic_update_slice(segment.v, part.v.astype(segment.v.dtype), (row, 0, at, 0)),
            )
        )
        base += width
    return tuple(out)


def with_positions(layer: Sequence[Stretch], end: jax.Array | None = None) -> list[tuple[Stretch, jax.Array]]:
    """Each segment with the position of its columns `[rows or 1, columns]`; -1 from `end` `[rows]` on."""
    out, base = [], 0
    for segment in layer:
        column = base + jnp.arange(segment.v.shape[2], dtype=jnp.int32)[None]
        out.append((segment, column if end is None else jnp.where(column < end[:, None], column, -1)))
        base += segment.v.shape[2]
    return out


class PromptCache(NamedTuple):
    """One layer's cache of one row while its prompt is run: new tokens go to the columns from `start` on."""

    segments: tuple[Stretch, ...]
    start: jax.Array

    def extended(self, new: Stretch) -> PromptCache:
        return self._replace(segments=write(self.segments, new, 0, self.start))

    def stretches(self) -> list[tuple[Stretch, jax.Array]]:
        return with_positions(self.segments)


class ReplyCache(NamedTuple):
    """One layer's cache of many rows while they are decoded: new tokens go to a short stretch beside it, for on a CPU
    every write into the large one would cost a copy.

    Attributes:
        segments: columns below each row's `start` `[rows]`, left as they are.
        recent: what was decoded since, in the same column for all rows; `step` is the next one.
    """

    segments: tuple[Stretch, ...]
    recent: Stretch
    start: jax.Array
    step: jax.Array

    def extended(self, new: Stretch) -> ReplyCache:
        return self._replace(recent=write([self.recent], new, 0, self.step)[0])

    def stretches(self) -> list[tuple[Stretch, jax.Array]]:
        column = jnp.arange(self.recent.v.shape[2], dtype=jnp.int32)[None]
        positions = jnp.where(column <= self.step, self.start[:, None] + column, -1)
        return [*with_positions(self.segments, self.start), (self.recent, positions)]


LayerCache = TypeVar("LayerCache", PromptCache, ReplyCache)


def attend_cached(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    cache: LayerCache,
    *,
    positions: jax.Array,
    window: int | None,
    scale: float | None = None,
    softcap: float | None = None,
) -> tuple[jax.Array, LayerCache]:
    """Attention of new tokens at `positions` `[rows, seq]` over a layer's cache and themselves; the cache with them."""
    cache = cache.extended(Stretch(k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3)))
    return cached_attention(q, cache.stretches(), positions, window, scale, softcap).astype(q.dtype), cache


def cached_attention(
    q: jax.Array,
    parts: Sequence[tuple[Stretch, jax.Array]],
    positions: jax.Array,
    window: int | None,
    scale: float | None = None,
    softcap: float | None = None,
) -> jax.Array:
    """Attention of new tokens over several stretches of cache.

    Args:
        q: `[rows, seq, heads, head_dim]` at `positions` `[rows, seq]`.
        parts: stretches, each with the position of its columns, `[rows or 1, columns]` int32, -1 for none.
        scale, softcap: see `attention.attention`.

    Returns:
        `[rows, seq, heads * head_dim]` float32.
    """
    rows, length, heads, width = q.shape
    kind, kv_heads = parts[0][0].k.dtype, parts[0][0].k.shape[1]
    group, scale = heads // kv_heads, width**-0.5 if scale is None else scale
    grouped = q.reshape(rows, length, kv_heads, group, width).transpose(0, 2, 3, 1, 4)
    grouped = grouped.reshape(rows, kv_heads, group * length, width).astype(kind)
    scores = []
    for stretch, columns in parts:
        at, of = columns[:, None], positions[..., None]
        seen = (at >= 0) & (at <= of)
        if window is not None:
            seen &= of - at < window
        part = soft_cap(accumulate("rhqd,rhdc->rhqc", grouped, stretch.k) * scale, softcap)
        scores.append(jnp.where(jnp.tile(seen, (1, group, 1))[:, None], part, NEGATIVE))
    top = functools.reduce(jnp.maximum, [part.max(-1, keepdims=True) for part in scores])
    weights = [jnp.exp(part - top) for part in scores]
    total = functools.reduce(jnp.add, [part.sum(-1, keepdims=True) for part in weights])
    mixed = [accumulate("rhqc,rhcd->rhqd", w.astype(kind), part[0].v) for w, part in zip(weights, parts)]
    out = (functools.reduce(jnp.add, mixed) / total).reshape(rows, kv_heads, group, length, width)
    return out.transpose(0, 3, 1, 2, 4).reshape(rows, length, heads * width)

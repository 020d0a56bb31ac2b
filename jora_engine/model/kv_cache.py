"""The key/value cache of generation, and attention over it.

A column is a position, so rows of different lengths share arrays and need no shifting; what lies at or beyond a row's
position is masked. The columns are cut into segments, the same ones whatever the width: a row's numbers then do not
depend on how wide its neighbours make the cache, and a cache grows by one more segment. Knows nothing of prompts or
sampling.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from jora_engine.config.architecture import ModelConfig
from jora_engine.model.attention import BLOCK
from jora_engine.model.native import calls
from jora_engine.model.ops import accumulate, soft_cap
from jora_engine.model.ops_cpu import from_bits, to_bits

NEGATIVE = -1e30
SEGMENT = 512  # columns; products with more columns take another path on XLA:CPU, with other last digits
FIRST = 128  # columns of the narrowest cache, which doubles as it grows


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
    columns = FIRST
    while columns < width:
        columns *= 2
    return columns


def columns_of(cache: Cache) -> int:
    """Columns of a cache, all segments together."""
    return sum(segment.v.shape[2] for segment in cache[0])


def _segments(columns: int) -> list[int]:
    """Columns of each segment: of a doubling width those before it, and no segment above `SEGMENT`."""
    sizes, base = [min(FIRST, columns)], min(FIRST, columns)
    while base < columns:
        sizes.append(min(base, SEGMENT))
        base += sizes[-1]
    return sizes


def new_cache(config: ModelConfig, rows: int, columns: int, dtype: jnp.dtype) -> Cache:
    """An empty cache; `columns` as `columns_for` gives it."""
    return resized(config, [()] * config.num_layers, rows, columns, dtype)


def resized(
    config: ModelConfig, cache: Sequence[tuple[Stretch, ...]], rows: int, columns: int, dtype: jnp.dtype
) -> Cache:
    """The cache with columns dropped or added at the end; nothing is copied."""
    heads, width = config.num_kv_heads, config.head_dim
    sizes = _segments(columns)

    def stretch(size: int) -> Stretch:
        return Stretch(jnp.zeros((rows, heads, width, size), dtype), jnp.zeros((rows, heads, size, width), dtype))

    return [(*layer[: len(sizes)], *(stretch(size) for size in sizes[len(layer) :])) for layer in cache]


def stored(new: Stretch, dtype: jnp.dtype) -> Stretch:
    """Keys and values as a cache of that dtype holds them, uint16 for the bits of bfloat16."""
    return Stretch(*(to_bits(x) if dtype == jnp.uint16 else x.astype(dtype) for x in new))


def write(layer: Sequence[Stretch], new: Stretch, row, column) -> tuple[Stretch, ...]:
    """The segments of a layer with `new` at a row and column; it may lie across two segments."""
    size, new = new.v.shape[2], stored(new, layer[0].k.dtype)
    out, base = [], 0
    for segment in layer:
        width = segment.v.shape[2]
        if len(layer) == 1:
            part, at = new, column
        else:
            count = min(size, width)
            at = jnp.clip(column - base, 0, width - count)
            source = jnp.arange(count) + (base + at - column)
            inside = (source >= 0) & (source < size)
            shape = (new.k.shape[0], *segment.k.shape[1:3], count)
            old_k = lax.dynamic_slice(segment.k, (row, 0, 0, at), shape)
            old_v = lax.dynamic_slice(segment.v, (row, 0, at, 0), (*shape[:2], count, shape[2]))
            part = Stretch(
                jnp.where(inside, jnp.take(new.k, source, axis=3, mode="clip"), old_k),
                jnp.where(inside[:, None], jnp.take(new.v, source, axis=2, mode="clip"), old_v),
            )
        out.append(
            Stretch(
                lax.dynamic_update_slice(segment.k, part.k, (row, 0, 0, at)),
                lax.dynamic_update_slice(segment.v, part.v, (row, 0, at, 0)),
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
    """One layer's cache while a part of one row's prompt is run.

    Attributes:
        segments: of all rows.
        row: whose prompt it is.
        start: the column, and position, of the part's first token.
        native: whether the kernels may attend (`attention_backends.native_over_cache`).
        new: the part's own keys and values in the model's dtype, once they are written.
    """

    segments: tuple[Stretch, ...]
    row: jax.Array
    start: jax.Array
    native: bool = False
    new: Stretch | None = None

    def extended(self, new: Stretch) -> PromptCache:
        return self._replace(segments=write(self.segments, new, self.row, self.start), new=new)

    def attention(self, q, positions, window, scale, softcap) -> jax.Array:
        held = to_bits(q).dtype  # as the kernels read it
        whole = not any(v.dtype != held or v.shape[2] % calls.KEYS for _, v in self.segments)
        attend = native_attention if self.native and whole else prompt_attention
        return attend(q, self.segments, self.row, self.start, window, scale, softcap)


class ReplyCache(NamedTuple):
    """One layer's cache of many rows while they are decoded: new tokens go to a short stretch beside it, for on a CPU
    every write into the large one would cost a copy.

    Attributes:
        segments: columns below each row's `start` `[rows]`, left as they are.
        recent: what was decoded since, in the same column for all rows; `step` is the next one.
        busy: rows `[rows]` bool that are decoded, None for all; what the others get means nothing.
        native: as in `PromptCache`.
    """

    segments: tuple[Stretch, ...]
    recent: Stretch
    start: jax.Array
    step: jax.Array
    busy: jax.Array | None = None
    native: bool = False

    def extended(self, new: Stretch) -> ReplyCache:
        return self._replace(recent=write([self.recent], new, 0, self.step)[0])

    def attention(self, q, positions, window, scale, softcap) -> jax.Array:
        if not self.native:
            return cached_attention(q, self.stretches(), positions, window, scale, softcap)
        start = self.start if self.busy is None else jnp.where(self.busy, self.start, -1)
        options = {"window": window, "scale": scale, "softcap": softcap}
        return calls.reply_attention(q, self.segments, self.recent, start, self.step, **options)

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
    return cache.attention(q, positions, window, scale, softcap).astype(q.dtype), cache


def prompt_attention(
    q: jax.Array,
    layer: Sequence[Stretch],
    row: jax.Array,
    start: jax.Array,
    window: int | None,
    scale: float | None = None,
    softcap: float | None = None,
) -> jax.Array:
    """Causal attention of a part of a prompt over its row's columns up to the part's end, block by block.

    Only the blocks that a query block can see are visited, so the cost goes by position and not by the cache's width.

    Args:
        q: `[1, seq, heads, head_dim]` of the tokens at the positions from `start` on; their own keys lie in `layer`.
        scale, softcap: see `attention.attention`.

    Returns:
        `[1, seq, heads * head_dim]` float32.
    """
    _, length, heads, width = q.shape
    kv_heads = layer[0].k.shape[1]
    group, scale = heads // kv_heads, width**-0.5 if scale is None else scale
    block = min(BLOCK, length)
    parts = q[0].reshape(length // block, block, kv_heads, group, width).transpose(0, 2, 3, 1, 4)

    def query_block(item: tuple[jax.Array, jax.Array]) -> jax.Array:
        index, part = item
        part = part.reshape(kv_heads, group * block, width)
        at = start + index * block
        of = jnp.tile(at + jnp.arange(block, dtype=jnp.int32), group)[:, None]
        lowest = jnp.int32(0) if window is None else jnp.maximum(at - (window - 1), 0)
        carry = (
            jnp.full((kv_heads, group * block), NEGATIVE),
            jnp.zeros((kv_heads, group * block)),
            jnp.zeros((kv_heads, group * block, width)),
        )
        base = 0
        for segment in layer:
            columns = segment.v.shape[2]
            step = min(BLOCK, columns)

            def key_block(j, carry, segment=segment, base=base, step=step):
                top, total, out = carry
                k = lax.dynamic_slice(segment.k, (row, 0, 0, j * step), (1, kv_heads, width, step))[0]
                v = lax.dynamic_slice(segment.v, (row, 0, j * step, 0), (1, kv_heads, step, width))[0]
                column = base + j * step + jnp.arange(step, dtype=jnp.int32)
                seen = column <= of
                if window is not None:
                    seen &= of - column < window
                # the cache holds numbers of the model's dtype, so nothing is rounded here
                k, v = (from_bits(x).astype(q.dtype) for x in (k, v))
                scores = soft_cap(accumulate("hqd,hdc->hqc", part, k) * scale, softcap)
                scores = jnp.where(seen, scores, NEGATIVE)
                new_top = jnp.maximum(top, scores.max(-1))
                weights = jnp.exp(scores - new_top[..., None]).astype(q.dtype)
                shrink = jnp.exp(top - new_top)
                out = out * shrink[..., None] + accumulate("hqc,hcd->hqd", weights, v)
                return new_top, total * shrink + weights.sum(-1, dtype=jnp.float32), out

            first = jnp.clip((lowest - base) // step, 0, columns // step)
            last = jnp.clip(-((base - at - block) // step), 0, columns // step)
            carry = lax.fori_loop(first, last, key_block, carry)
            base += columns
        _, total, out = carry
        return (out / total[..., None]).reshape(kv_heads, group, block, width)

    out = lax.map(query_block, (jnp.arange(length // block, dtype=jnp.int32), parts))
    return out.transpose(0, 3, 1, 2, 4).reshape(1, length, heads * width)


def native_attention(
    q: jax.Array,
    layer: Sequence[Stretch],
    row: jax.Array,
    start: jax.Array,
    window: int | None,
    scale: float | None = None,
    softcap: float | None = None,
) -> jax.Array:
    """`prompt_attention` by the native kernel, rounded to the dtype of q; for segments of whole blocks of keys."""
    out = calls.cached_attention(q, layer, row, start, window=window, scale=scale, softcap=softcap)
    return out.reshape(*q.shape[:2], -1)


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
    parts = [(Stretch(*map(from_bits, stretch)), columns) for stretch, columns in parts]
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

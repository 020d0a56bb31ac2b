"""The arithmetic of generation: a key/value cache, prefill of one row in chunks, and a loop of decode steps.

A cache column is a position, so rows of different lengths share one array and need no shifting; what lies beyond a
row's position is masked. Knows nothing of tokenizers, stop strings or which prompt sits in which row.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jora_engine.config import ModelConfig
from jora_engine.lora import linear_group
from jora_engine.model import head_matrix, project_qkv, swiglu
from jora_engine.ops import accumulate, rms_norm
from jora_engine.rope import rope_table

NEGATIVE = -1e30


class LayerCache(NamedTuple):
    """Rotated keys `[rows, kv_heads, head_dim, columns]` and values `[rows, kv_heads, columns, head_dim]` of a layer.

    Keys lie transposed because XLA:CPU multiplies them several times faster that way round.
    """

    k: jax.Array
    v: jax.Array


class Rows(NamedTuple):
    """What the loop knows of each row: `[rows]` arrays.

    Attributes:
        token: the next input token.
        position: its position.
        left: how many tokens may still be generated; 0 for a finished or empty row.
        key: `[rows, 2]` uint32 raw PRNG key of the row's prompt.
        made: how many tokens were generated, which numbers the random draws.
    """

    token: jax.Array | np.ndarray
    position: jax.Array | np.ndarray
    left: jax.Array | np.ndarray
    key: jax.Array | np.ndarray
    made: jax.Array | np.ndarray


def new_cache(config: ModelConfig, rows: int, columns: int, dtype: jnp.dtype) -> list[LayerCache]:
    """An empty cache."""
    heads, width = config.num_kv_heads, config.head_dim
    k, v = (rows, heads, width, columns), (rows, heads, columns, width)
    return [LayerCache(jnp.zeros(k, dtype), jnp.zeros(v, dtype)) for _ in range(config.num_layers)]


def _fit(x: jax.Array, axis: int, columns: int) -> jax.Array:
    """`x` with columns dropped or zero columns added at the end of `axis`."""
    if columns <= x.shape[axis]:
        return lax.slice_in_dim(x, 0, columns, axis=axis)
    return jnp.pad(x, [(0, columns - size if a == axis else 0) for a, size in enumerate(x.shape)])


@functools.partial(jax.jit, static_argnames="columns")
def reshape_cache(cache: list[LayerCache], rows: jax.Array, columns: int) -> list[LayerCache]:
    """The given rows `[n]` in the given order, with columns dropped or added at the end."""
    return [
        LayerCache(*(_fit(jnp.take(x, rows, axis=0), axis, columns) for x, axis in ((c.k, 3), (c.v, 2)))) for c in cache
    ]


@functools.partial(jax.jit, donate_argnums=0)
def insert_row(cache: list[LayerCache], row: jax.Array, single: list[LayerCache]) -> list[LayerCache]:
    """The cache with one row replaced by a cache of one row and at most as many columns."""
    return [_write(old, new.k, new.v, row, 0) for old, new in zip(cache, single, strict=True)]


def cached_attention(
    q: jax.Array, parts: Sequence[tuple[LayerCache, jax.Array]], positions: jax.Array, window: int | None
) -> jax.Array:
    """Attention of new tokens over several stretches of cache.

    Args:
        q: `[rows, seq, heads, head_dim]` at `positions` `[rows, seq]`.
        parts: each a cache and the position of each of its columns, `[rows or 1, columns]` int32, -1 for none.

    Returns:
        `[rows, seq, heads * head_dim]` float32.
    """
    rows, length, heads, width = q.shape
    kv_heads = parts[0][0].k.shape[1]
    group = heads // kv_heads
    grouped = q.reshape(rows, length, kv_heads, group, width).transpose(0, 2, 3, 1, 4)
    kind = parts[0][0].k.dtype
    grouped = grouped.reshape(rows, kv_heads, group * length, width).astype(kind)
    scores = []
    for cache, columns in parts:
        at, of = columns[:, None], positions[..., None]
        seen = (at >= 0) & (at <= of)
        if window is not None:
            seen &= of - at < window
        part = accumulate("rhqd,rhdc->rhqc", grouped, cache.k) * width**-0.5
        scores.append(jnp.where(jnp.tile(seen, (1, group, 1))[:, None], part, NEGATIVE))
    top = functools.reduce(jnp.maximum, [part.max(-1, keepdims=True) for part in scores])
    weights = [jnp.exp(part - top) for part in scores]
    total = functools.reduce(jnp.add, [part.sum(-1, keepdims=True) for part in weights])
    mixed = [accumulate("rhqc,rhcd->rhqd", w.astype(kind), part[0].v) for w, part in zip(weights, parts)]
    out = (functools.reduce(jnp.add, mixed) / total).reshape(rows, kv_heads, group, length, width).transpose(0, 3, 1, 2, 4)
    return out.reshape(rows, length, heads * width)


def layer_step(x, layer, positions, cos, sin, store, config: ModelConfig):
    """One decoder layer over new tokens `[rows, seq, embed]`.

    `store(k, v)` takes their rotated keys and values as cache columns and returns (what to keep, parts to attend to).
    """
    normed = rms_norm(x, layer["input_norm"], config.rms_norm_eps)
    q, k, v = project_qkv(normed, layer, {}, cos, sin, config)
    kept, parts = store(k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3))
    mixed = cached_attention(q, parts, positions, config.sliding_window).astype(x.dtype)
    x = x + linear_group(mixed, ("o",), layer, {})[0]
    normed = rms_norm(x, layer["post_norm"], config.rms_norm_eps)
    gate, up = linear_group(normed, ("gate", "up"), layer, {})
    return x + linear_group(swiglu(gate, up), ("down",), layer, {})[0], kept


def _write(cache: LayerCache, k: jax.Array, v: jax.Array, row, column) -> LayerCache:
    """The cache with `k` `[n, kv, d, columns]` and `v` `[n, kv, columns, d]` at a row and column."""
    return LayerCache(
        lax.dynamic_update_slice(cache.k, k.astype(cache.k.dtype), (row, 0, 0, column)),
        lax.dynamic_update_slice(cache.v, v.astype(cache.v.dtype), (row, 0, column, 0)),
    )


@functools.partial(jax.jit, static_argnames="config", donate_argnums=2)
def _prefill_layer(x, layer, cache: LayerCache, start, config: ModelConfig):
    """One layer over a chunk x `[1, chunk, embed]`, kept at columns `start...` of a cache of one row."""
    positions = start + jnp.arange(x.shape[1], dtype=jnp.int32)[None]
    cos, sin = rope_table(config.rope, config.head_dim, positions)
    column = jnp.arange(cache.v.shape[2], dtype=jnp.int32)[None]

    def store(k, v):
        written = _write(cache, k, v, 0, start)
        return written, [(written, column)]

    return layer_step(x, layer, positions, cos, sin, store, config)


@jax.jit
def _embed(embed: jax.Array, tokens: jax.Array) -> jax.Array:
    return jnp.take(embed, tokens, axis=0)


def prefill(
    params: dict[str, Any],
    layers: Sequence[dict[str, Any]],
    cache: list[LayerCache],
    start: int,
    tokens: Any,
    config: ModelConfig,
) -> tuple[jax.Array, list[LayerCache]]:
    """Runs a chunk of one prompt; one small program, compiled once, runs for every layer.

    Args:
        params: `embed` and what else is not per layer.
        layers: parameters of each layer.
        cache: of one row; columns `start` to `start + chunk` must lie in it. Given up to this call (donated).
        tokens: `[1, chunk]` int32, padded at the end; what padding leaves in the cache lies beyond the row's position.

    Returns:
        Hidden states before the final norm `[1, chunk, embed]`, and the cache.
    """
    x = _embed(params["embed"], jnp.asarray(tokens, jnp.int32))
    at, out = jnp.int32(start), []
    for layer, kept in zip(layers, cache, strict=True):
        x, kept = _prefill_layer(x, layer, kept, at, config=config)
        out.append(kept)
    return x, out


@functools.partial(jax.jit, static_argnames="config")
def head_logits(params: dict[str, Any], x: jax.Array, config: ModelConfig) -> jax.Array:
    """Float32 logits `[rows, seq, vocab]` of hidden states before the final norm."""
    x = rms_norm(x, params["final_norm"], config.rms_norm_eps)
    return accumulate("rtd,vd->rtv", x, head_matrix(params))


@functools.partial(
    jax.jit, static_argnames=("config", "steps", "temperature", "top_p", "stops"), donate_argnames=("cache",)
)
def decode(
    params: dict[str, Any],
    layers: list[dict[str, Any]],
    cache: list[LayerCache],
    rows: Rows,
    *,
    config: ModelConfig,
    steps: int,
    stops: tuple[int, ...],
    temperature: float = 0.0,
    top_p: float = 1.0,
) -> tuple[list[LayerCache], Rows, jax.Array]:
    """Up to `steps` tokens for every row that has some left, fewer when all are done.

    Returns:
        The cache, the rows after the last step, and the tokens `[rows, steps]` int32, -1 where a row made none. A
        stop token is returned and ends its row.
    """
    ends = jnp.asarray(stops, jnp.int32)
    start = rows.position  # columns from here on are written after the loop, for all steps at once
    count = start.shape[0]
    recent = new_cache(config, count, steps, cache[0].k.dtype)

    def step(carry):
        index, recent, rows, out = carry
        x, recent = _decode_layers(params, layers, cache, recent, rows, start, index, config)
        logits = accumulate("rd,vd->rv", x, head_matrix(params))
        token = pick(logits, rows.key, rows.made, temperature, top_p)
        alive = rows.left > 0
        out = lax.dynamic_update_slice(out, jnp.where(alive, token, -1)[:, None], (0, index))
        left = jnp.where(alive & ~jnp.isin(token, ends), rows.left - 1, 0)
        go = left > 0
        rows = Rows(
            token=jnp.where(go, token, rows.token),
            position=jnp.where(go, rows.position + 1, rows.position),
            left=left,
            key=rows.key,
            made=rows.made + alive,
        )
        return index + 1, recent, rows, out

    out = jnp.full((count, steps), -1, jnp.int32)
    more = lambda carry: (carry[0] < steps) & jnp.any(carry[2].left > 0)  # noqa: E731
    _, recent, rows, out = lax.while_loop(more, step, (jnp.int32(0), recent, rows, out))

    def flush(row, cache):  # a scatter over rows would convert the whole cache to float32 and back on CPU
        take = lambda x: lax.dynamic_slice_in_dim(x, row, 1, 0)  # noqa: E731
        return [_write(old, take(new.k), take(new.v), row, start[row]) for old, new in zip(cache, recent, strict=True)]

    return lax.fori_loop(0, count, flush, cache), rows, out


def _decode_layers(params, layers, cache, recent, rows: Rows, start, index, config: ModelConfig):
    """Final hidden states `[rows, embed]` of one token per row, and `recent` with its keys and values."""
    x = jnp.take(params["embed"], rows.token, axis=0)[:, None]
    positions = rows.position[:, None]
    cos, sin = rope_table(config.rope, config.head_dim, positions)
    column = jnp.arange(cache[0].v.shape[2], dtype=jnp.int32)[None]
    old = jnp.where(column < start[:, None], column, -1)
    step = jnp.arange(recent[0].v.shape[2], dtype=jnp.int32)[None]
    new = jnp.where(step <= index, start[:, None] + step, -1)
    out = []
    for layer, before, made in zip(layers, cache, recent, strict=True):

        def store(k, v, before=before, made=made):
            made = _write(made, k, v, 0, index)
            return made, [(before, old), (made, new)]

        x, made = layer_step(x, layer, positions, cos, sin, store, config)
        out.append(made)
    return rms_norm(x, params["final_norm"], config.rms_norm_eps)[:, 0], out


def pick(logits: jax.Array, key: jax.Array, made: jax.Array, temperature: float, top_p: float) -> jax.Array:
    """One token per row of float32 `logits` `[rows, vocab]`: the largest (lowest id of equals), or a seeded draw.

    A row's draw depends on its own key and count only, never on its neighbours.
    """
    if temperature == 0.0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits / temperature
    if top_p < 1.0:
        logits = jnp.where(_nucleus(jax.nn.softmax(logits, axis=-1), top_p), logits, NEGATIVE)

    def draw(row_key, count, row):
        noise = jax.random.gumbel(jax.random.fold_in(jax.random.wrap_key_data(row_key), count), row.shape)
        return jnp.argmax(row + noise)

    return jax.vmap(draw)(key, made, logits).astype(jnp.int32)


def _nucleus(probabilities: jax.Array, top_p: float) -> jax.Array:
    """The smallest set of largest probabilities whose sum reaches `top_p` (arXiv 1904.09751), without sorting.

    Bisects the threshold on the bits of the float: non-negative floats order as their bit patterns do.
    """
    bits = lax.bitcast_convert_type(probabilities, jnp.int32)

    def halve(_, bounds):
        low, high = bounds  # mass above low reaches top_p, mass above high does not
        middle = low + (high - low) // 2
        enough = jnp.sum(jnp.where(bits >= middle[:, None], probabilities, 0.0), axis=-1) >= top_p
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    rows = probabilities.shape[0]
    one = lax.bitcast_convert_type(jnp.float32(1.0), jnp.int32)
    low, _ = lax.fori_loop(0, 31, halve, (jnp.zeros(rows, jnp.int32), jnp.full(rows, one + 1)))
    return bits >= low[:, None]

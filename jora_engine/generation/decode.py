"""The programs of generation: prefill of one prompt in chunks, and a loop of decode steps over many rows.

Prefill runs one small compiled program layer by layer; decoding is one program with all layers in it. Knows nothing of
tokenizers, stop strings or which prompt sits in which row.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jora_engine.config.architecture import ModelConfig
from jora_engine.generation.sampling import NEGATIVE, pick
from jora_engine.model.decoder import head_matrix
from jora_engine.model.kv_cache import Cache, Stretch, cached_attention, new_cache, with_positions, write
from jora_engine.model.ops import accumulate, rms_norm, rotate, swiglu
from jora_engine.model.rope_table import rope_table


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


def fuse_layer(layer: Mapping[str, Any], join: Callable[[list[Any]], Any]) -> dict[str, Any]:
    """One layer's parameters as the programs here want them: q, k and v as one matrix, gate and up as one."""
    parted = ("q", "k", "v", "gate", "up", "q_bias", "k_bias", "v_bias")
    out = {name: value for name, value in layer.items() if name not in parted}
    out["qkv"] = join([layer[name] for name in "qkv"])
    out["gate_up"] = join([layer["gate"], layer["up"]])
    if "q_bias" in layer:
        out["qkv_bias"] = join([layer[f"{name}_bias"] for name in "qkv"])
    return out


def _linear(x: jax.Array, weight: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """`[tokens, in]` to `[tokens, out]`. Two dimensions on purpose: with three, XLA:CPU transposes a weight that a
    loop does not change, once per call."""
    y = accumulate("ti,oi->to", x, weight).astype(x.dtype)
    return y if bias is None else y + bias


def _layer(x, layer, positions, cos, sin, store, config: ModelConfig):
    """One decoder layer over new tokens x `[rows * seq, embed]` at `positions` `[rows, seq]`.

    `store` takes their keys and values and returns (what to keep, stretches to attend to with their positions).
    """
    width, kv = config.head_dim, config.num_kv_heads
    normed = rms_norm(x, layer["input_norm"], config.rms_norm_eps)
    heads = _linear(normed, layer["qkv"], layer.get("qkv_bias")).reshape(*positions.shape, -1, width)
    q, k, v = jnp.split(heads, (config.num_heads, config.num_heads + kv), axis=2)
    if config.qk_norm:
        q, k = (rms_norm(y, layer[f"{n}_norm"], config.rms_norm_eps) for n, y in (("q", q), ("k", k)))
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    kept, parts = store(Stretch(k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3)))
    mixed = cached_attention(q, parts, positions, config.sliding_window).astype(x.dtype)
    x = x + _linear(mixed.reshape(x.shape[0], -1), layer["o"])
    gate, up = jnp.split(_linear(rms_norm(x, layer["post_norm"], config.rms_norm_eps), layer["gate_up"]), 2, axis=-1)
    return x + _linear(swiglu(gate, up), layer["down"]), kept


@functools.partial(jax.jit, static_argnames="config", donate_argnums=2)
def _prefill_layer(x, layer, cache: tuple[Stretch, ...], start, length, config: ModelConfig):
    """One layer over a chunk x `[chunk, embed]`, kept at columns `start...` of a cache of one row."""
    positions = start + jnp.arange(x.shape[0], dtype=jnp.int32)[None]
    cos, sin = rope_table(config.rope, config.head_dim, positions, jnp.full_like(positions, length))

    def store(new: Stretch):
        written = write(cache, new, 0, start)
        return written, with_positions(written)

    return _layer(x, layer, positions, cos, sin, store, config)


@jax.jit
def _embed(embed: jax.Array, tokens: jax.Array) -> jax.Array:
    return jnp.take(embed, tokens, axis=0)


def prefill(
    params: dict[str, Any],
    layers: Sequence[dict[str, Any]],
    cache: Cache,
    start: int,
    tokens: Any,
    length: int,
    config: ModelConfig,
) -> tuple[jax.Array, Cache]:
    """Runs a chunk of one prompt.

    Args:
        params: `embed` and what else is not per layer.
        layers: parameters of each layer, from `fuse_layer`.
        cache: of one row; columns `start` to `start + chunk` must lie in it. Given up to this call (donated).
        tokens: `[chunk]` int32, padded at the end; what padding leaves in the cache lies beyond the row's position.
        length: of the whole prompt in tokens, which decides the angles of RoPE kinds that go by length.

    Returns:
        Hidden states before the final norm `[chunk, embed]`, and the cache.
    """
    x = _embed(params["embed"], jnp.asarray(tokens, jnp.int32))
    at, length, out = jnp.int32(start), jnp.int32(length), []
    for layer, kept in zip(layers, cache, strict=True):
        x, kept = _prefill_layer(x, layer, kept, at, length, config=config)
        out.append(kept)
    return x, out


@functools.partial(jax.jit, static_argnames="config")
def head_logits(params: dict[str, Any], x: jax.Array, config: ModelConfig) -> jax.Array:
    """Float32 logits `[tokens, vocab]` of hidden states before the final norm `[tokens, embed]`."""
    x = rms_norm(x, params["final_norm"], config.rms_norm_eps)
    return accumulate("td,vd->tv", x, head_matrix(params))


@functools.partial(
    jax.jit, static_argnames=("config", "steps", "temperature", "top_p", "stops"), donate_argnames=("cache",)
)
def decode(
    params: dict[str, Any],
    layers: Sequence[dict[str, Any]],
    cache: Cache,
    rows: Rows,
    *,
    config: ModelConfig,
    steps: int,
    stops: tuple[int, ...],
    temperature: float = 0.0,
    top_p: float = 1.0,
    barred: jax.Array | np.ndarray | None = None,
) -> tuple[Cache, Rows, jax.Array]:
    """Up to `steps` tokens for every row that has some left, fewer when all are done.

    Args:
        cache: donated; columns up to each row's position + `steps` must lie in it.
        stops: token ids that end a row.
        barred: `[rows, vocab]` bool, tokens that the first step may not choose.

    Returns:
        The cache, the rows after the last step, and the tokens `[rows, steps]` int32, -1 where a row made none. A
        stop token is among them and is a row's last.
    """
    ends = jnp.asarray(stops, jnp.int32)
    start = rows.position  # columns from here on are written after the loop, for all steps at once
    count = start.shape[0]
    recent = [segments[0] for segments in new_cache(config, count, steps, cache[0][0].k.dtype)]

    def step(carry):
        index, recent, rows, out = carry
        logits, recent = _decode_layers(params, layers, cache, recent, rows, start, index, config)
        if barred is not None:
            logits = jnp.where(barred & (index == 0), NEGATIVE, logits)
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

    def flush(row, cache):  # row by row: on CPU a scatter over rows would convert and copy the whole cache
        one = [jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, row, 1, 0), new) for new in recent]
        return [write(old, new, row, start[row]) for old, new in zip(cache, one, strict=True)]

    return lax.fori_loop(0, count, flush, cache), rows, out


def _decode_layers(params, layers, cache, recent, rows: Rows, start, index, config: ModelConfig):
    """Logits `[rows, vocab]` after one token per row, and `recent` with its keys and values."""
    # tied to the token, or XLA:CPU converts the whole table to float32 ahead of the loop for the sake of the gather
    embed, token = lax.optimization_barrier((params["embed"], rows.token))
    x = jnp.take(embed, token, axis=0)
    positions = rows.position[:, None]
    # a row keeps the angles of its prompt's length: the cached keys were turned by them
    cos, sin = rope_table(config.rope, config.head_dim, positions, (rows.position - rows.made + 1)[:, None])
    step = jnp.arange(recent[0].v.shape[2], dtype=jnp.int32)[None]
    new = jnp.where(step <= index, start[:, None] + step, -1)
    out = []
    for layer, before, made in zip(layers, cache, recent, strict=True):

        def store(token: Stretch, before=before, made=made):
            made = write([made], token, 0, index)[0]
            return made, [*with_positions(before, start), (made, new)]

        x, made = _layer(x, layer, positions, cos, sin, store, config)
        out.append(made)
    return head_logits(params, x, config), out

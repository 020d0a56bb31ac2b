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

from jora_engine.config.architecture import LayerKind, ModelConfig
from jora_engine.generation.sampling import NEGATIVE, pick
from jora_engine.model.decoder import Attend, decoder_layer, embed, head_logits
from jora_engine.model.kv_cache import Cache, PromptCache, ReplyCache, Stretch, attend_cached, new_cache, write
from jora_engine.model.lora import joined
from jora_engine.model.ops_cpu import beside
from jora_engine.model.rope_table import layer_table


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


def prepare_layer(layer: Mapping[str, Any], join: Callable[[list[Any]], Any]) -> dict[str, Any]:
    """One layer's parameters as the programs here want them: q, k and v as one matrix, gate and up as one."""
    groups = (("q", "k", "v"), ("gate", "up"))
    return joined(layer, [names for names in groups if names[0] in layer], join)


def _attend(positions: jax.Array, kind: LayerKind, config: ModelConfig) -> Attend:
    """How the new tokens at `positions` find their keys in a layer of that kind."""
    scale, softcap = config.attention_scale, config.attention_softcap
    return functools.partial(attend_cached, positions=positions, window=kind.window, scale=scale, softcap=softcap)


@functools.partial(jax.jit, static_argnames=("config", "kind"), donate_argnums=2)
def _prefill_layer(x, layer, cache: tuple[Stretch, ...], start, length, config: ModelConfig, kind: LayerKind):
    """One layer over a chunk x `[chunk, embed]`, kept at columns `start...` of a cache of one row."""
    positions = start + jnp.arange(x.shape[0], dtype=jnp.int32)[None]
    rope = layer_table(kind.rope, config.head_dim, positions, jnp.full_like(positions, length))
    attend = _attend(positions, kind, config)
    x, kept = decoder_layer(x, layer, {}, rope, attend, config, cache=PromptCache(cache, start))
    return x, kept.segments


embed_tokens = jax.jit(embed, static_argnames="config")
logits = jax.jit(head_logits, static_argnames="config")


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
        layers: parameters of each layer, from `prepare_layer`.
        cache: of one row; columns `start` to `start + chunk` must lie in it. Given up to this call (donated).
        tokens: `[chunk]` int32, padded at the end; what padding leaves in the cache lies beyond the row's position.
        length: of the whole prompt in tokens, which decides the angles of RoPE kinds that go by length.

    Returns:
        Hidden states before the final norm `[chunk, embed]`, and the cache.
    """
    x = embed_tokens({"embed": params["embed"]}, jnp.asarray(tokens, jnp.int32), config=config)
    at, length, out = jnp.int32(start), jnp.int32(length), []
    for layer, kept, kind in zip(layers, cache, config.layer_kinds, strict=True):
        x, kept = _prefill_layer(x, layer, kept, at, length, config=config, kind=kind)
        out.append(kept)
    return x, out


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
    table, token = beside(params["embed"], rows.token)
    x = embed({"embed": table}, token, config)
    positions = jnp.asarray(rows.position)[:, None]
    # a row keeps the angles of its prompt's length: the cached keys were turned by them
    lengths = (rows.position - rows.made + 1)[:, None]
    ropes = {kind: layer_table(kind.rope, config.head_dim, positions, lengths) for kind in config.kinds}
    out = []
    for layer, segments, stretch, kind in zip(layers, cache, recent, config.layer_kinds, strict=True):
        kept, attend = ReplyCache(segments, stretch, start, index), _attend(positions, kind, config)
        x, kept = decoder_layer(x, layer, {}, ropes[kind], attend, config, cache=kept)
        out.append(kept.recent)
    return head_logits(params, x, config), out

"""The programs of generation: a chunk of one prompt through a layer, and a loop of decode steps over all rows.

Prefill runs one small compiled program layer by layer; decoding is one program with all layers in it. Shapes alone make
a new program: rows, columns, chunk sizes and the adapters' rank come from short lists, everything that a request may
ask for is an array. Knows nothing of tokenizers, stop strings or which prompt sits in which row.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jora_engine.config.architecture import LayerKind, ModelConfig
from jora_engine.generation.sampling import NEGATIVE, TOP_LOGPROBS, Sampling, logprobs, pick
from jora_engine.model.decoder import Attend, decoder_layer, embed, head_logits
from jora_engine.model.kv_cache import Cache, PromptCache, ReplyCache, Stretch, attend_cached, new_cache, write
from jora_engine.model.lora import Slotted, joined
from jora_engine.model.ops_cpu import beside, from_bits, to_bits
from jora_engine.model.rope_table import layer_table

STEPS = 8  # tokens decoded at most between two looks at stop strings and free rows

Slots = Sequence[dict[str, Slotted]]
"""For each layer the adapters of its groups of linear layers (`lora.linear`); an empty dict where there are none."""


class Rows(NamedTuple):
    """What the loop knows of each row: `[rows]` arrays.

    Attributes:
        token: the next input token.
        position: its position. Columns from there to `position + STEPS` are overwritten, in idle rows too.
        left: how many tokens may still be generated; 0 for a finished or empty row.
        made: how many tokens were generated, which numbers the random draws.
        slot: the slot of the row's adapter.
        ends: `[rows, n]` token ids that end the row, -1 for none.
        scored: bool, whether log probabilities are wanted.
    """

    token: jax.Array | np.ndarray
    position: jax.Array | np.ndarray
    left: jax.Array | np.ndarray
    made: jax.Array | np.ndarray
    slot: jax.Array | np.ndarray
    ends: jax.Array | np.ndarray
    scored: jax.Array | np.ndarray


class Limits(NamedTuple):
    """What the first step of a call is held to, `[rows, vocab]`.

    Attributes:
        barred: bool, tokens that it may not choose.
        added: float32, to the logits.
    """

    barred: jax.Array | np.ndarray
    added: jax.Array | np.ndarray


class Steps(NamedTuple):
    """What a call of `decode` made, `[rows, STEPS]`.

    Attributes:
        token: int32, -1 where a row made none. A token that ends a row is among them and the row's last.
        logprob: float32 of the token; 0 where the row is not scored.
        best, best_ids: `[rows, STEPS, TOP_LOGPROBS]` the most likely tokens.
    """

    token: jax.Array
    logprob: jax.Array
    best: jax.Array
    best_ids: jax.Array


def prepare_layer(layer: Mapping[str, Any], join: Callable[[list[Any]], Any]) -> dict[str, Any]:
    """One layer's parameters as the programs here want them: q, k and v as one matrix, gate and up as one."""
    groups = (("q", "k", "v"), ("gate", "up"))
    return joined(layer, [names for names in groups if names[0] in layer], join)


def _attend(positions: jax.Array, kind: LayerKind, config: ModelConfig) -> Attend:
    """How the new tokens at `positions` find their keys in a layer of that kind."""
    scale, softcap = config.attention_scale, config.attention_softcap
    return functools.partial(attend_cached, positions=positions, window=kind.window, scale=scale, softcap=softcap)


class _Place(NamedTuple):
    """Where a chunk of a prompt stands: scalars; `length` is the whole prompt's, `slot` its adapter's."""

    row: Any
    start: Any
    length: Any
    slot: Any


@functools.partial(jax.jit, static_argnames=("config", "kind", "native"), donate_argnums=3)
def _prefill_layer(
    x, layer, slots, cache: tuple[Stretch, ...], at: _Place, config: ModelConfig, kind: LayerKind, native: bool = False
):
    """One layer over a chunk x `[chunk, embed]`; also the chunk's own keys and values, as bits."""
    positions = at.start + jnp.arange(x.shape[0], dtype=jnp.int32)[None]
    rope = layer_table(kind.rope, config.head_dim, positions, jnp.full_like(positions, at.length))
    adapter = {names: slotted.of_slot(at.slot) for names, slotted in slots.items()}
    attend = _attend(positions, kind, config)
    kept = PromptCache(cache, at.row, at.start, native)
    x, kept = decoder_layer(x, layer, adapter, rope, attend, config, cache=kept)
    return x, kept.segments, jax.tree.map(to_bits, kept.new)


@functools.partial(jax.jit, donate_argnums=0)
def _restore_layer(cache: tuple[Stretch, ...], new: Stretch, row, start):
    return write(cache, jax.tree.map(from_bits, new), row, start)


embed_tokens = jax.jit(embed, static_argnames="config")
logits = jax.jit(head_logits, static_argnames="config")


def prefill(
    params: dict[str, Any],
    layers: Sequence[dict[str, Any]],
    slots: Slots,
    cache: Cache,
    row: int,
    start: int,
    tokens: Any,
    length: int,
    slot: int,
    config: ModelConfig,
    native: bool = False,
) -> tuple[jax.Array, Cache, list[Stretch]]:
    """Runs a chunk of one row's prompt.

    Args:
        params: `embed` and what else is not per layer.
        layers: parameters of each layer, from `prepare_layer`.
        cache: columns `start` to `start + chunk` must lie in it. Given up to this call (donated).
        tokens: `[chunk]` int32, padded at the end; what padding leaves in the cache lies beyond the row's position.
        length: of the whole prompt in tokens, which decides the angles of RoPE kinds that go by length.
        slot: of the row's adapter.
        native: whether attention is the native kernels' (`attention_backends.native_over_cache`), here and in `decode`.

    Returns:
        Hidden states before the final norm `[chunk, embed]`, the cache, and each layer's keys and values of this chunk
        for `restore`.
    """
    x = embed_tokens({"embed": params["embed"]}, jnp.asarray(tokens, jnp.int32), config=config)
    at = _Place(*(np.int32(value) for value in (row, start, length, slot)))
    out, new = [], []
    for layer, adapters, kept, kind in zip(layers, slots, cache, config.layer_kinds, strict=True):
        x, kept, own = _prefill_layer(x, layer, adapters, kept, at, config=config, kind=kind, native=native)
        out.append(kept)
        new.append(own)
    return x, out, new


def restore(cache: Cache, row: int, start: int, chunk: Sequence[Stretch]) -> Cache:
    """The cache with a chunk that `prefill` computed earlier in a row's columns from `start` on; the cache is given up
    (donated)."""
    at = np.int32(row), np.int32(start)
    return [_restore_layer(kept, new, *at) for kept, new in zip(cache, chunk, strict=True)]


@functools.partial(jax.jit, static_argnames=("config", "native"), donate_argnames="cache")
def decode(
    params: dict[str, Any],
    layers: Sequence[dict[str, Any]],
    slots: Slots,
    cache: Cache,
    rows: Rows,
    sampling: Sampling,
    steps: jax.Array | np.int32,
    limits: Limits,
    *,
    config: ModelConfig,
    native: bool = False,
) -> tuple[Cache, Steps]:
    """Up to `steps` tokens for every row that has some left, fewer when all are done.

    Args:
        cache: donated; columns up to each row's position + `STEPS` must lie in it.
        steps: int32, at most `STEPS`.
        limits: of the first step; the others choose freely, and the caller takes back what it may not keep.
    """
    start = rows.position  # columns from here on are written after the loop, for all steps at once
    count = start.shape[0]
    recent = [segments[0] for segments in new_cache(config, count, STEPS, cache[0][0].k.dtype)]
    own = _own_slots(slots, rows.slot)

    def step(carry):
        index, recent, rows, out = carry
        logits, recent = _decode_layers(params, layers, own, cache, recent, rows, start, index, config, native)
        logits = jnp.where(index == 0, logits + limits.added, logits)
        logits = jnp.where(limits.barred & (index == 0), NEGATIVE, logits)
        token = pick(logits, sampling, rows.made)
        alive = rows.left > 0
        out = _noted(out, index, logits, token, alive, alive & rows.scored)
        left = jnp.where(alive & ~jnp.any(token[:, None] == rows.ends, axis=-1), rows.left - 1, 0)
        go = left > 0
        rows = rows._replace(
            token=jnp.where(go, token, rows.token),
            position=jnp.where(go, rows.position + 1, rows.position),
            left=left,
            made=rows.made + alive,
        )
        return index + 1, recent, rows, out

    out = Steps(
        jnp.full((count, STEPS), -1, jnp.int32),
        jnp.zeros((count, STEPS)),
        jnp.zeros((count, STEPS, TOP_LOGPROBS)),
        jnp.full((count, STEPS, TOP_LOGPROBS), -1, jnp.int32),
    )
    more = lambda carry: (carry[0] < steps) & jnp.any(carry[2].left > 0)  # noqa: E731
    _, recent, _, out = lax.while_loop(more, step, (jnp.int32(0), recent, rows, out))

    def flush(row, cache):  # row by row: on CPU a scatter over rows would convert and copy the whole cache
        one = [jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, row, 1, 0), new) for new in recent]
        return [write(old, new, row, start[row]) for old, new in zip(cache, one, strict=True)]

    return lax.fori_loop(0, count, flush, cache), out


def _own_slots(slots: Slots, slot: jax.Array | np.ndarray) -> Slots:
    """The adapters with each row's slot told to them."""
    sizes = {slotted.a.shape[0] for layer in slots for slotted in layer.values()}
    if not sizes:
        return slots
    own = jnp.asarray(slot)[:, None] == jnp.arange(sizes.pop(), dtype=jnp.int32)
    return [{names: dataclasses.replace(slotted, own=own) for names, slotted in layer.items()} for layer in slots]


def _noted(out: Steps, index, logits, token, alive, scored) -> Steps:
    """`out` with the step `index`: tokens of the rows alive, log probabilities where they are wanted."""
    token_column = jnp.where(alive, token, -1)[:, None]
    out = out._replace(token=lax.dynamic_update_slice(out.token, token_column, (0, index)))

    def with_scores(out: Steps) -> Steps:
        chosen, best, ids = logprobs(logits, token)
        return out._replace(
            logprob=lax.dynamic_update_slice(out.logprob, chosen[:, None], (0, index)),
            best=lax.dynamic_update_slice(out.best, best[:, None], (0, index, 0)),
            best_ids=lax.dynamic_update_slice(out.best_ids, ids[:, None], (0, index, 0)),
        )

    return lax.cond(jnp.any(scored), with_scores, lambda out: out, out)


def _decode_layers(params, layers, slots, cache, recent, rows: Rows, start, index, config: ModelConfig, native: bool):
    """Logits `[rows, vocab]` after one token per row, and `recent` with its keys and values."""
    table, token = beside(params["embed"], rows.token)
    x = embed({"embed": table}, token, config)
    positions = jnp.asarray(rows.position)[:, None]
    # a row keeps the angles of its prompt's length: the cached keys were turned by them
    lengths = (rows.position - rows.made + 1)[:, None]
    ropes = {kind: layer_table(kind.rope, config.head_dim, positions, lengths) for kind in config.kinds}
    out = []
    for layer, adapters, segments, stretch, kind in zip(layers, slots, cache, recent, config.layer_kinds, strict=True):
        kept = ReplyCache(segments, stretch, start, index, jnp.asarray(rows.left) > 0, native)
        attend = _attend(positions, kind, config)
        x, kept = decoder_layer(x, layer, adapters, ropes[kind], attend, config, cache=kept)
        out.append(kept.recent)
    return head_logits(params, x, config), out

"""The decoder, from tokens to logits, one for every family, for training, prefill and decoding.

Reads from top to bottom as the architecture does: embedding, layers of attention and MLP, final norm, head. Switches
come from `ModelConfig`. Frozen base and LoRA tree stand side by side; files and training are others' business.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jora_engine.config.architecture import ModelConfig
from jora_engine.model.arithmetic import PLAIN, Arithmetic, arithmetic_with
from jora_engine.model.attention import Mask, segment_lengths
from jora_engine.model.attention_backends import attend_with
from jora_engine.model.dropout import dropout as drawn
from jora_engine.model.lora import Adapter
from jora_engine.model.ops import Array, accumulate, rms_norm, rotate, scaled, soft_cap
from jora_engine.model.ops_cpu import named
from jora_engine.model.parameters import Params
from jora_engine.model.places import Places, asked, take
from jora_engine.model.remat import scan_layers
from jora_engine.model.rope_table import by_length, layer_table
from jora_engine.model.sharding import Placement

Rope = tuple[jax.Array, jax.Array]
"""cos and sin of each position, `[batch, seq, head_dim / 2]` float32."""

Attend = Callable[[jax.Array, jax.Array, jax.Array, Any], tuple[jax.Array, Any]]
"""`attend(q, k, v, cache)`: each query's mix of the values it sees, and the cache with the new keys and values.

q, k and v are `[batch, seq, heads, head_dim]`, the mix is like q with or without its heads laid side by side.
"""


def forward(
    params: Params,
    lora: Adapter,
    tokens: Array,
    mask: Mask,
    config: ModelConfig,
    *,
    remat: str = "layer",
    dropout: float = 0.0,
    dropout_key: jax.Array | None = None,
    backend: str = "blocked",
    placement: Placement | None = None,
    places: Places | None = None,
) -> jax.Array:
    """Hidden states after the final norm, of whole sequences: no cache, layers stacked.

    Logits are the loss's business, so that no `[batch, seq, vocab]` array need exist.

    Args:
        params: the frozen base; all leaves of one floating dtype, which is the compute dtype.
        lora: an adapter made ready by `lora.prepare`, or `{}`.
        tokens: `[batch, seq]` int32.
        mask: segments and positions of `tokens`.
        remat: what the backward pass computes again, see `remat.rematted`.
        backend: attention back end, see `attention_backends`.
        placement: pins arrays to a mesh; None on one device.
        places: where hidden states are wanted, None for everywhere; the last layer computes no others.

    Returns:
        `[batch, seq, embed]` in the parameters' dtype, or `[batch, capacity, embed]` of the places.
    """
    pin = placement.activations if placement else lambda x: x
    whole = placement.gathered if placement else lambda weights: weights
    view = layer_views(config, mask)
    window = config.kinds[0].window if len(config.kinds) == 1 else None
    scores = {"scale": config.attention_scale, "softcap": config.attention_softcap}
    attention = place_attention(attend_with(backend, window, **scores), placement)
    arithmetic = arithmetic_with(backend, placement)

    def layer(x, base, adapter, index, places=None):
        key = None if dropout_key is None else jax.random.fold_in(dropout_key, index)
        rope, seen = view(index)
        if places is not None:
            seen = asked(seen, places)

        def attend(q, k, v, cache):
            return attention(q, k, v, seen), cache

        own = {"dropout": dropout, "key": key, "places": places, "arithmetic": arithmetic}
        x, _ = decoder_layer(x, whole(base), adapter, rope, attend, config, **own)
        return x if places is not None else pin(x)

    x = pin(embed(whole({"embed": params["embed"]}), tokens, config))
    x = scan_layers(layer, functools.partial(layer, places=places), x, params["layers"], lora, remat)
    return final_norm(params, x, config)


def layer_views(config: ModelConfig, mask: Mask) -> Callable[[jax.Array], tuple[Rope, Mask]]:
    """`view(layer)`: the RoPE table of a layer and what its tokens see, the same for all where all are alike.

    A window that only some layers have is told by the mask: none of its positions looks back further.
    """
    lengths = segment_lengths(mask) if any(kind.rope and by_length(kind.rope) for kind in config.kinds) else None
    ropes = [layer_table(kind.rope, config.head_dim, mask.positions, lengths) for kind in config.kinds]
    if len(config.kinds) == 1:
        return lambda layer: (ropes[0], mask)
    cos, sin = (jnp.stack(tables) for tables in zip(*ropes))
    farthest = jnp.asarray([mask.segments.shape[1] if k.window is None else k.window - 1 for k in config.kinds])
    kinds = jnp.asarray([config.kinds.index(kind) for kind in config.layer_kinds])

    def view(layer: jax.Array) -> tuple[Rope, Mask]:
        kind = kinds[layer]
        return (cos[kind], sin[kind]), mask._replace(positions=jnp.minimum(mask.positions, farthest[kind]))

    return view


def embed(params: Params, tokens: Array, config: ModelConfig) -> jax.Array:
    """The rows of the embedding that belong to `tokens`, as the first layer takes them."""
    x = jnp.take(params["embed"], tokens, axis=0)
    factor = config.embedding_scale
    return scaled(x, float(np.asarray(factor, x.dtype)) if config.embedding_scale_rounded else factor)


def decoder_layer(
    x: jax.Array,
    layer: dict[str, Any],
    lora: Adapter,
    rope: Rope,
    attend: Attend,
    config: ModelConfig,
    *,
    cache: Any = None,
    dropout: float = 0.0,
    key: jax.Array | None = None,
    places: Places | None = None,
    arithmetic: Arithmetic = PLAIN,
) -> tuple[jax.Array, Any]:
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`; some families norm what a sublayer gives, some both.

    Args:
        x: `[batch, seq, embed]`, in generation `[batch * seq, embed]`.
        layer, lora: one layer's parameters and adapter.
        cache: what earlier tokens left for `attend`; None where the sequence is whole.
        dropout: of the adapter's inputs, drawn where there is a `key`.
        places: where the result is wanted, None for everywhere; behind the attention nothing else is computed.
        arithmetic: of norms, activations and linear layers.

    Returns:
        Like `x` (of the places), and the cache with this layer's new keys and values.
    """
    drops = [None] * 4 if key is None or not dropout else [drawn(k, dropout) for k in jax.random.split(key, 4)]
    gated = arithmetic.gated[config.activation]
    keep = named if cache is None else lambda x, name: x  # beside a cache no backward pass follows

    def norm(x: jax.Array, name: str) -> jax.Array:
        return arithmetic.norm(x, layer[name], config.rms_norm_eps, config.norm_kind) if name in layer else x

    with jax.named_scope("attention"):
        normed = norm(x, "input_norm")
        if config.fused:
            (qkv,) = arithmetic.linear(normed, ("qkv",), layer, lora, drops[0])
            ends = config.head_dim * np.cumsum([config.num_heads, config.num_kv_heads])
            q, k, v = jnp.split(qkv, ends, axis=-1)
        else:
            q, k, v = arithmetic.linear(normed, ("q", "k", "v"), layer, lora, drops[0])
        if config.qk_norm:  # whose backward pass needs what it was given, so that keeping its result saves no product
            q, k = keep(q, "q"), keep(k, "k")
        if config.qk_norm_whole:
            q, k = norm(q, "q_norm"), norm(k, "k_norm")
        q, k, v = (y.reshape(*rope[0].shape[:2], -1, config.head_dim) for y in (q, k, v))
        if config.qk_norm and not config.qk_norm_whole:
            q, k = norm(q, "q_norm"), norm(k, "k_norm")
        q, k = rotate(q, *rope), rotate(k, *rope)
        if not config.qk_norm:
            q, k = keep(q, "q"), keep(k, "k")
        v = keep(v, "v")
        mixed, cache = attend(q, k, v, cache)
        mixed = mixed.reshape(*x.shape[:-1], -1)
        if places is not None:
            x, mixed = take(x, places), take(mixed, places)
        (out,) = arithmetic.linear(mixed, ("o",), layer, lora, drops[1])
        x = keep(x + scaled(norm(out, "attention_out_norm"), config.residual_scale), "attention_residual")

    with jax.named_scope("mlp"):
        normed = norm(x, "post_norm")
        if config.fused:
            (both,) = arithmetic.linear(normed, ("gate_up",), layer, lora, drops[2])
            gate, up = jnp.split(both, 2, axis=-1)
        else:
            gate, up = arithmetic.linear(normed, ("gate", "up"), layer, lora, drops[2])
        gate, up = keep(gate, "gate"), keep(up, "up")
        (out,) = arithmetic.linear(gated(gate, up), ("down",), layer, lora, drops[3])
        return x + scaled(norm(out, "mlp_out_norm"), config.residual_scale), cache


def final_norm(params: Params, x: jax.Array, config: ModelConfig) -> jax.Array:
    """What the head reads, of the last layer's output."""
    return rms_norm(x, params["final_norm"], config.rms_norm_eps, config.norm_kind)


def head_matrix(params: Params, placement: Placement | None = None) -> jax.Array:
    """`[vocab, embed]`: the output head, which is the embedding where the two are tied; with its fsdp cut undone."""
    name = "head" if "head" in params else "embed"
    return placement.gathered({name: params[name]})[name] if placement else params[name]


def head_logits(params: Params, x: jax.Array, config: ModelConfig) -> jax.Array:
    """Float32 logits `[tokens, vocab]` of the last layer's output `[tokens, embed]`."""
    return finish_logits(accumulate("td,vd->tv", final_norm(params, x, config), head_matrix(params)), config)


def finish_logits(products: jax.Array, config: ModelConfig) -> jax.Array:
    """Logits from the head's products."""
    return soft_cap(scaled(products, 1 / config.logit_divisor), config.logit_softcap)


def place_attention(attention: Callable[..., jax.Array], placement: Placement | None) -> Callable[..., jax.Array]:
    """`attention(q, k, v, mask)` on one device, or on each device's rows, heads and part of the sequence."""
    if placement is None:
        return attention
    return lambda q, k, v, mask: placement.attend(
        lambda q, k, v, s, p, offset: attention(q, k, v, Mask(s, p), offset=offset)
    )(q, k, v, mask.segments, mask.positions)

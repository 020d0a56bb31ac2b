"""The decoder, from tokens to logits, one for every family, for training, prefill and decoding.

Reads from top to bottom as the architecture does: embedding, layers of attention and MLP, final norm, head. Switches
come from `ModelConfig`. Frozen base and LoRA tree stand side by side; files and training are others' business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jora_engine.config.architecture import ModelConfig
from jora_engine.model.attention import Mask, segment_lengths
from jora_engine.model.attention_backends import attend_with
from jora_engine.model.lora import Adapter, linear
from jora_engine.model.ops import Array, accumulate, rms_norm, rotate, swiglu
from jora_engine.model.ops_cpu import named
from jora_engine.model.parameters import Params
from jora_engine.model.remat import scan_layers
from jora_engine.model.rope_table import by_length, rope_table
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

    Returns:
        `[batch, seq, embed]` in the parameters' dtype.
    """
    pin = placement.activations if placement else lambda x: x
    whole = placement.gathered if placement else lambda weights: weights
    lengths = segment_lengths(mask) if by_length(config.rope) else None
    rope = rope_table(config.rope, config.head_dim, mask.positions, lengths)
    attention = place_attention(attend_with(backend, config.sliding_window), placement)

    def attend(q, k, v, cache):
        return attention(q, k, v, mask), cache

    def layer(x, base, trained):
        index, adapter = trained
        key = None if dropout_key is None else jax.random.fold_in(dropout_key, index)
        x, _ = decoder_layer(x, whole(base), adapter, rope, attend, config, dropout=dropout, key=key)
        return pin(x)

    x = pin(embed(whole({"embed": params["embed"]}), tokens))
    x = scan_layers(layer, x, params["layers"], (jnp.arange(config.num_layers), lora), remat)
    return final_norm(params, x, config)


def embed(params: Params, tokens: Array) -> jax.Array:
    """The rows of the embedding that belong to `tokens`."""
    return jnp.take(params["embed"], tokens, axis=0)


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
) -> tuple[jax.Array, Any]:
    """One pre-norm block: `x + attention(norm(x))`, then `x + mlp(norm(x))`.

    Args:
        x: `[batch, seq, embed]`, in generation `[batch * seq, embed]`.
        layer, lora: one layer's parameters and adapter.
        cache: what earlier tokens left for `attend`; None where the sequence is whole.
        dropout: of the adapter's inputs, drawn where there is a `key`.

    Returns:
        Like `x`, and the cache with this layer's new keys and values.
    """
    keys = [None] * 4 if key is None else list(jax.random.split(key, 4))
    eps, width = config.rms_norm_eps, config.head_dim
    keep = named if cache is None else lambda x, name: x  # beside a cache no backward pass follows

    with jax.named_scope("attention"):
        normed = rms_norm(x, layer["input_norm"], eps)
        q, k, v = linear(normed, ("q", "k", "v"), layer, lora, dropout, keys[0])
        q, k, v = (y.reshape(*rope[0].shape[:2], -1, width) for y in (q, k, v))
        if config.qk_norm:
            q, k = rms_norm(q, layer["q_norm"], eps), rms_norm(k, layer["k_norm"], eps)
        q, k = rotate(q, *rope), rotate(k, *rope)
        mixed, cache = attend(q, k, v, cache)
        (out,) = linear(mixed.reshape(*x.shape[:-1], -1), ("o",), layer, lora, dropout, keys[1])
        x = keep(x + out, "attention_residual")

    with jax.named_scope("mlp"):
        normed = rms_norm(x, layer["post_norm"], eps)
        gate, up = linear(normed, ("gate", "up"), layer, lora, dropout, keys[2])
        gate, up = keep(gate, "gate"), keep(up, "up")
        (out,) = linear(swiglu(gate, up), ("down",), layer, lora, dropout, keys[3])
        return x + out, cache


def final_norm(params: Params, x: jax.Array, config: ModelConfig) -> jax.Array:
    """What the head reads, of the last layer's output."""
    return rms_norm(x, params["final_norm"], config.rms_norm_eps)


def head_matrix(params: Params, placement: Placement | None = None) -> jax.Array:
    """`[vocab, embed]`: the output head, which is the embedding where the two are tied; with its fsdp cut undone."""
    name = "head" if "head" in params else "embed"
    return placement.gathered({name: params[name]})[name] if placement else params[name]


def head_logits(params: Params, x: jax.Array, config: ModelConfig) -> jax.Array:
    """Float32 logits `[tokens, vocab]` of the last layer's output `[tokens, embed]`."""
    return accumulate("td,vd->tv", final_norm(params, x, config), head_matrix(params))


def place_attention(attention: Callable[..., jax.Array], placement: Placement | None) -> Callable[..., jax.Array]:
    """`attention(q, k, v, mask)` on one device, or on each device's rows, heads and part of the sequence."""
    if placement is None:
        return attention
    return lambda q, k, v, mask: placement.attend(
        lambda q, k, v, s, p, offset: attention(q, k, v, Mask(s, p), offset=offset)
    )(q, k, v, mask.segments, mask.positions)

"""One decoder for every family: embedding, a scan over stacked layers, final norm; switches come from `ModelConfig`.

Takes frozen base parameters and a LoRA tree side by side and returns hidden states; logits are the loss's and the
generator's business, so that no `[batch, seq, vocab]` array need exist. Knows nothing of files or training.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jora_engine.attention import Mask, attention
from jora_engine.config import ModelConfig
from jora_engine.lora import Adapter, linear_group
from jora_engine.ops import Array, rms_norm, rotate
from jora_engine.rope import rope_table
from jora_engine.sharding import Placement

Params = dict[str, Any]

KEPT = ("attention_out", "attention_lse")
"""Names that `remat="layer"` keeps: all else of a layer is computed again in the backward pass."""


def head_matrix(params: Params) -> jax.Array:
    """`[vocab, embed]`: the output head, which is the embedding where the two are tied."""
    return params["head"] if "head" in params else params["embed"]


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
    """Hidden states after the final norm.

    Args:
        params: the frozen base; all leaves of one floating dtype, which is the compute dtype.
        lora: an adapter made ready by `lora.prepare`, or `{}`.
        tokens: `[batch, seq]` int32.
        mask: segments and positions of `tokens`.
        remat: `layer` or `none`.
        backend: attention back end.
        placement: pins arrays to a mesh; None on one device.

    Returns:
        `[batch, seq, embed]` in the parameters' dtype.
    """
    table = params["embed"] if placement is None else placement.gathered({"embed": params["embed"]})["embed"]
    x = _pin(jnp.take(table, tokens, axis=0), placement)
    cos, sin = rope_table(config.rope, config.head_dim, mask.positions)
    attend = functools.partial(attention, window=config.sliding_window, backend=backend)
    block = functools.partial(decoder_layer, config=config, attend=place_attention(attend, placement), dropout=dropout)

    def step(x, scanned):
        index, layer, adapter = scanned
        key = None if dropout_key is None else jax.random.fold_in(dropout_key, index)
        layer = layer if placement is None else placement.gathered(layer)
        return _pin(block(x, layer, adapter, mask, cos, sin, key), placement), None

    if remat == "layer":
        policy = jax.checkpoint_policies.save_only_these_names(*KEPT)
        step = jax.checkpoint(step, prevent_cse=False, policy=policy)
    x, _ = lax.scan(step, x, (jnp.arange(config.num_layers), params["layers"], lora))
    return rms_norm(x, params["final_norm"], config.rms_norm_eps)


def _pin(x: jax.Array, placement: Placement | None) -> jax.Array:
    return x if placement is None else placement.activations(x)


def place_attention(attend: Callable[..., jax.Array], placement: Placement | None) -> Callable[..., jax.Array]:
    """`attend(q, k, v, mask)` on one device, or on each device's rows, heads and part of the sequence."""
    if placement is None:
        return attend
    return lambda q, k, v, mask: placement.attend(
        lambda q, k, v, s, p, offset: attend(q, k, v, Mask(s, p), offset=offset)
    )(q, k, v, mask.segments, mask.positions)


def decoder_layer(x, layer, lora, mask, cos, sin, key, *, config, attend, dropout):
    """One pre-norm block: `x + attention(norm(x))`, then `x + mlp(norm(x))`; x is `[batch, seq, embed]`."""
    keys = [None] * 4 if key is None else list(jax.random.split(key, 4))
    with jax.named_scope("attention"):
        normed = rms_norm(x, layer["input_norm"], config.rms_norm_eps)
        q, k, v = project_qkv(normed, layer, lora, cos, sin, config, dropout=dropout, key=keys[0])
        mixed = attend(q, k, v, mask)
        mixed = mixed.reshape(*x.shape[:2], -1)
        x = x + linear_group(mixed, ("o",), layer, lora, dropout=dropout, key=keys[1])[0]
    with jax.named_scope("mlp"):
        normed = rms_norm(x, layer["post_norm"], config.rms_norm_eps)
        gate, up = linear_group(normed, ("gate", "up"), layer, lora, dropout=dropout, key=keys[2])
        return x + linear_group(swiglu(gate, up), ("down",), layer, lora, dropout=dropout, key=keys[3])[0]


def project_qkv(x, layer, lora, cos, sin, config, *, dropout=0.0, key=None):
    """Queries `[batch, seq, heads, head_dim]`, keys and values with KV heads, normed (Qwen3) and rotated."""
    q, k, v = linear_group(x, ("q", "k", "v"), layer, lora, dropout=dropout, key=key)
    q, k, v = (y.reshape(*y.shape[:2], -1, config.head_dim) for y in (q, k, v))
    if config.qk_norm:
        q = rms_norm(q, layer["q_norm"], config.rms_norm_eps)
        k = rms_norm(k, layer["k_norm"], config.rms_norm_eps)
    return rotate(q, cos, sin), rotate(k, cos, sin), v


def swiglu(gate: jax.Array, up: jax.Array) -> jax.Array:
    """`silu(gate) * up` with the sigmoid in float32 (arXiv 2002.05202)."""
    return (jax.nn.silu(gate.astype(jnp.float32)).astype(gate.dtype)) * up

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
from jax.ad_checkpoint import checkpoint_name

from jora_engine.config.architecture import ModelConfig
from jora_engine.model.attention import Mask, segment_lengths
from jora_engine.model.attention_backends import attend
from jora_engine.model.lora import Adapter, linear_group
from jora_engine.model.ops import Array, from_bits, named, revive, rms_norm, rotate, swiglu, to_bits
from jora_engine.model.rope_table import by_length, rope_table
from jora_engine.model.sharding import Placement

Params = dict[str, Any]

KEPT = ("attention_out", "attention_lse")
"""What every remat rung keeps of a layer besides its input: attention is too dear to run again."""

ALSO_NAMED = ("attention_residual", "gate", "up")
"""What `remat="names"` keeps as well: with it only norms, q, k, v and elementwise functions are computed again."""


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
        remat: what the backward pass computes again, see `rematted`.
        backend: attention back end, see `attention_backends`.
        placement: pins arrays to a mesh; None on one device.

    Returns:
        `[batch, seq, embed]` in the parameters' dtype.
    """
    table = params["embed"] if placement is None else placement.gathered({"embed": params["embed"]})["embed"]
    x = _pin(jnp.take(table, tokens, axis=0), placement)
    lengths = segment_lengths(mask) if by_length(config.rope) else None
    cos, sin = rope_table(config.rope, config.head_dim, mask.positions, lengths)
    mixer = place_attention(attend(backend, config.sliding_window), placement)
    block = functools.partial(decoder_layer, config=config, attend=mixer, dropout=dropout)

    def step(bits, x, scanned):
        x = checkpoint_name(revive(bits, x), "layer_input")
        index, layer, adapter = scanned
        layer = jax.tree.map(from_bits, layer)
        key = None if dropout_key is None else jax.random.fold_in(dropout_key, index)
        layer = layer if placement is None else placement.gathered(layer)
        return _pin(block(x, layer, adapter, mask, cos, sin, key), placement)

    step = rematted(step, remat)
    layers = jax.tree.map(to_bits, params["layers"])
    scanned = (jnp.arange(config.num_layers), layers, lora)
    x, _ = lax.scan(lambda x, part: (step(to_bits(x), x, part), None), x, scanned)
    return rms_norm(x, params["final_norm"], config.rms_norm_eps)


def rematted(layer: Callable[..., Any], remat: str) -> Callable[..., Any]:
    """A layer that keeps for the backward pass everything (`none`), what has a name (`names`), its input and attention
    (`layer`), or attention alone, its input being moved to the host (`offload`; on a CPU the same as `layer`).
    """
    policies = jax.checkpoint_policies
    if remat == "none":
        return layer
    if remat == "offload" and jax.default_backend() != "cpu":
        policy = policies.save_and_offload_only_these_names(
            names_which_can_be_saved=KEPT,
            names_which_can_be_offloaded=("layer_input",),
            offload_src="device",
            offload_dst="pinned_host",
        )
    else:
        policy = policies.save_only_these_names(*KEPT, *(ALSO_NAMED if remat == "names" else ()))
    return jax.checkpoint(layer, prevent_cse=False, policy=policy)


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
        x = named(x, "attention_residual")
    with jax.named_scope("mlp"):
        normed = rms_norm(x, layer["post_norm"], config.rms_norm_eps)
        gate, up = linear_group(normed, ("gate", "up"), layer, lora, dropout=dropout, key=keys[2])
        gate, up = named(gate, "gate"), named(up, "up")
        return x + linear_group(swiglu(gate, up), ("down",), layer, lora, dropout=dropout, key=keys[3])[0]


def project_qkv(x, layer, lora, cos, sin, config, *, dropout=0.0, key=None):
    """Queries `[batch, seq, heads, head_dim]`, keys and values with KV heads, normed (Qwen3) and rotated."""
    q, k, v = linear_group(x, ("q", "k", "v"), layer, lora, dropout=dropout, key=key)
    q, k, v = (y.reshape(*y.shape[:2], -1, config.head_dim) for y in (q, k, v))
    if config.qk_norm:
        q = rms_norm(q, layer["q_norm"], config.rms_norm_eps)
        k = rms_norm(k, layer["k_norm"], config.rms_norm_eps)
    return rotate(q, cos, sin), rotate(k, cos, sin), v

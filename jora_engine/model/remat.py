"""A scan over stacked layers, and what of each layer is kept for the backward pass and what is computed again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from jora_engine.model.ops_cpu import from_bits, revive, to_bits
from jora_engine.model.target import platform

KEPT = ("attention_out", "attention_lse")
"""What every remat rung keeps of a layer besides its input: attention is too dear to run again."""

ALSO_NAMED = ("q", "k", "v", "attention_residual", "gate", "up")
"""What `remat="names"` keeps as well: with it only norms and elementwise functions are computed again, no product with
a weight of the base."""


def scan_layers(
    layer: Callable[[jax.Array, Any, Any, Any], jax.Array],
    last: Callable[[jax.Array, Any, Any, Any], jax.Array],
    x: jax.Array,
    frozen: Any,
    trained: Any,
    remat: str,
) -> jax.Array:
    """`x = layer(x, frozen[i], trained[i], i)` for each layer of two stacked trees; gradients go to x and `trained`.

    Args:
        last: takes the place of `layer` for the last one, of which everything is kept: its backward pass comes next.
        remat: what the backward pass computes again, see `rematted`.
    """
    end = jax.tree.leaves(frozen)[0].shape[0] - 1
    stack = jax.tree.map(to_bits, frozen)

    def of(index: jax.Array | int) -> Any:
        return jax.tree.map(lambda leaf: from_bits(lax.dynamic_index_in_dim(leaf, index, keepdims=False)), stack)

    def step(bits, x, index, trained):
        x = checkpoint_name(revive(bits, x), "layer_input")
        # cut out here and not by the scan, which would want a copy of the stack without its last layer
        return layer(x, of(index), trained, index)

    step = rematted(step, remat)
    earlier = jnp.arange(end), jax.tree.map(lambda leaf: leaf[:end], trained)
    if end:
        x, _ = lax.scan(lambda x, parts: (step(to_bits(x), x, *parts), None), x, earlier)
    return last(x, of(end), jax.tree.map(lambda leaf: leaf[end], trained), end)


def rematted(layer: Callable[..., Any], remat: str) -> Callable[..., Any]:
    """A layer that keeps for the backward pass everything (`none`), what has a name (`names`), its input and attention
    (`layer`), or attention alone, its input being moved to the host (`offload`; on a CPU the same as `layer`).
    """
    policies = jax.checkpoint_policies
    if remat == "none":
        return layer
    if remat == "offload" and platform() != "cpu":
        policy = policies.save_and_offload_only_these_names(
            names_which_can_be_saved=KEPT,
            names_which_can_be_offloaded=("layer_input",),
            offload_src="device",
            offload_dst="pinned_host",
        )
    else:
        policy = policies.save_only_these_names(*KEPT, *(ALSO_NAMED if remat == "names" else ()))
    return jax.checkpoint(layer, prevent_cse=False, policy=policy)

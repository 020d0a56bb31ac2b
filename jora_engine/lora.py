"""The trainable half: LoRA factors as a pytree in PEFT's shapes, and the linear layer that adds them to a frozen one.

`{"q": {"a": [L, r, in], "b": [L, out, r]}, ...}` in float32, one entry per adapted module, layers stacked. What is
adapted and at which scale is `LoraConfig`'s business; reading and writing PEFT directories is `export`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jora_engine.config import LoraConfig, ModelConfig
from jora_engine.ops import matmul

Adapter = dict[str, dict[str, jax.Array]]


def init_lora(config: LoraConfig, model: ModelConfig, seed: int) -> Adapter:
    """A ~ U(-1/sqrt(in), 1/sqrt(in)) (PEFT's kaiming_uniform with a = sqrt 5), B = 0: the base function unchanged.

    The same seed gives the same numbers on every device count.
    """
    shapes, out = model.linear_shapes(), {}
    for index, name in enumerate(config.targets(model.num_layers)):
        rows, columns = shapes[name]
        key = jax.random.fold_in(jax.random.key(seed), index)
        bound = columns**-0.5
        a = jax.random.uniform(key, (model.num_layers, config.rank, columns), jnp.float32, -bound, bound)
        out[name] = {"a": a, "b": jnp.zeros((model.num_layers, rows, config.rank), jnp.float32)}
    return out


def parameter_count(lora: Adapter) -> int:
    """Trainable numbers in the adapter."""
    return sum(leaf.size for leaf in jax.tree.leaves(lora))


def prepare(lora: Adapter, scale: float, dtype: jnp.dtype) -> Adapter:
    """The adapter as the forward pass wants it: the scale folded into B, then cast. Differentiable."""
    return {name: {"a": ab["a"].astype(dtype), "b": (ab["b"] * scale).astype(dtype)} for name, ab in lora.items()}


def linear_group(
    x: jax.Array,
    names: Sequence[str],
    layer: dict[str, Any],
    lora: Adapter,
    *,
    dropout: float = 0.0,
    key: jax.Array | None = None,
) -> list[jax.Array]:
    """The linear layers `names`, which share the input `x`, each with its adapter if it has one.

    Args:
        x: `[batch, seq, in]`.
        layer: one decoder layer's parameters, `name` -> `[out, in]` and optionally `name_bias` -> `[out]`.
        lora: one layer of a prepared adapter (`prepare`), `{"q": {"a": [r, in], "b": [out, r]}}`.
        dropout: probability of zeroing an input of an adapter (each adapter draws its own mask, as in PEFT).

    Returns:
        One `[batch, seq, out]` per name. The A factors of the group are multiplied as one matrix.
    """
    adapted = [name for name in names if name in lora]
    low: dict[str, jax.Array] = {}
    if adapted and dropout > 0.0 and key is not None:
        for index, name in enumerate(adapted):
            keep = jax.random.bernoulli(jax.random.fold_in(key, index), 1.0 - dropout, x.shape)
            dropped = jnp.where(keep, x / (1.0 - dropout), 0).astype(x.dtype)
            low[name] = matmul(dropped, lora[name]["a"])
    elif adapted:
        joined = matmul(x, jnp.concatenate([lora[name]["a"] for name in adapted]))
        low = dict(zip(adapted, jnp.split(joined, len(adapted), axis=-1)))
    out = []
    for name in names:
        y = matmul(x, layer[name])
        if f"{name}_bias" in layer:
            y = y + layer[f"{name}_bias"]
        if name in low:
            y = y + matmul(low[name], lora[name]["b"])
        out.append(y)
    return out

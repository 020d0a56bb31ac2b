"""The arithmetic that every layer shares: RMSNorm, RoPE, gated activations, with low-precision operands and float32
sums. Nothing here knows about layers, LoRA or devices.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jora_engine.model.ops_cpu import turned

Array = jax.Array | np.ndarray

accumulate = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
"""`jnp.einsum` that accumulates and returns float32 whatever the operands' dtype."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def rms_norm(x: jax.Array, weight: jax.Array, eps: float, kind: str = "narrow") -> jax.Array:
    """RMSNorm over the last axis in float32, result in `x.dtype` (arXiv 1910.07467; casts in transformers' order).

    Args:
        kind: how the weight comes in: after the cast to `x.dtype` (`narrow`), before it (`wide`), or before it with 1
            added (`one_plus`).
    """
    return _rms_norm_forward(x, weight, eps, kind)[0]


def _rms_norm_forward(x, weight, eps, kind):
    f = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(f * f, axis=-1, keepdims=True) + eps)
    if kind == "narrow":
        return weight * (f * scale).astype(x.dtype), (x, weight, scale)
    return (_wide(weight, kind) * (f * scale)).astype(x.dtype), (x, weight, scale)


def _wide(weight: jax.Array, kind: str) -> jax.Array:
    return weight.astype(jnp.float32) + (1.0 if kind == "one_plus" else 0.0)


def _rms_norm_backward(eps, kind, saved, g):
    # the row sum as a dot product: XLA:CPU takes four times as long for the multiply-and-reduce that autodiff makes
    x, weight, scale = saved
    gw = g * weight if kind == "narrow" else g.astype(jnp.float32) * _wide(weight, kind)
    mean = accumulate("...d,...d->...", gw, x)[..., None] / x.shape[-1]
    f = x.astype(jnp.float32)
    dx = (gw.astype(jnp.float32) * scale - f * (mean * scale**3)).astype(x.dtype)
    dw = norm_weight_gradient(x, g, eps).astype(weight.dtype)
    return dx, dw  # `dw` is dropped by XLA where the weight is frozen


rms_norm.defvjp(_rms_norm_forward, _rms_norm_backward)


def norm_weight_gradient(x: jax.Array, g: jax.Array, eps: float) -> jax.Array:
    """The gradient of `rms_norm`'s weight, float32."""
    f = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(f * f, axis=-1, keepdims=True) + eps)
    return (g.astype(jnp.float32) * f * scale).sum(tuple(range(x.ndim - 1)))


@jax.custom_vjp
def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """RoPE in the rotate-half layout (arXiv 2104.09864).

    Args:
        x: `[batch, seq, heads, head_dim]`.
        cos, sin: `[batch, seq, head_dim / 2]` float32; float32 matters: bfloat16 cannot tell position 257 from 256.

    Returns:
        Like `x`; the gradient is that of `x` alone, the rotation the other way.
    """
    cos, sin = (jnp.concatenate([y, y], axis=-1)[:, :, None] for y in (cos, sin))
    return (x.astype(jnp.float32) * cos + turned(x) * sin).astype(x.dtype)


rotate.defvjp(
    lambda x, cos, sin: (rotate(x, cos, sin), (cos, sin)),
    lambda saved, g: (rotate(g, saved[0], -saved[1]), None, None),
)


@jax.custom_vjp
def swiglu(gate: jax.Array, up: jax.Array) -> jax.Array:
    """`silu(gate) * up` with the sigmoid in float32 (arXiv 2002.05202), result in `gate.dtype`."""
    return jax.nn.silu(gate.astype(jnp.float32)).astype(gate.dtype) * up


def _swiglu_backward(saved, g):
    gate, up = saved
    f, g = gate.astype(jnp.float32), g.astype(jnp.float32)
    sigmoid = jax.nn.sigmoid(f)
    d_gate = g * up.astype(jnp.float32) * (sigmoid * (1.0 + f * (1.0 - sigmoid)))
    return d_gate.astype(gate.dtype), (g * (f * sigmoid)).astype(up.dtype)


swiglu.defvjp(lambda gate, up: (swiglu(gate, up), (gate, up)), _swiglu_backward)


def geglu(gate: jax.Array, up: jax.Array) -> jax.Array:
    """`gelu(gate) * up` with gelu's tanh form in float32 (arXiv 2002.05202), result in `gate.dtype`."""
    return jax.nn.gelu(gate.astype(jnp.float32), approximate=True).astype(gate.dtype) * up


GATED: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {"silu": swiglu, "gelu_tanh": geglu}
"""The MLP's gated activation by the name of its function."""


def scaled(x: jax.Array, factor: float) -> jax.Array:
    """`factor * x`, multiplied in float32 and rounded once; `x` itself where the factor is 1."""
    return x if factor == 1.0 else (x.astype(jnp.float32) * factor).astype(x.dtype)


def soft_cap(x: jax.Array, cap: float | None) -> jax.Array:
    """`cap * tanh(x / cap)`, which never leaves (-cap, cap); `x` itself without a cap."""
    return x if cap is None else cap * jnp.tanh(x / cap)

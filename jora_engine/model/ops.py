"""The arithmetic that every layer shares: matmul, RMSNorm, RoPE, with low-precision operands and float32 accumulation.

`matmul` has its own backward rule because JAX's default would multiply a float32 cotangent with a bfloat16 weight,
which leaves the fast matrix units on every back end. Nothing here knows about layers, LoRA or devices.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name

Array = jax.Array | np.ndarray

accumulate = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
"""`jnp.einsum` that accumulates and returns float32 whatever the operands' dtype."""


@jax.custom_vjp
def matmul(x: jax.Array, w: jax.Array) -> jax.Array:
    """`x @ w.T` in the Hugging Face layout.

    Args:
        x: `[batch, seq, in]`, float32 or bfloat16.
        w: `[out, in]`, same dtype as `x`.

    Returns:
        `[batch, seq, out]` in `x.dtype`, accumulated in float32. Both cotangents are computed from operands in
        `x.dtype` with float32 accumulation. Operands stay rank 3: XLA:CPU only takes its fast path for a weight
        gradient that contracts two dimensions.
    """
    return accumulate("bti,oi->bto", x, w).astype(x.dtype)


def _matmul_forward(x, w):
    return matmul(x, w), (x, w)


def _matmul_backward(saved, g):
    x, w = saved
    g = g.astype(w.dtype)
    dx = accumulate("bto,oi->bti", g, w).astype(x.dtype)
    dw = accumulate("bto,bti->oi", g, x).astype(w.dtype)  # dropped by XLA where `w` is frozen
    return dx, dw


matmul.defvjp(_matmul_forward, _matmul_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def rms_norm(x: jax.Array, weight: jax.Array, eps: float) -> jax.Array:
    """RMSNorm over the last axis in float32, result in `x.dtype` (arXiv 1910.07467; casts in transformers' order)."""
    return _rms_norm_forward(x, weight, eps)[0]


def _rms_norm_forward(x, weight, eps):
    f = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(f * f, axis=-1, keepdims=True) + eps)
    return weight * (f * scale).astype(x.dtype), (x, weight, scale)


def _rms_norm_backward(eps, saved, g):
    # the row sum as a dot product: XLA:CPU takes four times as long for the multiply-and-reduce that autodiff makes
    x, weight, scale = saved
    gw = g * weight
    mean = accumulate("...d,...d->...", gw, x)[..., None] / x.shape[-1]
    f = x.astype(jnp.float32)
    dx = (gw.astype(jnp.float32) * scale - f * (mean * scale**3)).astype(x.dtype)
    dw = (g.astype(jnp.float32) * f * scale).sum(tuple(range(x.ndim - 1))).astype(weight.dtype)
    return dx, dw  # `dw` is dropped by XLA where the weight is frozen


rms_norm.defvjp(_rms_norm_forward, _rms_norm_backward)


def to_bits(x: jax.Array) -> jax.Array:
    """On a CPU a bfloat16 array as uint16, any other as it is.

    XLA:CPU slices and updates bfloat16 arrays by converting the whole array to float32 and back, in every iteration of
    a loop; integers it leaves alone. So what a scan slices or stacks travels as bits.
    """
    on_cpu = jax.default_backend() == "cpu"
    return lax.bitcast_convert_type(x, jnp.uint16) if on_cpu and x.dtype == jnp.bfloat16 else x


def from_bits(x: jax.Array) -> jax.Array:
    """Undoes `to_bits`."""
    return lax.bitcast_convert_type(x, jnp.bfloat16) if x.dtype == jnp.uint16 else x


@jax.custom_vjp
def revive(bits: jax.Array, x: jax.Array) -> jax.Array:
    """`from_bits(bits)`, which must equal `x`, with the gradient going to `x`: `jax.checkpoint` then keeps the bits."""
    return from_bits(bits)


revive.defvjp(lambda bits, x: (from_bits(bits), None), lambda _, g: (None, g))


def named(x: jax.Array, name: str) -> jax.Array:
    """`x`, which a remat policy can keep under `name`, as bits."""
    return revive(checkpoint_name(to_bits(x), name), x)


@jax.custom_vjp
def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """RoPE in the rotate-half layout (arXiv 2104.09864).

    Args:
        x: `[batch, seq, heads, head_dim]`.
        cos, sin: `[batch, seq, head_dim / 2]` float32; float32 matters: bfloat16 cannot tell position 257 from 256.

    Returns:
        Like `x`; the gradient is that of `x` alone, the rotation the other way.
    """
    half = x.shape[-1] // 2
    swap = np.zeros((2 * half, 2 * half), np.float32)  # (first, second) @ swap = (-second, first)
    swap[half:, :half], swap[:half, half:] = -np.eye(half), np.eye(half)
    # a product with a signed permutation is exact, and XLA:CPU takes twice as long to concatenate or reverse halves
    turned = accumulate("bthd,de->bthe", x, swap.astype(x.dtype), precision=lax.Precision.HIGHEST)
    cos, sin = (jnp.concatenate([y, y], axis=-1)[:, :, None] for y in (cos, sin))
    return (x.astype(jnp.float32) * cos + turned * sin).astype(x.dtype)


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

"""The native kernels as functions of JAX arrays, with their gradients, for float32 and bfloat16.

What they compute stands in `model.attention` and `model.ops`. XLA must know the `library` before they run.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from jora_engine.model.attention import Mask, first_visible
from jora_engine.model.native.library import library
from jora_engine.model.ops import norm_weight_gradient
from jora_engine.model.ops_cpu import from_bits, to_bits

WIDEST = 512  # channels of a head that the kernels have room for


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: Mask,
    *,
    window: int | None = None,
    offset: jax.Array | int = 0,
    scale: float | None = None,
    softcap: float | None = None,
) -> jax.Array:
    """`model.attention.attention`; an even `head_dim`."""
    library()
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    first = first_visible(mask, window)
    return _attention(q, k, v, first, jnp.asarray(offset, jnp.int32), float(scale), float(softcap or 0.0))


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _attention(q, k, v, first, offset, scale, softcap):
    """q [batch, queries, heads, d], k and v [batch, seq, kv_heads, d], first [batch, seq] -> like q."""
    return _forward(q, k, v, first, offset, scale, softcap)[0]


def _forward(q, k, v, first, offset, scale, softcap):
    operands = (*map(to_bits, (q, k, v)), first, offset)
    rows = jax.ShapeDtypeStruct((q.shape[0], q.shape[2], q.shape[1]), jnp.float32)
    options = {"scale": np.float32(scale), "cap": np.float32(softcap)}
    bits, lse = call("attention_forward", (operands[0], rows), *operands, **options)
    # named as the blocked form's are, so that a remat policy can keep them
    bits, lse = checkpoint_name(bits, "attention_out"), checkpoint_name(lse, "attention_lse")
    return from_bits(bits), (operands, bits, lse)


def _backward(scale, softcap, saved, g):
    operands, bits, lse = saved
    options = {"scale": np.float32(scale), "cap": np.float32(softcap)}
    grads = call("attention_backward", operands[:3], *operands, bits, lse, to_bits(g), **options)
    return *map(from_bits, grads), None, None


_attention.defvjp(_forward, _backward)


@jax.custom_vjp
def swiglu(gate: jax.Array, up: jax.Array) -> jax.Array:
    """`model.ops.swiglu`."""
    bits = to_bits(gate)
    return from_bits(call("swiglu_forward", (bits,), bits, to_bits(up))[0])


def _swiglu_backward(saved, g):
    bits = tuple(map(to_bits, saved))
    return tuple(map(from_bits, call("swiglu_backward", bits, *bits, to_bits(g.astype(saved[0].dtype)))))


swiglu.defvjp(lambda gate, up: (swiglu(gate, up), (gate, up)), _swiglu_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def rms_norm(x: jax.Array, weight: jax.Array, eps: float) -> jax.Array:
    """`model.ops.rms_norm` of the kind `narrow`."""
    bits = to_bits(x)
    return from_bits(call("norm_forward", (bits,), bits, to_bits(weight), eps=np.float32(eps))[0])


def _rms_norm_backward(eps, saved, g):
    x, weight = saved
    bits = to_bits(x)
    (dx,) = call("norm_backward", (bits,), bits, to_bits(weight), to_bits(g), eps=np.float32(eps))
    return from_bits(dx), norm_weight_gradient(x, g, eps).astype(weight.dtype)


rms_norm.defvjp(lambda x, weight, eps: (rms_norm(x, weight, eps), (x, weight)), _rms_norm_backward)


def call(name: str, results: tuple[Any, ...], *operands: jax.Array, **options: Any) -> tuple[jax.Array, ...]:
    """What a function of the library makes of the operands: arrays like `results`."""
    like = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in results)
    return tuple(jax.ffi.ffi_call(f"raft_{name}", like, vmap_method="sequential")(*operands, **options))

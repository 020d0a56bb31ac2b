"""The native kernels as functions of JAX arrays, with their gradients, for float32 and bfloat16.

What they compute stands in `model.attention` and `model.ops`. XLA must know the `library` before they run.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
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
KEYS = 64  # of a tile, into which a cache must divide


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


def cached_attention(
    q: jax.Array,
    cache: Sequence[tuple[jax.Array, jax.Array]],
    row: jax.Array,
    start: jax.Array,
    *,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> jax.Array:
    """`model.kv_cache.prompt_attention` over a cache that holds q's numbers, bfloat16 as bits, in segments of whole
    blocks of `KEYS`; an even `head_dim`, no gradient. The result is `[1, seq, heads, head_dim]` in the dtype of q."""
    library()
    bits = to_bits(q)
    position = jnp.arange(sum(v.shape[2] for _, v in cache), dtype=jnp.int32)
    first = jnp.zeros_like(position) if window is None else jnp.maximum(position - (window - 1), 0)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    options = {"scale": np.float32(scale), "cap": np.float32(softcap or 0.0)}
    at = (first, jnp.asarray(row, jnp.int32), jnp.asarray(start, jnp.int32))
    return from_bits(call("attention_cached", (bits,), bits, *at, *(x for pair in cache for x in pair), **options)[0])


def reply_attention(
    q: jax.Array,
    segments: Sequence[tuple[jax.Array, jax.Array]],
    recent: tuple[jax.Array, jax.Array],
    start: jax.Array,
    step: jax.Array,
    *,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> jax.Array:
    """What `kv_cache.ReplyCache` attends to, float32: each row reads the columns of the segments below its `start`
    `[rows]` and `step + 1` of `recent`; a row whose start is -1 reads nothing and gets zeros.

    Args:
        q: `[rows, 1, heads, head_dim]`; the result is like it.
    """
    library()
    rows, _, heads, width = q.shape
    scale = width**-0.5 if scale is None else scale
    options = {"scale": np.float32(scale), "cap": np.float32(softcap or 0.0), "window": np.int64(window or 0)}
    like = jax.ShapeDtypeStruct((rows, heads, width), jnp.float32)
    at = (jnp.asarray(start, jnp.int32), jnp.asarray(step + 1, jnp.int32))
    cache = [x for pair in (*segments, recent) for x in pair]
    (out,) = call("attention_reply", (like,), q[:, 0].astype(jnp.float32), *at, *cache, **options)
    return out[:, None]


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

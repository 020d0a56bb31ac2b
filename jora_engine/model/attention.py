"""Causal attention with segment and window masks: a plain reference and a blocked form that runs everywhere.

The blocked form never holds more than one `[query block, key block]` of scores per head, visits only the key blocks
that a query block can see, and has its own backward rule. The mask is a small specification (`Mask`), never an array
of `[T, T]` outside the reference. Knows nothing of layers, LoRA or RoPE.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from jora_engine.model.ops import Array, accumulate, soft_cap
from jora_engine.model.ops_cpu import from_bits, to_bits

NEGATIVE = -1e30  # finite, so that a fully masked row stays finite
BLOCK = 128  # queries and keys of a block: the float32 scores of all heads should stay in cache


class Mask(NamedTuple):
    """What each token may see: itself and earlier tokens of its own segment (and window).

    Attributes:
        segments: `[batch, seq]` int32, 0 = padding; equal numbers are contiguous.
        positions: `[batch, seq]` int32, restarting at 0 in each segment; padding counts as a segment of its own. A
            smaller number than that hides what lies further back: a window is its least upper bound. At `-seq` the
            query sees nothing and is not asked for: what it gets is finite and meaningless.
    """

    segments: Array
    positions: Array


def segment_lengths(mask: Mask) -> jax.Array:
    """How many tokens the segment of each token has, `[batch, seq]` int32."""
    segments, size = mask.segments, mask.segments.shape[1]
    last = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (0, 1)), constant_values=True)
    place = jnp.arange(size, dtype=jnp.int32)
    end = lax.cummin(jnp.where(last, place, size), axis=1, reverse=True)
    return jnp.asarray(mask.positions) + end - place + 1


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: Mask,
    *,
    window: int | None = None,
    backend: str = "blocked",
    offset: jax.Array | int = 0,
    scale: float | None = None,
    softcap: float | None = None,
) -> jax.Array:
    """Softmax attention.

    Args:
        q: `[batch, queries, heads, head_dim]`.
        k, v: `[batch, seq, kv_heads, head_dim]`; `heads` is a multiple of `kv_heads`, neighbours share a KV head.
        mask: of the whole sequence.
        window: a token sees itself and `window - 1` earlier ones (Hugging Face's `sliding_window`), None for all.
        backend: `blocked` or `reference`.
        offset: place of the first query in the sequence, where a device holds a part of the queries.
        scale: the factor on scores, `head_dim ** -0.5` by default.
        softcap: c in `c * tanh(scores / c)`, before the mask; None for none.

    Returns:
        `[batch, queries, heads, head_dim]` in `q.dtype`. Rows of padding tokens are finite and meaningless.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if backend == "reference":
        return _reference(q, k, v, mask, window, offset, scale, softcap)
    batch, queries, heads, width = q.shape
    length, kv_heads = k.shape[1:3]
    # a part of the queries starts on a block border only if its length is whole blocks
    block = min(BLOCK, length) if queries == length else math.gcd(BLOCK, queries)

    def rows(x: jax.Array) -> jax.Array:  # [batch, heads, whole blocks, head_dim]
        return jnp.pad(x, ((0, 0), (0, -x.shape[1] % block), (0, 0), (0, 0))).transpose(0, 2, 1, 3)

    pad = -length % block
    grouped = rows(q).reshape(batch, kv_heads, heads // kv_heads, -1, width)
    segments = jnp.pad(mask.segments, ((0, 0), (0, pad)))
    first = first_visible(mask, window)
    first = jnp.pad(first, ((0, 0), (0, pad)), constant_values=length + pad)
    at = jnp.asarray(offset, jnp.int32)
    out = _blocked(grouped, rows(k), rows(v), segments, first, at, block, scale, softcap)
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, -1, heads, width)[:, :queries]


def first_visible(mask: Mask, window: int | None) -> jax.Array:
    """`[batch, seq]` index of the earliest key that each query sees; padding sees nothing."""
    index = jnp.arange(mask.segments.shape[1], dtype=jnp.int32)
    first = index - mask.positions
    if window is not None:
        first = jnp.maximum(first, index - (window - 1))
    return jnp.where(mask.segments > 0, first, mask.segments.shape[1])


def _reference(q, k, v, mask, window, offset, scale, softcap):
    group, index = q.shape[2] // k.shape[2], jnp.arange(k.shape[1])
    at = offset + jnp.arange(q.shape[1])
    seen = (jnp.asarray(mask.segments)[:, at][:, :, None] == mask.segments[:, None, :]) & (at[:, None] >= index)
    seen &= at[:, None] - index <= jnp.asarray(mask.positions)[:, at][:, :, None]
    if window is not None:
        seen &= at[:, None] - index < window
    k, v = jnp.repeat(k, group, axis=2), jnp.repeat(v, group, axis=2)
    scores = soft_cap(accumulate("bqhd,bkhd->bhqk", q, k) * scale, softcap)
    weights = jax.nn.softmax(jnp.where(seen[:, None], scores, NEGATIVE), axis=-1)
    return accumulate("bhqk,bkhd->bqhd", weights.astype(q.dtype), v).astype(q.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7, 8))
def _blocked(q, k, v, segments, first, offset, block, scale, softcap):
    """q [batch, kv, group, queries, d], k and v [batch, kv, seq, d], segments and first [batch, seq] -> like q."""
    return _blocked_forward(q, k, v, segments, first, offset, block, scale, softcap)[0]


def _blocked_forward(q, k, v, segments, first, offset, block, scale, softcap):
    row = functools.partial(_forward_row, offset=offset, block=block, scale=scale, softcap=softcap)
    out, lse = lax.map(row, (q, k, v, segments, first))
    # named so that a remat policy can keep them: recomputing them means running all of this again
    bits, lse = checkpoint_name(to_bits(out.astype(q.dtype)), "attention_out"), checkpoint_name(lse, "attention_lse")
    return from_bits(bits), (q, k, v, segments, first, bits, lse, offset)


def _blocked_backward(block, scale, softcap, saved, g):
    q, k, v, segments, first, bits, lse, offset = saved
    rows = (q, k, v, segments, first, from_bits(bits), lse, g)
    row = functools.partial(_backward_row, offset=offset, block=block, scale=scale, softcap=softcap)
    dq, dk, dv = lax.map(row, rows)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None, None, None


_blocked.defvjp(_blocked_forward, _blocked_backward)


def _take(x: jax.Array, start: jax.Array, size: int, axis: int) -> jax.Array:
    return lax.dynamic_slice_in_dim(x, start, size, axis)


def _key_blocks(first: jax.Array, at: jax.Array, block: int) -> tuple[jax.Array, jax.Array]:
    """Range of key blocks that the query block starting at `at` sees; empty for a block of padding."""
    return jnp.minimum(jnp.min(_take(first, at, block, 0)), at + block) // block, at // block + 1


def _loop(key_block, carry, first, at, block, keys):
    """`key_block(j, carry, whole)` over those of `keys` key blocks that the query block at `at` sees, in order.

    `whole` where every query sees every key of block j: between the blocks in which a segment or a window begins and
    the diagonal one. There the mask would hide nothing and is not made.
    """
    low, high = _key_blocks(first, at, block)
    if keys == 1:  # it is the diagonal one, and the other two loops would never run
        # a loop that XLA knows to run once it takes apart, and outside of loops it has not every product on a CPU
        low, high = lax.optimization_barrier((low, high))
        return lax.fori_loop(low, high, functools.partial(key_block, whole=False), carry)
    latest = jnp.max(_take(first, at, block, 0))  # of a block with padding beyond all keys, so that none is whole
    whole = jnp.clip(-(-latest // block), low, jnp.maximum(low, high - 1))
    for start, stop, sees_all in (
        (low, whole, False),
        (whole, high - 1, True),
        (jnp.maximum(whole, high - 1), high, False),
    ):
        carry = lax.fori_loop(start, stop, functools.partial(key_block, whole=sees_all), carry)
    return carry


def _visible(segments, first, at_q, at_k, block, group):
    """`[group * block, block]`: which keys each query of the block sees."""
    sq, sk = _take(segments, at_q, block, 0), _take(segments, at_k, block, 0)
    iq, ik = at_q + jnp.arange(block), at_k + jnp.arange(block)
    lowest = _take(first, at_q, block, 0)
    ok = (sq[:, None] == sk[None]) & (iq[:, None] >= ik[None]) & (ik[None] >= lowest[:, None])
    return jnp.tile(ok, (group, 1))


def _forward_row(row, offset, block, scale, softcap):
    q, k, v, segments, first = row
    kv, group, queries, width = q.shape

    def query_block(index):
        at = index * block
        qb = _take(q, at, block, 2).reshape(kv, group * block, width)

        def key_block(j, carry, whole):
            top, total, out = carry
            kb, vb = _take(k, j * block, block, 1), _take(v, j * block, block, 1)
            scores = soft_cap(accumulate("hqd,hkd->hqk", qb, kb) * scale, softcap)
            if not whole:
                seen = _visible(segments, first, offset + at, j * block, block, group)
                scores = jnp.where(seen, scores, NEGATIVE)
            new_top = jnp.maximum(top, scores.max(-1))
            weights = jnp.exp(scores - new_top[..., None]).astype(v.dtype)
            shrink = jnp.exp(top - new_top)
            out = out * shrink[..., None] + accumulate("hqk,hkd->hqd", weights, vb)
            return new_top, total * shrink + weights.sum(-1, dtype=jnp.float32), out

        start = (
            jnp.full((kv, group * block), NEGATIVE),
            jnp.zeros((kv, group * block)),
            jnp.zeros((kv, group * block, width)),
        )
        top, total, out = _loop(key_block, start, first, offset + at, block, k.shape[1] // block)
        total = jnp.maximum(total, 1e-30)  # blocks of padding visit no key
        return out / total[..., None], top + jnp.log(total)

    out, lse = lax.map(query_block, jnp.arange(queries // block))
    out = out.reshape(-1, kv, group, block, width).transpose(1, 2, 0, 3, 4)
    return out.reshape(q.shape), lse


def _backward_row(row, offset, block, scale, softcap):
    q, k, v, segments, first, out, lse, g = row
    kv, group, queries, width = q.shape
    delta = accumulate("hgtd,hgtd->hgt", g, out)

    def query_block(grads, index):
        at = index * block
        qb, gb = (_take(x, at, block, 2).reshape(kv, group * block, width) for x in (q, g))
        db = _take(delta, at, block, 2).reshape(kv, group * block)
        # dK and dV are kept transposed, [kv, head_dim, seq]: both products then contract the fast way round on CPU
        q_t, g_t = jnp.swapaxes(qb, 1, 2), jnp.swapaxes(gb, 1, 2)

        def key_block(j, carry, whole):
            dq, dk, dv = carry
            kb, vb = _take(k, j * block, block, 1), _take(v, j * block, block, 1)
            scores = soft_cap(accumulate("hqd,hkd->hqk", qb, kb) * scale, softcap)
            exponents = scores - lse[index][..., None]
            if not whole:
                seen = _visible(segments, first, offset + at, j * block, block, group)
                exponents = jnp.where(seen, exponents, NEGATIVE)
            weights = jnp.exp(exponents).astype(q.dtype)
            d_weights = accumulate("hqd,hkd->hqk", gb, vb)
            d_scores = weights * (d_weights - db[..., None]) * scale
            if softcap is not None:
                d_scores *= 1.0 - jnp.square(scores / softcap)  # tanh's own slope
            d_scores = d_scores.astype(q.dtype)
            dk_b = accumulate("hdq,hqk->hdk", q_t, d_scores)
            dv_b = accumulate("hdq,hqk->hdk", g_t, weights)
            dk = lax.dynamic_update_slice_in_dim(dk, _take(dk, j * block, block, 2) + dk_b, j * block, 2)
            dv = lax.dynamic_update_slice_in_dim(dv, _take(dv, j * block, block, 2) + dv_b, j * block, 2)
            return dq + accumulate("hqk,hkd->hqd", d_scores, kb), dk, dv

        start = (jnp.zeros((kv, group * block, width)), *grads)
        dq, dk, dv = _loop(key_block, start, first, offset + at, block, k.shape[1] // block)
        return (dk, dv), dq

    zeros = jnp.zeros((kv, width, k.shape[1]))
    (dk, dv), dq = lax.scan(query_block, (zeros, zeros), jnp.arange(queries // block))
    dq = dq.reshape(-1, kv, group, block, width).transpose(1, 2, 0, 3, 4).reshape(q.shape)
    return dq, jnp.swapaxes(dk, 1, 2), jnp.swapaxes(dv, 1, 2)

"""`model.lora.linear` by the native kernel: base and adapter in one sum, rounded once and never written as float32."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jora_engine.model import lora as xla
from jora_engine.model.dropout import Dropout
from jora_engine.model.native.calls import call
from jora_engine.model.ops import accumulate
from jora_engine.model.ops_cpu import from_bits, to_bits

OnRows = Callable[[Callable[..., jax.Array]], Callable[..., jax.Array]]
"""Runs a function of `[batch, seq, ...]` arrays and of matrices on each device's rows."""


def linear(
    x: jax.Array,
    names: Sequence[str],
    layer: Mapping[str, Any],
    lora: xla.Adapter,
    dropout: Dropout | None = None,
    *,
    on_rows: OnRows,
) -> list[jax.Array]:
    """`model.lora.linear`; what the kernel does not do goes there: dropout, packed weights, odd widths."""
    group = {name: lora[name] for name in names if name in lora}
    weights = {name: layer.get(name) for name in names}
    factors = [factor.astype(x.dtype) for ab in group.values() for factor in (ab["a"], ab["b"])]
    if (group and dropout is not None) or not all(_plain(x, w) for w in (*weights.values(), *factors)):
        return xla.linear(x, names, layer, lora, dropout)
    out = _adapted(x, weights, group, on_rows)
    return [out[name] + layer[f"{name}_bias"] if f"{name}_bias" in layer else out[name] for name in names]


def _plain(x: jax.Array, w: Any) -> bool:
    """Whether a weight of the base, or a factor of an adapter, is a matrix that the kernel multiplies with x."""
    whole = x.dtype == jnp.float32 or not any(size % 2 for size in getattr(w, "shape", ()))
    return isinstance(w, jax.Array) and (x.ndim, w.ndim) == (3, 2) and w.dtype == x.dtype and whole


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _adapted(x: jax.Array, weights: dict[str, jax.Array], lora: xla.Adapter, on_rows: OnRows) -> dict[str, jax.Array]:
    """`x @ w.T + (x @ a.T) @ b.T` for each of `weights`, summed in float32 and rounded once, both ways."""
    return _forward(x, weights, lora, on_rows)[0]


def _forward(x, weights, lora, on_rows):
    low = {}
    if lora:
        joined = accumulate("bti,ri->btr", x, _joined(lora, x.dtype)).astype(x.dtype)
        low = dict(zip(lora, jnp.split(joined, len(lora), axis=-1)))
    out = {}
    for name, w in weights.items():
        more = [low[name], lora[name]["b"].astype(x.dtype)] if name in lora else []
        out[name] = _sum(on_rows, w.shape[0], [x, w, *more], by_columns=False)
    return out, (x, weights, lora, low)


def _backward(on_rows, saved, g):
    # operands stay rank 3: XLA:CPU only takes its fast path for a weight gradient that contracts two dimensions
    x, weights, lora, low = saved
    g = {name: g[name].astype(x.dtype) for name in weights}
    pairs = [part for name, w in weights.items() for part in (g[name], w)]
    dw = {name: accumulate("bto,bti->oi", g[name], x).astype(w.dtype) for name, w in weights.items()}  # XLA drops these
    if not lora:
        return _sum(on_rows, x.shape[-1], pairs, by_columns=True), dw, {}
    d_low = {name: accumulate("bto,or->btr", g[name], ab["b"].astype(x.dtype)) for name, ab in lora.items()}
    joined = jnp.concatenate([d_low[name] for name in lora], axis=-1).astype(x.dtype)
    dx = _sum(on_rows, x.shape[-1], [*pairs, joined, _joined(lora, x.dtype)], by_columns=True)
    da = dict(zip(lora, jnp.split(accumulate("btr,bti->ri", joined, x), len(lora))))
    d_lora = {
        name: {
            "a": da[name].astype(ab["a"].dtype),
            # the narrow operand is transposed this way round; the barrier keeps the result's transpose out of the dot
            "b": jax.lax.optimization_barrier(accumulate("btr,bto->ro", low[name], g[name])).T.astype(ab["b"].dtype),
        }
        for name, ab in lora.items()
    }
    return dx, dw, d_lora


_adapted.defvjp(_forward, _backward)


def _joined(lora: xla.Adapter, dtype: jnp.dtype) -> jax.Array:
    """The A factors of a group as one matrix `[sum of ranks, in]`."""
    return jnp.concatenate([ab["a"].astype(dtype) for ab in lora.values()])


def _sum(on_rows: OnRows, width: int, pairs: list[jax.Array], *, by_columns: bool) -> jax.Array:
    """`[batch, seq, width]`, the sum of products of pairs: left `[batch, seq, depth]`, right `[width, depth]`, or
    `[depth, width]` with `by_columns`."""

    def run(*pairs):
        bits = [to_bits(part) for part in pairs]
        like = jax.ShapeDtypeStruct((*bits[0].shape[:2], width), bits[0].dtype)
        return from_bits(call("linear", (like,), *bits, by_columns=by_columns)[0])

    return on_rows(run)(*pairs)

"""A layer's arithmetic beside its attention, as a choice: as XLA compiles it, or by the native kernels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jora_engine.model.agreement import Valued, disagreement, drawn
from jora_engine.model.lora import linear
from jora_engine.model.native import calls
from jora_engine.model.native.linear import linear as native_linear
from jora_engine.model.ops import GATED, rms_norm
from jora_engine.model.sharding import Placement


class Arithmetic(NamedTuple):
    """Functions that compute the same, whichever they are.

    Attributes:
        norm: `ops.rms_norm(x, weight, eps, kind)`.
        gated: `ops.GATED`.
        linear: `lora.linear`.
    """

    norm: Callable[[jax.Array, jax.Array, float, str], jax.Array] = rms_norm
    gated: Mapping[str, Callable[[jax.Array, jax.Array], jax.Array]] = GATED
    linear: Callable[..., list[jax.Array]] = linear


PLAIN = Arithmetic()
"""As XLA compiles it."""


def arithmetic_with(backend: str, placement: Placement | None) -> Arithmetic:
    """For an attention back end. Kernels see whole channels: on a mesh that cuts these there are none."""
    if backend != "native" or (placement and placement.size("tensor") > 1):
        return PLAIN
    on_rows = placement.on_rows if placement else _as_it_is

    def norm(x: jax.Array, weight: jax.Array, eps: float, kind: str) -> jax.Array:
        if kind != "narrow":
            return rms_norm(x, weight, eps, kind)
        return on_rows(lambda x, weight: calls.rms_norm(x, weight, eps))(x, weight)

    return Arithmetic(norm, {**GATED, "silu": on_rows(calls.swiglu)}, functools.partial(native_linear, on_rows=on_rows))


def fault_beside_attention(dtype: str) -> str:
    """What is wrong with the native norm, activation and linear layers, by `disagreement` with XLA's; empty where they
    are right. Shapes that have every kind of tile."""
    width, inner, rank = 72, 136, 6
    shapes = [(2, 50, width), (rank, width), (inner, rank), (rank, inner), (width, rank)]
    shapes += [(width,), (inner, width), (inner, width), (width, inner)]
    arrays = [drawn(key, shape, dtype) for key, shape in zip(jax.random.split(jax.random.key(0), len(shapes)), shapes)]
    inputs, base = arrays[:5], dict(zip(("norm", "gate", "up", "down"), arrays[5:]))

    def valued(own: Arithmetic) -> Valued:
        def value(x: jax.Array, *factors: jax.Array) -> tuple[jax.Array, jax.Array]:
            layer = {name: weight.astype(x.dtype) for name, weight in base.items()}
            lora = {"gate": dict(zip("ab", factors)), "down": dict(zip("ab", factors[2:]))}
            gate, up = own.linear(own.norm(x, layer["norm"], 1e-5, "narrow"), ("gate", "up"), layer, lora)
            (out,) = own.linear(own.gated["silu"](gate / width, up), ("down",), layer, lora)
            out = out.astype(jnp.float32)
            return (out * jnp.sin(jnp.arange(out.size)).reshape(out.shape)).sum(), out

        return value

    names = ("norm, activation and linear layers: the output", "dX", "dA", "dB", "the last dA", "the last dB")
    return disagreement(dtype, inputs, valued(arithmetic_with("native", None)), valued(PLAIN), names)


def _as_it_is(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    return function

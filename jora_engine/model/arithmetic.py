"""A layer's arithmetic beside its attention, as a choice: as XLA compiles it, or by the native kernels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax

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


def _as_it_is(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    return function

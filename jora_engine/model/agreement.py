"""Whether a kernel computes, on this device, what the plain form of the same formula computes: values and gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

Valued = Callable[..., tuple[jax.Array, jax.Array]]
"""Arrays -> (the scalar that gradients are taken of, the result)."""


def disagreement(dtype: str, inputs: Sequence[jax.Array], tried: Valued, plain: Valued, names: Sequence[str]) -> str:
    """What is wrong with a kernel; empty where its result and its gradients are right.

    Right means: no further from the plain form in float32 than twice what the plain form is in the run's own dtype.

    Args:
        inputs: float32, of numbers that `dtype` holds exactly.
        names: of the result, and of the gradient of each input, for the message.
    """

    def run(dtype: str, function: Valued) -> list[np.ndarray]:
        step = jax.jit(jax.value_and_grad(function, argnums=tuple(range(len(inputs))), has_aux=True))
        (_, out), grads = step(*(x.astype(dtype) for x in inputs))
        return [np.asarray(x, np.float32) for x in (out, *grads)]

    try:
        numbers, exact, usual = run(dtype, tried), run("float32", plain), run(dtype, plain)
    except Exception as error:  # noqa: BLE001  kernels, drivers and compilers raise what they like
        return f"{type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''}"
    for name, a, b, c in zip(names, numbers, exact, usual, strict=True):
        size = np.abs(b).max()
        apart, allowed = np.abs(a - b).max(), 2 * np.abs(c - b).max() + 1e-3 * size
        if not apart <= allowed:  # NaN is wrong too
            return f"{name} is off by {apart / size:.1e} of its size, {allowed / size:.1e} is allowed"
    return ""


def drawn(key: jax.Array, shape: Sequence[int], dtype: str) -> jax.Array:
    """Normal numbers in float32 that `dtype` holds exactly, so that runs in both have the same."""
    return jax.random.normal(key, tuple(shape), jnp.float32).astype(dtype).astype(jnp.float32)

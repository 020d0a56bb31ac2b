"""A kernel is used only if it is right on this device: wrong ones and failing ones leave the blocked form."""

import dataclasses
import functools

import jax.numpy as jnp
import pytest

from jora_engine.model import attention_backends
from jora_engine.model.attention import Mask, attention
from jora_engine.model.attention_backends import (
    Shape,
    attend_with,
    choose,
    cudnn,
    cudnn_masked,
    fault,
    first_right,
    pallas,
)

SHAPE = Shape(rows=2, length=128, heads=4, kv_heads=2, head_dim=16, window=None, packed=True, dtype="float32")


def right(q, k, v, mask, window):
    return attention(q, k, v, mask, window=window, backend="reference")


def blind_to_segments(q, k, v, mask, window):
    index = jnp.broadcast_to(jnp.arange(q.shape[1], dtype=jnp.int32), mask.positions.shape)
    return right(q, k, v, Mask(jnp.ones_like(mask.segments), index), window)


def wrong_groups(q, k, v, mask, window):
    """Pairs query heads with KV heads the other way round, as a kernel that cannot do GQA might."""
    return right(q, k[:, :, ::-1], v[:, :, ::-1], mask, window)


def failing(q, k, v, mask, window):
    raise RuntimeError("no such engine\nat line 3")


@pytest.mark.slow
def test_a_wrong_and_a_failing_kernel_are_passed_over_with_the_reason():
    choice = first_right(SHAPE, {"failing": failing, "blind": blind_to_segments, "right": right})
    assert choice.backend == "right"
    assert "failing: RuntimeError: no such engine;" in choice.reason
    assert "blind: output is off by" in choice.reason


@pytest.mark.slow
def test_without_a_right_kernel_the_blocked_form_stays():
    choice = first_right(SHAPE, {"groups": wrong_groups, "failing": failing})
    assert choice.backend == "blocked"
    assert "groups: output is off by" in choice.reason


@pytest.mark.slow
def test_a_wrong_gradient_is_noticed():
    import jax

    @functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
    def kernel(q, k, v, mask, window):
        return right(q, k, v, mask, window)

    kernel.defvjp(
        lambda q, k, v, mask, window: (right(q, k, v, mask, window), (q, k, v)),
        lambda window, saved, g: (*(jnp.zeros_like(x) for x in saved), None),
    )
    assert fault(SHAPE, kernel).startswith("dQ is off by")


def test_on_a_cpu_there_is_nothing_to_choose():
    assert choose(SHAPE).backend == "blocked"


WIRED = {
    "cudnn: one segment a row": (functools.partial(cudnn, implementation="xla"), {"packed": False}),
    "cudnn: window": (functools.partial(cudnn, implementation="xla"), {"packed": False, "window": 5}),
    "cudnn_masked: segments": (functools.partial(cudnn_masked, implementation="xla"), {}),
    "cudnn_masked: segments and window": (functools.partial(cudnn_masked, implementation="xla"), {"window": 7}),
    "pallas: segments": (functools.partial(pallas, interpret=True), {"rows": 1}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WIRED)
def test_each_kernel_is_called_with_our_meaning(name):
    """The same calls with the implementation that runs here: masks, windows and grouped heads mean what ours mean."""
    kernel, changes = WIRED[name]
    assert fault(dataclasses.replace(SHAPE, **changes), kernel) == ""


@pytest.mark.slow
def test_a_kernel_refuses_what_it_cannot_do():
    windowed = dataclasses.replace(SHAPE, window=3)
    assert "no window" in fault(windowed, functools.partial(pallas, interpret=True))
    long = dataclasses.replace(SHAPE, length=attention_backends.MASKED_TOKENS + 128, rows=1, heads=2)
    assert "too large" in fault(long, cudnn_masked)


@pytest.mark.slow
def test_a_backend_has_the_signature_of_attention(monkeypatch):
    monkeypatch.setitem(attention_backends.KERNELS, "right", right)
    inputs, mask, _ = attention_backends._draw(SHAPE)
    ours, theirs = attend_with("right", None)(*inputs, mask), attend_with("blocked", None)(*inputs, mask)
    assert float(jnp.abs((ours - theirs) * (mask.segments > 0)[:, :, None, None]).max()) < 1e-5

"""Blocked attention computes what the plain reference computes: values and gradients, every mask, any length."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jora_engine.model.attention as attention_module
from jora_engine.model.attention import BLOCK, Mask, attention

pytestmark = pytest.mark.usefixtures("light_compilation")


def make_mask(lengths, total):
    """Segments of the given lengths, then padding."""
    segments, positions = np.zeros(total, np.int32), np.zeros(total, np.int32)
    at = 0
    for number, length in enumerate(lengths, 1):
        segments[at : at + length] = number
        positions[at : at + length] = np.arange(length)
        at += length
    positions[at:] = np.arange(total - at)
    return Mask(segments[None], positions[None])


def draw(seq, heads, kv_heads, width, dtype):
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = [(1, seq, heads, width), (1, seq, kv_heads, width), (1, seq, kv_heads, width)]
    return [jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes)]


CASES = {
    "one segment of whole blocks": ([2 * BLOCK], 2 * BLOCK, None),
    "one short segment": ([7], 7, None),
    "segments that cross blocks, then padding": ([100, 90, 170], 450, None),
    "blocks of padding only": ([40], 4 * BLOCK, None),
    "window shorter than a block": ([300], 300, 5),
    "window longer than a block, segments": ([200, 250], 500, 140),
}


MIXED = "segments that cross blocks, then padding"


@pytest.mark.slow
@pytest.mark.parametrize(("case", "heads", "kv_heads"), [*((c, 6, 2) for c in CASES), (MIXED, 2, 2), (MIXED, 3, 1)])
def test_blocked_equals_reference(case, heads, kv_heads):
    lengths, total, window = CASES[case]
    mask = make_mask(lengths, total)
    q, k, v = draw(total, heads, kv_heads, 16, jnp.float32)
    blocked, reference = (
        values_and_gradients(q, k, v, mask, window=window, backend=backend) for backend in ("blocked", "reference")
    )
    for ours, theirs in zip(blocked, reference, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=5e-5)


def values_and_gradients(q, k, v, mask, **options):
    real = (mask.segments > 0)[:, :, None, None]
    weight = jax.random.normal(jax.random.key(1), q.shape) * real  # padding carries no gradient in training either

    def value(q, k, v):
        out = attention(q, k, v, mask, **options)
        return (out * weight).sum(), out * real

    return jax.tree.leaves(jax.jit(jax.value_and_grad(value, argnums=(0, 1, 2), has_aux=True))(q, k, v))


@pytest.mark.slow
def test_a_scale_and_a_softcap_are_those_of_the_reference_and_bite():
    mask = make_mask([100, 90, 170], 450)
    q, k, v = draw(450, 4, 2, 16, jnp.float32)
    options = {"scale": 0.7, "softcap": 1.5}
    blocked = values_and_gradients(q, k, v, mask, **options)
    for ours, theirs in zip(blocked, values_and_gradients(q, k, v, mask, backend="reference", **options), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=5e-5)
    scores = 1.5 * np.tanh(0.7 * np.einsum("qd,kd->qk", q[0, :3, 0], k[0, :3, 0]) / 1.5)
    weights = np.exp(scores[2]) / np.exp(scores[2]).sum()
    np.testing.assert_allclose(attention(q, k, v, mask, **options)[0, 2, 0], weights @ v[0, :3, 0], rtol=1e-4)


@pytest.mark.slow
def test_a_window_can_be_told_by_the_mask_s_positions():
    mask = make_mask([200, 250], 500)
    q, k, v = draw(500, 2, 2, 16, jnp.float32)
    narrow = mask._replace(positions=np.minimum(mask.positions, 139))
    for backend in ("blocked", "reference"):
        told = values_and_gradients(q, k, v, narrow, backend=backend)
        for ours, theirs in zip(told, values_and_gradients(q, k, v, mask, window=140, backend=backend), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_window_counts_the_token_itself():
    q, k, v = draw(4, 1, 1, 8, jnp.float32)
    seen = attention(q, k, v, make_mask([4], 4), window=1)
    np.testing.assert_allclose(seen, v, rtol=1e-6)  # a window of one token is that token's own value


@pytest.mark.parametrize("lengths", [[20, 30], [100], [BLOCK], [300, 200]], ids=str)
@pytest.mark.slow
def test_bfloat16_stays_near_float32(lengths):
    """Also in rows of a single block, where loops that never ran made XLA meet a product that it has not on a CPU."""
    used = sum(lengths)
    mask = make_mask(lengths, used + -used % 8)
    inputs = draw(used + -used % 8, 6, 2, 64, jnp.float32)
    run = jax.jit(functools.partial(values_and_gradients, mask=mask))
    full, half = run(*inputs), run(*(x.astype(jnp.bfloat16) for x in inputs))
    for one, other in zip(full[1:], half[1:], strict=True):  # output and gradients
        assert other.dtype == jnp.bfloat16
        largest = jnp.abs(one).max()
        assert float(jnp.abs(one - other)[:, :used].max() / largest) < 0.03


@pytest.mark.slow
def test_the_compiled_form_holds_no_whole_score_matrix():
    total = 8 * BLOCK
    q, k, v = draw(total, 2, 1, 16, jnp.float32)
    mask = make_mask([total], total)
    step = jax.jit(jax.grad(lambda q: attention(q, k, v, mask).sum()))
    text = step.lower(q).compile().as_text()
    assert f"{total},{total}]" not in text


@pytest.mark.parametrize("case", CASES)
@pytest.mark.slow
def test_the_mask_is_left_out_of_just_those_key_blocks_that_every_query_sees_whole(case):
    lengths, total, window = CASES[case]
    block = min(BLOCK, total)
    pad = -total % block
    first = np.asarray(attention_module.first_visible(make_mask(lengths, total), window))[0]
    first = np.pad(first, (0, pad), constant_values=total + pad)
    for at in range(0, total + pad, block):
        visits = attention_module._loop(
            lambda j, visits, whole: visits.at[j].set(visits[j] + (10 if whole else 1)),
            jnp.zeros((total + pad) // block, jnp.int32),
            jnp.asarray(first),
            jnp.asarray(at),
            block,
            (total + pad) // block,
        )
        sees = (first[at : at + block, None] <= np.arange(total + pad)) & (
            np.arange(at, at + block)[:, None] >= np.arange(total + pad)
        )
        sees = sees.reshape(block, -1, block)
        for j, visit in enumerate(np.asarray(visits)):
            assert visit in (0, 1, 10)
            assert (visit == 10) == sees[:, j].all()
            assert visit or not sees[:, j].any()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.slow
def test_without_a_mask_where_it_hides_nothing_all_bits_stay(dtype, monkeypatch):
    mask = make_mask([3 * BLOCK + 40, 2 * BLOCK + 3], 6 * BLOCK)
    inputs = draw(6 * BLOCK, 6, 2, 16, dtype)
    run = functools.partial(values_and_gradients, *inputs, mask, window=2 * BLOCK + 9)
    ours = jax.jit(run)()

    def masked(key_block, carry, first, at, block, keys):
        bounds = attention_module._key_blocks(first, at, block)
        return jax.lax.fori_loop(*bounds, functools.partial(key_block, whole=False), carry)

    monkeypatch.setattr(attention_module, "_loop", masked)
    for a, b in zip(ours, jax.jit(lambda: run())(), strict=True):
        np.testing.assert_array_equal(a, b)

"""Over a key/value cache the native kernels give what XLA gives, and a row what it gets alone."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jora_engine.model.kv_cache import PromptCache, ReplyCache, Stretch, stored
from jora_engine.model.ops_cpu import to_bits

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("kernels")]

SHAPES = {  # heads, KV heads, channels of a head, options
    "as SmolLM2": (9, 3, 64, {}),
    "more heads to a KV head than are computed at one time": (8, 1, 32, {}),
    "channels that are no whole vectors, a window": (4, 2, 40, {"window": 70}),
    "wide heads, a scale and a cap": (2, 1, 136, {"scale": 0.2, "softcap": 5.0}),
}
ROWS, COLUMNS, STEPS = 3, 512, 8
SEGMENTS = (0, 128, 256, COLUMNS)


CASES = pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, marks=() if (number + (dtype == "bfloat16")) % 4 == 2 else pytest.mark.wide)
        for number, name in enumerate(SHAPES)
        for dtype in ("float32", "bfloat16")
    ],
)
"""A window in float32 and one shape in bfloat16 always, the others where there is time."""


def numbers(name, dtype, queries):
    """q, the segments and what was decoded since, with numbers of the dtype, and the options."""
    heads, kv_heads, width, options = SHAPES[name]
    shapes = [(ROWS, queries, heads, width), *((ROWS, kv_heads, n, width) for n in (COLUMNS, COLUMNS, STEPS, STEPS))]
    keys = jax.random.split(jax.random.key(0), 5)
    q, k, v, new_k, new_v = (jax.random.normal(key, shape).astype(dtype) for key, shape in zip(keys, shapes))
    return q, Stretch(k.swapaxes(2, 3), v), Stretch(new_k.swapaxes(2, 3), new_v), {**asked(), **options}


def for_xla(stretch):
    return stored(stretch, jnp.dtype("float32"))


def for_kernels(stretch):
    return Stretch(*map(to_bits, stretch))


def asked():
    return {"window": None, "scale": None, "softcap": None}


def cut(whole, ends=SEGMENTS):
    return tuple(Stretch(whole.k[..., a:b], whole.v[:, :, a:b]) for a, b in itertools.pairwise(ends))


def close(ours, theirs, exact, dtype):
    """In float32 the same to its rounding; else as near to float32 as XLA's form."""
    ours, theirs, exact = (np.asarray(x, np.float32) for x in (ours, theirs, exact))
    allowed = 2e-6 if dtype == "float32" else 2 * np.abs(theirs - exact).max() + 1e-3
    assert np.abs(ours - exact).max() <= allowed


@CASES
def test_a_part_of_a_prompt_attends_as_xla_s_form_does(name, dtype):
    q, whole, _, options = numbers(name, dtype, 128)
    for start, row in ((0, 0), (128, 1), (192, 2), (384, 2)):
        one, positions = q[row : row + 1], start + jnp.arange(128)[None]
        cache = PromptCache(cut(for_xla(whole)), jnp.int32(row), jnp.int32(start))
        theirs = cache.attention(one, positions, **options)
        exact = cache.attention(one.astype(jnp.float32), positions, **options)
        ours = cache._replace(native=True, segments=cut(for_kernels(whole))).attention(one, positions, **options)
        assert (ours.shape, ours.dtype) == (theirs.shape, jnp.dtype(dtype))
        close(ours, theirs.astype(dtype), exact, dtype)


@CASES
def test_a_reply_attends_as_xla_s_form_does(name, dtype):
    q, whole, recent, options = numbers(name, dtype, 1)
    for start, step in (([0, 128, 500], 0), ([77, 300, 64], 7)):
        start = jnp.asarray(start, jnp.int32)
        cache = ReplyCache(cut(for_xla(whole)), for_xla(recent), start, jnp.int32(step))
        theirs = cache.attention(q, start[:, None] + step, **options)
        native = ReplyCache(cut(for_kernels(whole)), for_kernels(recent), start, jnp.int32(step), native=True)
        ours = native.attention(q, start[:, None] + step, **options)
        # both sum in float32 all the way
        close(ours.reshape(theirs.shape), theirs, theirs, "float32")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if "window" in name else pytest.mark.wide) for name in SHAPES]
)
def test_a_row_s_numbers_depend_on_nothing_but_what_it_sees(name):
    q, whole, recent, options = numbers(name, "float32", 1)
    start = jnp.asarray([77, 300, 150], jnp.int32)

    def reply(segments, q=q, recent=recent, busy=None):
        cache = ReplyCache(segments, recent, start, jnp.int32(3), busy, native=True)
        return np.asarray(cache.attention(q, start[:, None] + 3, **options))

    want = reply(cut(whole))
    np.testing.assert_array_equal(reply(cut(whole, (0, 128, 256, 384)))[0], want[0])  # a narrower cache
    unseen = np.arange(COLUMNS) >= np.asarray(start)[:, None]
    spoilt = Stretch(
        jnp.where(unseen[:, None, None], jnp.nan, whole.k), jnp.where(unseen[:, None, :, None], jnp.nan, whole.v)
    )
    later = (np.arange(STEPS) > 3)[None, None]
    new = Stretch(jnp.where(later[:, :, None], jnp.nan, recent.k), jnp.where(later[..., None], jnp.nan, recent.v))
    np.testing.assert_array_equal(reply(cut(spoilt), recent=new), want)
    others = reply(cut(whole), q=q.at[1:].set(jnp.nan), busy=jnp.asarray([True, False, False]))
    np.testing.assert_array_equal(others[0], want[0])
    np.testing.assert_array_equal(others[1:], 0)


def test_tokens_after_a_while_are_read_from_the_cache_as_they_were_from_the_steps():
    q, whole, recent, options = numbers("as SmolLM2", "float32", 1)
    start = jnp.asarray([120, 128, 300], jnp.int32)
    before = ReplyCache(cut(whole), recent, start, jnp.int32(STEPS - 1), native=True)
    k, v = np.array(whole.k), np.array(whole.v)
    for row, at in enumerate(np.asarray(start)):
        k[row, :, :, at : at + STEPS], v[row, :, at : at + STEPS] = recent.k[row], recent.v[row]
    after = ReplyCache(
        cut(Stretch(jnp.asarray(k), jnp.asarray(v))), recent, start + STEPS - 1, jnp.int32(0), native=True
    )
    last = Stretch(recent.k[..., STEPS - 1 :], recent.v[:, :, STEPS - 1 :])
    positions = start[:, None] + STEPS - 1
    np.testing.assert_array_equal(
        before.attention(q, positions, **options), after._replace(recent=last).attention(q, positions, **options)
    )

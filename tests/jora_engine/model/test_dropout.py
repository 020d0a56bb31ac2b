"""Dropout of an adapter's input: the right share, independent from place to place and step to step, exact gradients."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jora_engine.model.dropout import bits, drop, dropout
from jora_engine.model.lora import linear

SHAPE = (2, 256, 192)


def salt(number):
    return dropout(jax.random.key(number), 0.5).salt


def kept(rate, number=0, shape=SHAPE):
    return np.asarray(drop(jnp.ones(shape), dropout(jax.random.key(number), rate))) > 0


def assert_share(flags, share, deviations=4.5):
    """The mean of independent draws lies within some deviations of its expectation."""
    spread = (share * (1 - share) / flags.size) ** 0.5
    assert abs(flags.mean() - share) < deviations * spread, (flags.mean(), share, spread)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.slow
def test_the_rate_is_the_share_that_is_dropped_and_the_rest_is_scaled(rate):
    x = jnp.asarray(np.random.default_rng(0).normal(size=SHAPE), jnp.float32) + 10.0
    y = np.asarray(drop(x, dropout(jax.random.key(0), rate)))
    assert_share(y == 0, rate)
    np.testing.assert_allclose(y[y != 0], (np.asarray(x) / (1 - rate))[y != 0], rtol=1e-6)


def test_every_one_of_the_32_bits_is_even_and_free_of_the_others():
    words = np.asarray(bits(salt(0), SHAPE)).ravel()
    flags = (words[:, None] >> np.arange(32, dtype=np.uint32)) & 1
    for bit in range(32):
        assert_share(flags[:, bit], 0.5)
    for one, other in itertools.combinations(range(0, 32, 3), 2):
        assert_share(flags[:, one] == flags[:, other], 0.5)
    counts = np.bincount(words >> 24, minlength=256)  # what a threshold of a rate looks at
    expected = words.size / 256
    assert ((counts - expected) ** 2 / expected).sum() < 255 + 5 * (2 * 255) ** 0.5  # chi-square, 255 degrees


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_masks_of_neighbours_and_of_other_keys_agree_as_often_as_chance_has_it(rate):
    chance = rate**2 + (1 - rate) ** 2
    mask = kept(rate)
    assert_share(mask[:, 1:] == mask[:, :-1], chance)  # a row and the next
    assert_share(mask[..., 1:] == mask[..., :-1], chance)  # a column and the next
    assert_share(mask[0] == mask[1], chance)  # a sequence and the next
    for number in range(1, 6):
        assert_share(mask == kept(rate, number), chance)
    folded = [jax.random.fold_in(jax.random.key(0), layer) for layer in range(4)]
    layers = [np.asarray(drop(jnp.ones(SHAPE), dropout(key, rate))) > 0 for key in folded]
    for one, other in itertools.combinations(layers, 2):
        assert_share(one == other, chance)


def test_no_row_is_a_shifted_copy_of_another():
    mask = kept(0.5).reshape(-1, SHAPE[-1])
    width = SHAPE[-1] - 24
    rows = {}
    for number, row in enumerate(mask):
        for shift in range(24):
            window = row[shift : shift + width].tobytes()
            assert rows.setdefault(window, number) == number


def test_the_same_key_gives_the_same_mask_in_any_program():
    mask = dropout(jax.random.key(7), 0.3)
    x = jnp.ones(SHAPE)
    np.testing.assert_array_equal(drop(x, mask), jax.jit(lambda x, m: drop(x * 1.0, m))(x, mask))
    assert not np.array_equal(drop(x, mask), drop(x, dropout(jax.random.key(8), 0.3)))


def test_none_drops_nothing():
    x = jnp.arange(6.0).reshape(1, 2, 3)
    assert drop(x, None) is x


@pytest.fixture
def case():
    """(x, a layer of two weights, their adapter) of random numbers."""
    rng = np.random.default_rng(1)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    layer = {"q": draw(12, 16), "k": draw(8, 16)}
    lora = {"q": {"a": draw(4, 16), "b": draw(12, 4)}, "k": {"a": draw(4, 16), "b": draw(8, 4)}}
    return draw(2, 5, 16), layer, lora


@pytest.mark.slow
def test_output_and_gradients_are_those_of_the_formula(case):
    x, layer, lora = case
    mask = dropout(jax.random.key(3), 0.4)
    factor = drop(jnp.ones_like(x), mask)  # 0 or 1 / (1 - rate)

    def plain(x, lora):
        return [x @ layer[n].T + ((x * factor) @ lora[n]["a"].T) @ lora[n]["b"].T for n in layer]

    def ours(x, lora):
        return linear(x, ("q", "k"), layer, lora, mask)

    def loss(function):
        return lambda x, lora: sum((y**3).sum() for y in function(x, lora))

    for one, other in zip(ours(x, lora), plain(x, lora), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    got, want = (jax.grad(loss(f), argnums=(0, 1))(x, lora) for f in (ours, plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-2), got, want)


def test_on_average_nothing_changes(case):
    x, layer, lora = case
    masks = [dropout(jax.random.key(i), 0.3) for i in range(400)]
    several = jax.jit(lambda mask: linear(x, ("q",), layer, lora, mask)[0])
    draws = np.stack([np.asarray(several(mask)) for mask in masks])
    (whole,) = linear(x, ("q",), layer, lora)
    error = draws.std(axis=0) / len(masks) ** 0.5
    assert (np.abs(draws.mean(axis=0) - whole) < 5 * error).all()


def test_only_the_adapter_s_part_is_dropped(case):
    x, layer, _ = case
    np.testing.assert_array_equal(
        linear(x, ("q",), layer, {}, dropout(jax.random.key(0), 0.5))[0], linear(x, ("q",), layer, {})[0]
    )

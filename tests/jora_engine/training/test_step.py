"""A step is a function of its arguments: micro batches add up, and a step that is given up costs nothing."""

import jax
import numpy as np
import optax
import pytest

from jora_engine.config.architecture import ModelConfig
from jora_engine.config.lora import LoraConfig
from jora_engine.model.lora import init_lora
from jora_engine.model.parameters import untrained_params
from jora_engine.training.packing import Example, make_batch
from jora_engine.training.step import StepOptions, TrainState, Weights, train_step

MODEL = ModelConfig("llama", 96, 32, 56, 2, 4, 2, 8)
OPTIONS = StepOptions(MODEL, LoraConfig(rank=2, alpha=4.0), "names", "blocked", None)
OPTIMIZER = optax.adam(1e-2)
LENGTHS = ((9, 5), (4, 1), (7, 8), (3, 2))


def case(rows):
    """(state, micro batches of those rows, their weights)."""
    rng = np.random.default_rng(0)
    examples = [Example(*(rng.integers(3, 96, n).astype(np.int32) for n in pair)) for pair in LENGTHS]
    batches = [make_batch(examples, part, 32, 64) for part in rows]
    lora = init_lora(OPTIONS.lora, MODEL, 0)
    state = OPTIONS.place(TrainState(lora, OPTIMIZER.init(lora), jax.tree.map(np.copy, lora)))
    tokens = np.float32(sum(batch.supervision.weight.sum() for batch in batches))
    return state, batches, Weights(tokens, tokens)


@pytest.fixture(scope="module")
def params():
    return untrained_params(MODEL, 0, "float32")


def step(params, state, batches, weights):
    return train_step(state, params, batches, weights, jax.random.key(0), OPTIMIZER, OPTIONS)


@pytest.mark.slow
def test_micro_batches_of_unequal_token_counts_are_one_large_batch(params):
    parted, taken = step(params, *case([[[0], [1]], [[2], [3]]]))
    whole, expected = step(params, *case([[[0], [1], [2], [3]]]))
    np.testing.assert_allclose(taken, expected, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), parted.lora, whole.lora)


def test_a_step_that_is_given_up_between_micro_batches_leaves_its_state_whole(params):
    rows = [[[0], [1]], [[2], [3]]]
    state, batches, weights = case(rows)

    def interrupted():
        yield batches[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        step(params, state, interrupted(), weights)
    again, _ = step(params, state, batches, weights)
    fresh, _ = step(params, *case(rows))
    jax.tree.map(np.testing.assert_array_equal, again.lora, fresh.lora)

"""Programs for devices that are not here are laid out for those, and what is compiled for here afterwards for here."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jora_engine.config.architecture import ModelConfig
from jora_engine.config.lora import LoraConfig
from jora_engine.config.recipe import TrainConfig
from jora_engine.model.ops_cpu import to_bits
from jora_engine.model.target import compiling_for, is_here, platform
from jora_engine.training.loop import Trainer
from jora_engine.training.packing import Example
from jora_engine.training.plan import abstract_params, plan

SMALL = ModelConfig("llama", 96, 32, 56, 2, 2, 2, 16)
TRAIN = TrainConfig(micro_batch_rows=1, sequence_length=32, max_steps=1, remat="layer")


def trainer():
    rows = [Example(np.zeros(20, np.int32), np.zeros(4, np.int32))] * 4
    return Trainer(abstract_params(SMALL, "bfloat16", None), SMALL, LoraConfig(rank=2), TRAIN, rows)


def test_a_layout_goes_by_the_platform_that_is_compiled_for_and_no_trace_is_left():
    held = jax.jit(to_bits)
    x = jnp.ones(3, "bfloat16")
    assert held(x).dtype == "uint16"
    with compiling_for("gpu"):
        assert (platform(), is_here()) == ("gpu", False)
        assert jax.eval_shape(held, x).dtype == "bfloat16"
    assert (platform(), is_here()) == ("cpu", True)
    assert held(x).dtype == "uint16"


def test_another_platform_is_left_after_a_failure_too():
    with pytest.raises(ZeroDivisionError), compiling_for("gpu"):
        1 / 0  # noqa: B018
    assert is_here()


@pytest.mark.slow
def test_a_step_for_another_platform_holds_plain_arrays_and_takes_the_attention_that_needs_no_check():
    with compiling_for("gpu"):
        away = trainer()
        assert {leaf.dtype.name for leaf in jax.tree.leaves(away.params)} == {"bfloat16"}
        assert away.backend.backend == "blocked"
        assert "not here" in away.backend.reason
        assert plan(away).compiled_for == "gpu"
    here = trainer()
    assert "uint16" in {leaf.dtype.name for leaf in jax.tree.leaves(here.params)}
    assert "not here" not in here.backend.reason
    assert dataclasses.replace(here.options, backend="blocked") == away.options, "they would share a trace"
    assert plan(here).compiled_for == "cpu"

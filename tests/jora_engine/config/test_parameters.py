"""The declaration of the parameters is what transformers and PEFT know of each family."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
from transformers import AutoModelForCausalLM

from jora_engine.config.architecture import ModelConfig
from jora_engine.config.parameters import linear_layers, parameters, parameters_by_name
from jora_engine.files.weights import read_model_config
from jora_engine.model.parameters import leaf_of, param_shapes, parameter_total, untrained_params
from jora_engine.model.sharding import RULES

MODEL = ModelConfig("qwen2", 96, 32, 56, 3, 4, 2, 8, qkv_bias=True)


def hf_names(parameter, model):
    return [parameter.hf_name(layer) for layer in (range(model.num_layers) if parameter.per_layer else [None])]


def test_names_and_shapes_are_those_of_transformers(any_model):
    model = read_model_config(any_model)
    theirs = AutoModelForCausalLM.from_pretrained(any_model)
    declared = {name: p.shape for p in parameters(model) for name in hf_names(p, model)}
    assert declared == {name: tuple(value.shape) for name, value in theirs.named_parameters()}
    assert parameter_total(model) == sum(value.numel() for value in theirs.parameters())


def test_what_may_carry_an_adapter_is_what_peft_takes_for_all_linear(any_model):
    model = read_model_config(any_model)
    adapted = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(any_model), peft.LoraConfig(r=2, target_modules="all-linear")
    )
    factors = {name: tuple(value.shape) for name, value in adapted.named_parameters() if "lora_" in name}
    ours = {}
    for parameter in linear_layers(model).values():
        rows, columns = parameter.shape
        for layer in range(model.num_layers):
            ours[f"base_model.model.{parameter.module(layer)}.lora_A.default.weight"] = (2, columns)
            ours[f"base_model.model.{parameter.module(layer)}.lora_B.default.weight"] = (rows, 2)
    assert ours == factors


@pytest.mark.parametrize("model", [MODEL, dataclasses.replace(MODEL, family="qwen3", qkv_bias=False, qk_norm=True)])
def test_each_dimension_has_an_axis_that_the_mesh_knows_and_each_name_stands_once(model):
    for parameter in parameters(model):
        assert len(parameter.axes) == len(parameter.shape)
        assert {axis for axis in parameter.axes if axis} <= RULES.keys()
        assert parameter.lora <= (len(parameter.shape) == 2)
    assert len(parameters_by_name(model)) == len(parameters(model))


@pytest.mark.slow
@pytest.mark.parametrize("bits", [False, True])
def test_an_untrained_model_has_the_declared_beginnings(bits):
    shapes, params = param_shapes(MODEL, bits=bits), untrained_params(MODEL, 0, bits=bits)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(lambda x: (x.shape, x.dtype), shapes)
    held = {p.name: leaf_of(params, p) for p in parameters(MODEL)}
    value = {name: x.view(jnp.bfloat16) if x.dtype == jnp.uint16 else x for name, x in held.items()}
    assert (value["post_norm"] == 1).all()
    assert (value["k_bias"] == 0).all()
    np.testing.assert_allclose(np.std(value["down"].astype(np.float32)), 56**-0.5, rtol=0.05)
    assert not np.array_equal(value["gate"], value["up"])

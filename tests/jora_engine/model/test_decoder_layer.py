"""One decoder layer for training, prefill and decoding: with a cache it computes what it computes over the sequence."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from jora_engine.files.weights import read_model_config
from jora_engine.generation.decode import prepare_layer
from jora_engine.model.attention import Mask
from jora_engine.model.attention_backends import attend_with
from jora_engine.model.decoder import decoder_layer
from jora_engine.model.kv_cache import PromptCache, ReplyCache, attend_cached, new_cache
from jora_engine.model.lora import linear
from jora_engine.model.parameters import untrained_params
from jora_engine.model.rope_table import layer_table

pytestmark = pytest.mark.usefixtures("light_compilation")

LENGTH = 12


def one_layer(config, number=0):
    params = untrained_params(config, 1, "float32")
    return {name: value[number] for name, value in params["layers"].items()}


@pytest.fixture
def case(any_layer, model_folder):
    """(config, a layer's parameters, its input, its output over the whole sequence), of the second layer."""
    config = read_model_config(model_folder(any_layer))
    layer, kind = one_layer(config, 1), config.layer_kinds[1]
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, LENGTH, config.hidden_size), np.float32))
    positions = np.arange(LENGTH, dtype=np.int32)[None]
    mask = Mask(np.ones_like(positions), positions)
    mix = attend_with("reference", kind.window, config.attention_scale, config.attention_softcap)
    rope = layer_table(kind.rope, config.head_dim, positions, None)
    whole, cache = decoder_layer(x, layer, {}, rope, lambda q, k, v, cache: (mix(q, k, v, mask), cache), config)
    assert cache is None
    return config, layer, x[0], whole[0]


def run(config, layer, x, positions, cache):
    kind = config.layer_kinds[1]
    rope = layer_table(kind.rope, config.head_dim, positions, None)
    scale, softcap = config.attention_scale, config.attention_softcap
    attend = functools.partial(attend_cached, positions=positions, window=kind.window, scale=scale, softcap=softcap)
    return decoder_layer(x, layer, {}, rope, attend, config, cache=cache)


@pytest.mark.parametrize("fused", [False, True], ids=["as trained", "q, k and v as one matrix"])
@pytest.mark.slow
def test_chunks_of_a_prompt_and_single_tokens_after_it_give_what_the_whole_sequence_gives(case, fused):
    config, layer, x, whole = case
    layer = prepare_layer(layer, jnp.concatenate) if fused else layer
    assert ("q" in layer) is not (fused or config.fused)
    ((segment,),) = [layer[:1] for layer in new_cache(config, 1, 128, jnp.float32)[:1]]
    cache, out = PromptCache((segment,), jnp.int32(0), jnp.int32(0)), []
    for start, end in ((0, 4), (4, 7)):
        positions = jnp.arange(start, end, dtype=jnp.int32)[None]
        y, cache = run(config, layer, x[start:end], positions, cache._replace(start=jnp.int32(start)))
        out.append(y)
    recent = new_cache(config, 1, 8, jnp.float32)[0][0]
    reply = ReplyCache(cache.segments, recent, jnp.asarray([7], jnp.int32), jnp.int32(0))
    for step, at in enumerate(range(7, LENGTH)):
        y, reply = run(config, layer, x[at : at + 1], jnp.asarray([[at]], jnp.int32), reply._replace(step=step))
        out.append(y)
    np.testing.assert_allclose(jnp.concatenate(out), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_linear_layers_joined_into_one_matrix_are_the_same_layers(model_folder):
    layer = one_layer(read_model_config(model_folder("qwen2")))
    layer |= {f"{name}_bias": jnp.arange(layer[name].shape[0], dtype=jnp.float32) for name in "qkv"}
    x = jnp.asarray(np.random.default_rng(1).standard_normal((5, layer["q"].shape[1]), np.float32))
    fused = prepare_layer(layer, jnp.concatenate)
    for names in (("q", "k", "v"), ("gate", "up"), ("o",)):
        given = x if names != ("o",) else jnp.ones((5, layer["o"].shape[1]))
        for one, other in zip(linear(given, names, layer, {}), linear(given, names, fused, {}), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)

"""Norms, activations and factors round where transformers rounds, in bfloat16 as well as in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm, GemmaTextScaledWordEmbedding
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm

from jora_engine.config.architecture import ModelConfig
from jora_engine.model.decoder import embed
from jora_engine.model.ops import geglu, rms_norm, scaled, soft_cap, swiglu

KINDS = {"narrow": LlamaRMSNorm, "wide": Olmo2RMSNorm, "one_plus": GemmaRMSNorm}


def draw(*shape, seed=0):
    """A bfloat16 tensor and the same array."""
    values = np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)
    tensor = torch.tensor(values).bfloat16()
    return tensor, jnp.asarray(tensor.float().numpy(), jnp.bfloat16)


def same(ours, theirs):
    np.testing.assert_array_equal(np.asarray(ours, np.float32), theirs.detach().float().numpy())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_a_norm_has_the_bits_of_transformers(kind):
    x, ours = draw(64, 48)
    weight, w = draw(48, seed=1)
    theirs = KINDS[kind](48, eps=1e-6).bfloat16()
    theirs.weight.data = weight
    same(rms_norm(ours, w, 1e-6, kind), theirs(x))


def test_the_kinds_of_norm_are_not_the_same_in_bfloat16():
    (_, x), (_, w) = draw(64, 48), draw(48, seed=1)
    narrow, wide = (np.asarray(rms_norm(x, w, 1e-6, kind), np.float32) for kind in ("narrow", "wide"))
    assert not np.array_equal(narrow, wide)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_a_norm_is_that_of_its_formula(kind):
    x, w, g = (jnp.asarray(np.random.default_rng(s).normal(0, 1, shape), jnp.float32) for s, shape in
               ((0, (5, 12)), (1, (12,)), (2, (5, 12))))  # fmt: skip

    def formula(x, w):
        normed = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)
        return ((w + (kind == "one_plus")) * normed * g).sum()

    ours = jax.grad(lambda x, w: (rms_norm(x, w, 1e-6, kind) * g).sum(), argnums=(0, 1))(x, w)
    for one, other in zip(ours, jax.grad(formula, argnums=(0, 1))(x, w), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("ours", "name"), [(swiglu, "silu"), (geglu, "gelu_pytorch_tanh")])
def test_a_gated_activation_is_that_of_transformers(ours, name):
    (gate, g), (up, u) = draw(32, 40), draw(32, 40, seed=1)
    theirs = transformers.activations.ACT2FN[name](gate) * up
    np.testing.assert_allclose(np.asarray(ours(g, u), np.float32), theirs.float().numpy(), rtol=2**-7, atol=1e-3)


def test_gemma_rounds_the_factor_of_its_embeddings_to_their_dtype_first():
    table, ours = draw(10, 3072)
    tokens = np.arange(10)
    theirs = GemmaTextScaledWordEmbedding(10, 3072, 0, embed_scale=3072**0.5).bfloat16()
    theirs.weight.data = table
    config = ModelConfig("gemma", 10, 3072, 8, 1, 1, 1, 8, embedding_scale=3072**0.5, embedding_scale_rounded=True)
    same(embed({"embed": ours}, tokens, config), theirs(torch.tensor(tokens)))
    assert float(embed({"embed": jnp.ones((1, 3072), jnp.bfloat16)}, tokens[:1], config)[0, 0]) == 55.5


def test_a_factor_is_applied_in_float32_as_torch_applies_a_number():
    x, ours = draw(50, 40)
    same(scaled(ours, 0.22), x * 0.22)
    assert scaled(ours, 1.0) is ours


def test_a_softcap_keeps_values_within_it():
    x = jnp.asarray([-1000.0, -1.0, 0.0, 1.0, 1000.0])
    np.testing.assert_allclose(soft_cap(x, 30.0), 30 * np.tanh(np.asarray(x) / 30), rtol=1e-6)
    assert soft_cap(x, None) is x

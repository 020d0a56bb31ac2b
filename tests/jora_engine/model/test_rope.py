"""Every RoPE variant equals transformers' own table."""

import numpy as np
import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from jora_engine.config.rope import RopeConfig
from jora_engine.model.rope_table import inv_freq, rope_table
from raft_errors import BadInput

HEAD_DIM = 32
VARIANTS = {
    "linear": {"factor": 4.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 64},
    "yarn mscale": {
        "factor": 8.0,
        "original_max_position_embeddings": 64,
        "mscale": 0.7,
        "mscale_all_dim": 1.3,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
        "truncate": False,
    },
    "longrope": {
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "short_factor": [1.0 + i / 40 for i in range(HEAD_DIM // 2)],
        "long_factor": [2.0 + i / 7 for i in range(HEAD_DIM // 2)],
    },
}


def hf_config(name, theta=500000.0):
    parameters = {"rope_theta": theta, "rope_type": name.split()[0], **VARIANTS.get(name, {})}
    return transformers.LlamaConfig(
        hidden_size=4 * HEAD_DIM,
        num_attention_heads=4,
        head_dim=HEAD_DIM,
        max_position_embeddings=256,
        rope_parameters=parameters,
    )


@pytest.mark.parametrize("seq_len", [None, 50, 300, 1000])
@pytest.mark.parametrize("name", list(VARIANTS))
def test_inverse_frequencies_equal_transformers(name, seq_len):
    config = hf_config(name)
    want, want_factor = ROPE_INIT_FUNCTIONS[name.split()[0]](config, "cpu", seq_len=seq_len)
    got, factor = inv_freq(RopeConfig.from_hf(config.to_dict()), HEAD_DIM, seq_len)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want.numpy(), rtol=3e-7)
    assert factor == pytest.approx(want_factor, rel=1e-12)


@pytest.mark.parametrize("name", ["default", *VARIANTS])
def test_cos_and_sin_equal_transformers(name):
    config = hf_config(name, theta=10000.0)
    module = LlamaRotaryEmbedding(config)
    positions = torch.arange(64)[None]
    cos, sin = module(torch.zeros(1, 64, HEAD_DIM), positions)
    got_cos, got_sin = rope_table(RopeConfig.from_hf(config.to_dict()), HEAD_DIM, positions.numpy())
    assert got_cos.shape == (1, 64, HEAD_DIM // 2)
    np.testing.assert_allclose(got_cos, cos[..., : HEAD_DIM // 2].numpy(), atol=1e-5)
    np.testing.assert_allclose(got_sin, sin[..., HEAD_DIM // 2 :].numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ["default", *VARIANTS])
def test_both_forms_of_config_json_and_the_written_form_read_the_same(name):
    modern = hf_config(name).to_dict()
    rope = RopeConfig.from_hf(modern)
    old = {k: v for k, v in modern["rope_parameters"].items() if k != "rope_theta"}
    old["type"] = old.pop("rope_type")
    legacy = {"max_position_embeddings": 256, "rope_theta": 500000.0, "rope_scaling": old}
    assert RopeConfig.from_hf(legacy) == rope
    assert RopeConfig.from_hf({"max_position_embeddings": 256, "rope_parameters": rope.to_hf()}) == rope


@pytest.mark.parametrize(
    "bad",
    [
        {"rope_parameters": {"rope_type": "mrope", "rope_theta": 1e4}},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}},
        {"rope_theta": 0.5},
        {"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": []}, "max_position_embeddings": 9},
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
        {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
    ],
)
def test_unusable_rope_parameters_are_refused(bad):
    with pytest.raises(BadInput):
        RopeConfig.from_hf(bad)

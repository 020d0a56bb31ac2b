"""RoPE kinds that go by a sequence's length: each sequence its own, packed or alone, in training and in generation."""

import jax
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from jora_engine.config.rope import RopeConfig
from jora_engine.files.weights import load_params, read_model_config
from jora_engine.generation.generator import Generator
from jora_engine.model.attention import Mask, segment_lengths
from jora_engine.model.decoder import forward, head_matrix
from jora_engine.model.rope_table import inv_freq, rope_table

PRETRAINED, HEAD_DIM = 16, 8
KINDS = {
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "longrope": {
        "rope_type": "longrope",
        "factor": 4.0,
        "original_max_position_embeddings": PRETRAINED,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [1.5, 2.5, 4.0, 6.0],
    },
}


@pytest.fixture(params=list(KINDS))
def folder(request, model_folder, tokenizer_folder):
    """A model of that kind with a tokenizer, whose own range is 16 tokens."""
    model = AutoModelForCausalLM.from_pretrained(model_folder("llama"))
    torch.manual_seed(1)
    model.resize_token_embeddings(416, mean_resizing=False)
    model.get_input_embeddings().weight.data.normal_(0, 0.3)
    model.get_output_embeddings().weight.data.normal_(0, 0.3)
    kind = KINDS[request.param]
    model.config.max_position_embeddings = PRETRAINED if request.param == "dynamic" else 4 * PRETRAINED
    model.config.rope_parameters = {"rope_theta": 10000.0, **kind}
    model.save_pretrained(tokenizer_folder)
    assert read_model_config(tokenizer_folder).rope.kind == request.param
    return tokenizer_folder


def theirs(folder, tokens):
    """transformers' logits of one sequence, in a model that has seen no longer one."""
    with torch.no_grad():
        return (
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(torch.tensor([tokens])).logits[0].numpy()
        )


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.slow
def test_each_position_has_the_angles_of_its_own_length(kind):
    config = {"max_position_embeddings": 64, "rope_parameters": {"rope_theta": 10000.0, **KINDS[kind]}}
    rope = RopeConfig.from_hf(config)
    lengths = np.array([[3, 16, 17, 64, 65, 1000]])
    cos, sin = rope_table(rope, HEAD_DIM, np.full(lengths.shape, 7), lengths)
    for place, length in enumerate(lengths[0]):
        rates, factor = inv_freq(rope, HEAD_DIM, int(length))
        np.testing.assert_allclose(cos[0, place], np.cos(7 * rates) * factor, atol=2e-6)
        np.testing.assert_allclose(sin[0, place], np.sin(7 * rates) * factor, atol=2e-6)


def test_a_segment_is_as_long_as_its_tokens():
    segments = np.array([[1, 1, 1, 2, 3, 3, 0, 0]], np.int32)
    positions = np.array([[0, 1, 2, 0, 0, 1, 0, 1]], np.int32)
    assert jax.jit(segment_lengths)(Mask(segments, positions)).tolist() == [[3, 3, 3, 1, 2, 2, 2, 2]]


@pytest.mark.slow
def test_short_and_long_sequences_packed_in_a_row_are_what_transformers_makes_of_each(folder):
    config = read_model_config(folder)
    params = load_params(folder, config, "float32")
    sizes = (5, 40, 16, 17)
    tokens = np.random.default_rng(0).integers(3, 400, (1, sum(sizes))).astype(np.int32)
    segments = np.repeat(np.arange(1, len(sizes) + 1, dtype=np.int32), sizes)[None]
    positions = np.concatenate([np.arange(n, dtype=np.int32) for n in sizes])[None]
    found = np.asarray(forward(params, {}, tokens, Mask(segments, positions), config) @ head_matrix(params).T)[0]
    for number in range(len(sizes)):
        own = segments[0] == number + 1
        np.testing.assert_allclose(found[own], theirs(folder, tokens[0, own].tolist()), atol=2e-4, rtol=2e-4)


@pytest.mark.slow
def test_prompts_of_either_length_give_the_logits_and_first_tokens_of_transformers(folder):
    prompts = [list(range(3, 3 + size)) for size in (4, 16, 17, 30)]
    generator = Generator(folder, dtype="float32", max_rows=4)
    logits, first_tokens = generator.logits(prompts), generator.generate(prompts, max_new_tokens=1)
    for prompt, ours, made in zip(prompts, logits, first_tokens, strict=True):
        want = theirs(folder, prompt)
        np.testing.assert_allclose(ours, want, atol=2e-4, rtol=2e-4)
        first = int(want[-1].argmax())
        assert list(made.token_ids) == ([] if first == 2 else [first])

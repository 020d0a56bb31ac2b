"""llama.cpp itself loads what is written for it and answers as the engine does, token for token.

Runs where the extra `llama-cpp` is installed (a wheel that holds llama.cpp).
"""

import json

import numpy as np
import pytest
import torch
import transformers

from jora_engine.adapters.gguf_adapter import write_gguf_adapter
from jora_engine.adapters.merged_model import write_merged
from jora_engine.adapters.peft_folder import write_adapter
from jora_engine.config.lora import LoraConfig
from jora_engine.files.gguf_writer import write_gguf
from jora_engine.files.weights import read_model_config
from jora_engine.generation.generator import Generator
from jora_engine.generation.llama_cpp import ask_llama_cpp, available
from jora_engine.generation.llama_cpp_check import compare_with_llama_cpp
from jora_engine.model.lora import init_lora
from raft_errors import RaftError

CHATS = [
    [{"role": "user", "content": "hi, it's 2024;  we'll see 3.14\n\nnaïve 漢字"}],
    [{"role": "user", "content": "def f(x):\n    return x ** 2"}],
]
BOS_FIRST = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


def needs_llama_cpp():
    if not available():
        pytest.skip("llama.cpp is not installed: pip install 'jora-raft[llama-cpp]'")


@pytest.fixture
def folder(tokenizer_folder):
    """`folder(LlamaConfig, ...)`: a random model whose chats the tokenizer of these tests writes."""

    def make(kind, **options):
        config = kind(
            **{
                "vocab_size": 420,
                "hidden_size": 64,
                "intermediate_size": 96,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "max_position_embeddings": 512,
                "bos_token_id": 1,
                "eos_token_id": 2,
                "pad_token_id": 2,
                **options,
            }
        )
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.normal_(0.0, weight.shape[-1] ** -0.5) if "norm" not in name else weight.uniform_(0.5, 1.5)
        model.save_pretrained(tokenizer_folder)
        return tokenizer_folder

    return make


def random_adapter(model, config, out):
    """Factors that change what the model says."""
    rng = np.random.default_rng(0)
    lora = {
        name: {"a": pair["a"], "b": rng.normal(0, 0.1, pair["b"].shape).astype(np.float32)}
        for name, pair in init_lora(config, model, 0).items()
    }
    write_adapter(out, lora, config, model, "base")
    return lora


def greedy(generator, prompts, count):
    return [list(one.token_ids) for one in generator.generate(prompts, max_new_tokens=count)]


LLAMA3 = {
    "rope_theta": 500.0,
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
GEMMA3 = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 6, "num_hidden_layers": 6}
FAMILIES = {  # with the tokens that are compared: llama.cpp takes Gemma's GELU from a float16 table
    "llama": (transformers.LlamaConfig, {"tie_word_embeddings": True}, 12),
    "llama3": (transformers.LlamaConfig, {"head_dim": 32, "rope_parameters": LLAMA3}, 12),
    "qwen2": (transformers.Qwen2Config, {}, 12),
    "qwen3": (transformers.Qwen3Config, {"head_dim": 32}, 12),
    "gemma3": (transformers.Gemma3TextConfig, GEMMA3, 5),
}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_base_adapter_and_merged_model_give_the_engine_s_tokens(family, folder, tmp_path):
    needs_llama_cpp()
    kind, options, count = FAMILIES[family]
    base = folder(kind, **options)
    model, config = read_model_config(base), LoraConfig(rank=4, alpha=12.0)
    lora = random_adapter(model, config, tmp_path / "adapter")
    write_merged(base, lora, config, model, tmp_path / "merged", dtype="float32")
    engine = Generator(base, adapter=tmp_path / "adapter", dtype="float32")
    prompts = [engine.tokenizer.apply_chat_template(chat, add_generation_prompt=True) for chat in CHATS]
    wanted, plain = greedy(engine, prompts, count), greedy(Generator(base, dtype="float32"), prompts, count)
    assert wanted != plain
    write_gguf(base, tmp_path / "base.gguf")
    write_gguf(tmp_path / "merged", tmp_path / "merged.gguf")
    write_gguf_adapter(tmp_path / "adapter", model, tmp_path / "adapter.gguf")
    for file, adapter in (("base", tmp_path / "adapter.gguf"), ("merged", None)):
        got = ask_llama_cpp(tmp_path / f"{file}.gguf", CHATS, prompts, adapter=adapter, new_tokens=count, threads=1)
        assert got.rendered == prompts
        assert got.counted == [len(prompt) for prompt in prompts]
        assert [one[: len(ours)] for one, ours in zip(got.continued, wanted, strict=True)] == wanted


@pytest.mark.slow
def test_a_template_that_writes_bos_gives_one_bos(folder, tmp_path):
    """The tokenizer puts BOS before a text and the template writes it too: every chat begins with one, not two."""
    needs_llama_cpp()
    base = folder(transformers.LlamaConfig)
    (base / "chat_template.jinja").write_text(BOS_FIRST)
    spec = json.loads((base / "tokenizer.json").read_text())
    bos = {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    spec["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [bos, text],
        "pair": [bos, text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}},
    }
    (base / "tokenizer.json").write_text(json.dumps(spec))
    engine = Generator(base, dtype="float32")
    prompts = [engine.tokenizer.apply_chat_template(chat, add_generation_prompt=True) for chat in CHATS]
    assert engine.tokenizer.encode("a")[0] == 1
    assert all(prompt[0] == 1 and prompt[1] != 1 for prompt in prompts)
    got = ask_llama_cpp(write_gguf(base, tmp_path / "base.gguf"), CHATS, prompts, new_tokens=4, threads=1)
    assert got.rendered == prompts
    assert got.counted == [len(prompt) for prompt in prompts]


@pytest.mark.slow
def test_the_check_tells_an_adapter_that_llama_cpp_reads_otherwise(folder, tmp_path, monkeypatch):
    needs_llama_cpp()
    base = folder(transformers.LlamaConfig)
    model, config = read_model_config(base), LoraConfig(rank=4, alpha=12.0)
    random_adapter(model, config, tmp_path / "adapter")
    right = compare_with_llama_cpp(base, tmp_path / "adapter", CHATS, new_tokens=6, threads=1)
    assert right.agree
    assert (right.chats, right.same_prompts) == (2, 2)

    def halves(config, name, values):  # as if the two halves of a head were not interleaved
        return values

    monkeypatch.setattr("jora_engine.adapters.gguf_adapter.to_gguf", halves)
    wrong = compare_with_llama_cpp(base, tmp_path / "adapter", CHATS, new_tokens=6, threads=1)
    assert not wrong.agree
    assert wrong.same_answers < 2


@pytest.mark.slow
def test_a_file_that_llama_cpp_does_not_load_is_told(tmp_path):
    needs_llama_cpp()
    (tmp_path / "broken.gguf").write_bytes(b"GGUF but not")
    with pytest.raises(RaftError, match="did not answer"):
        ask_llama_cpp(tmp_path / "broken.gguf", [], [[1]], threads=1)


def test_without_the_extra_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr("jora_engine.generation.llama_cpp.available", lambda: False)
    with pytest.raises(RaftError, match=r"jora-raft\[llama-cpp\]"):
        ask_llama_cpp(tmp_path / "base.gguf", [], [])

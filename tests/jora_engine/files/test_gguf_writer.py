"""A folder written as GGUF and read again is the folder; what has no form in GGUF is refused by name."""

import json
import shutil

import gguf
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file

from jora_engine.adapters.gguf_adapter import write_gguf_adapter
from jora_engine.adapters.peft_folder import write_adapter
from jora_engine.config.lora import LoraConfig
from jora_engine.files.gguf import convert
from jora_engine.files.gguf_writer import write_gguf
from jora_engine.files.tokenizer import Tokenizer
from jora_engine.files.weights import read_model_config
from jora_engine.model.lora import init_lora
from raft_errors import BadInput

LLAMA3 = {
    "rope_theta": 5e5,
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
FULL, SLIDING = "full_attention", "sliding_attention"
GEMMA3 = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 6, "num_hidden_layers": 6}
MODELS = {
    "llama": (transformers.LlamaConfig, {"tie_word_embeddings": True}),
    "llama3": (transformers.LlamaConfig, {"head_dim": 64, "rope_parameters": LLAMA3}),
    "linear": (
        transformers.LlamaConfig,
        {"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 4.0}},
    ),
    "qwen2": (transformers.Qwen2Config, {}),
    "qwen3": (transformers.Qwen3Config, {"head_dim": 32, "tie_word_embeddings": True}),
    "gemma3": (transformers.Gemma3TextConfig, GEMMA3),
}


@pytest.fixture
def folder(tokenizer_folder):
    """`folder(LlamaConfig, ...)`: a random model with the tokenizer of these tests."""

    def make(kind=transformers.LlamaConfig, **options):
        sizes = {
            "vocab_size": 420,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 2,
        }
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(kind(**{**sizes, **options}))
        with torch.no_grad():
            for weight in model.parameters():
                weight.normal_(0.5, 0.2)
        model.save_pretrained(tokenizer_folder)
        return tokenizer_folder

    return make


@pytest.mark.parametrize("name", MODELS)
def test_what_is_written_is_read_again(name, folder, tmp_path, texts):
    kind, options = MODELS[name]
    source = folder(kind, **options)
    config = convert(write_gguf(source, tmp_path / "m.gguf"), tmp_path / "again", dtype="float32")
    assert config == read_model_config(source)
    want, got = load_file(source / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    assert set(want) == set(got)
    for key, value in want.items():
        # Gemma's norms hold 1 more in GGUF, which costs them their last bits
        torch.testing.assert_close(got[key], value, rtol=0, atol=2e-7 if name == "gemma3" and "norm" in key else 0)
    before, after = Tokenizer.load(source), Tokenizer.load(tmp_path / "again")
    for text in texts:
        assert after.encode(text) == before.encode(text)
    chat = [{"role": "user", "content": "hi <|im_end|>"}]
    assert after.apply_chat_template(chat, True) == before.apply_chat_template(chat, True)
    assert after.eos_ids == before.eos_ids


@pytest.mark.parametrize(("dtype", "kind"), [("bfloat16", "BF16"), ("float16", "F16")])
def test_matrices_take_the_dtype_asked_for_and_norms_stay_float32(dtype, kind, folder, tmp_path):
    source = folder()
    reader = gguf.GGUFReader(write_gguf(source, tmp_path / "m.gguf", dtype))
    kinds = {t.name: t.tensor_type.name for t in reader.tensors}
    assert kinds["blk.1.ffn_up.weight"] == kinds["token_embd.weight"] == kind
    assert kinds["blk.1.ffn_norm.weight"] == kinds["output_norm.weight"] == "F32"
    convert(tmp_path / "m.gguf", tmp_path / "again", dtype="float32")
    want, got = load_file(source / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    rounded = want["model.layers.1.mlp.up_proj.weight"].to(getattr(torch, dtype)).float()
    assert torch.equal(got["model.layers.1.mlp.up_proj.weight"], rounded)


def test_the_same_folder_gives_the_same_bytes_and_no_part_of_a_file(folder, tmp_path):
    source = folder()
    files = [write_gguf(source, tmp_path / "out" / f"{name}.gguf") for name in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.gguf", "b.gguf"]


@pytest.mark.slow
def test_an_adapter_s_factors_and_scale_are_those_of_the_folder(folder, tmp_path):
    model, config = read_model_config(folder()), LoraConfig(rank=4, alpha=6.0, layers_to_transform=(1,))
    rng = np.random.default_rng(0)
    lora = {n: {"a": p["a"], "b": rng.normal(size=p["b"].shape)} for n, p in init_lora(config, model, 0).items()}
    write_adapter(tmp_path / "adapter", lora, config, model, "base")
    reader = gguf.GGUFReader(write_gguf_adapter(tmp_path / "adapter", model, tmp_path / "a.gguf"))
    meta = {name: field.contents() for name, field in reader.fields.items()}
    assert (meta["general.type"], meta["adapter.type"], meta["adapter.lora.alpha"]) == ("adapter", "lora", 6.0)
    tensors = {t.name: np.asarray(t.data) for t in reader.tensors}
    assert len(tensors) == 2 * 7  # of layer 1 alone
    assert np.array_equal(tensors["blk.1.ffn_up.weight.lora_b"], np.asarray(lora["up"]["b"][1], np.float32))
    assert np.array_equal(tensors["blk.1.attn_q.weight.lora_a"], np.asarray(lora["q"]["a"][1]))
    heads = np.asarray(lora["q"]["b"][1], np.float32).reshape(4, 2, 4, 4)  # a head's two halves are interleaved
    assert np.array_equal(tensors["blk.1.attn_q.weight.lora_b"], heads.swapaxes(1, 2).reshape(32, 4))


def test_an_adapter_whose_scale_llama_cpp_would_misread_is_refused(folder, tmp_path):
    model, config = read_model_config(folder()), LoraConfig(rank=4, alpha=6.0)
    write_adapter(tmp_path / "adapter", init_lora(config, model, 0), config, model, "base")
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({**settings, "use_rslora": True}))
    with pytest.raises(BadInput, match="rsLoRA"):
        write_gguf_adapter(tmp_path / "adapter", model, tmp_path / "a.gguf")


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        (transformers.MistralConfig, {"sliding_window": 8}, "sliding window"),
        (transformers.Olmo2Config, {}, "olmo2"),
        (
            transformers.LlamaConfig,
            {"rope_parameters": {"rope_theta": 1e4, "rope_type": "dynamic", "factor": 2.0}},
            "dynamic",
        ),
        (transformers.Gemma3TextConfig, {**GEMMA3, "query_pre_attn_scalar": 8}, "another form"),
        (transformers.Gemma3TextConfig, {**GEMMA3, "layer_types": [FULL, *[SLIDING] * 5]}, "another form"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(kind, options, named, folder, tmp_path):
    source = folder(kind, **options)
    with pytest.raises(BadInput, match=named):
        write_gguf(source, tmp_path / "m.gguf")
    assert not list(tmp_path.glob("*.gguf*"))


def test_a_tokenizer_that_splits_in_a_way_of_its_own_is_refused(folder, tmp_path):
    source = folder()
    backend = tokenizers.Tokenizer.from_file(str(source / "tokenizer.json"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [tokenizers.pre_tokenizers.CharDelimiterSplit("e"), tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.save(str(source / "tokenizer.json"))
    with pytest.raises(BadInput, match="split text"):
        write_gguf(source, tmp_path / "m.gguf")


def test_a_sentencepiece_vocabulary_keeps_its_tokens(folder, tmp_path, texts):
    sentencepiece = pytest.importorskip("sentencepiece")
    corpus = tmp_path / "c.txt"
    corpus.write_text("\n".join([*texts, *(f"Line {i} of the text, {i * i}." for i in range(200))]))
    sentencepiece.SentencePieceTrainer.Train(
        f"--input={corpus} --model_prefix={tmp_path}/sp --vocab_size=340 --model_type=bpe --byte_fallback=true "
        "--normalization_rule_name=identity --remove_extra_whitespaces=false --minloglevel=2"
    )
    source = folder()
    (source / "tokenizer.json").unlink()
    shutil.copyfile(tmp_path / "sp.model", source / "tokenizer.model")
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "chat_template": "{{ messages }}"}
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    for name in ("special_tokens_map.json", "chat_template.jinja"):
        (source / name).unlink(missing_ok=True)
    convert(write_gguf(source, tmp_path / "m.gguf"), tmp_path / "again")
    before, after = Tokenizer.load(source), Tokenizer.load(tmp_path / "again")
    for text in texts:
        assert after.encode(text) == before.encode(text)
    meta = {n: f.contents() for n, f in gguf.GGUFReader(tmp_path / "m.gguf").fields.items()}
    scores, model = meta["tokenizer.ggml.scores"], sentencepiece.SentencePieceProcessor(str(tmp_path / "sp.model"))
    merged = [i for i in range(model.GetPieceSize()) if scores[i] < 0]
    theirs = sorted(merged, key=model.GetScore)
    assert sorted(merged, key=scores.__getitem__) == theirs  # the order in which llama.cpp merges
    assert meta["tokenizer.ggml.token_type"][model.PieceToId("<0x0A>")] == 6


def test_weights_in_shards_are_read_one_by_one(folder, tmp_path):
    source = folder()
    whole = write_gguf(source, tmp_path / "whole.gguf").read_bytes()
    tensors = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    names = sorted(tensors)
    index = {}
    for number, part in enumerate((names[:5], names[5:]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, source / file)
        index |= dict.fromkeys(part, file)
    (source / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    assert write_gguf(source, tmp_path / "shards.gguf").read_bytes() == whole

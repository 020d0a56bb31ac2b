"""A GGUF file becomes a Hugging Face folder with the same weights, tokens and chat prompts."""

import json
import os
import random
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from tokenizers.pre_tokenizers import ByteLevel

from jora_engine.config.architecture import ModelConfig
from jora_engine.files.gguf import convert, keep_blocks
from jora_engine.files.gguf_tokenizer import build_tokenizer, tokenizer_config
from jora_engine.files.tokenizer import Tokenizer
from raft_errors import BadInput

CHATML = "{{ messages[0].content + '<|im_end|>' }}{% if add_generation_prompt %}{{ 'go' }}{% endif %}"
Q = gguf.GGMLQuantizationType


def write_gguf(
    folder: Path, out: Path, tokenizer, *, arch="llama", quantise=lambda name: Q.F32, change=None, extra=lambda w: None
):
    """A GGUF file of a saved model as llama.cpp would write it: q and k permuted, blocks quantised."""
    config = json.loads((folder / "config.json").read_text())
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(str(out), arch)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    spec = json.loads(tokenizer.to_str())
    tokens = [t for t, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    tokens += [f"unused{i}" for i in range(config["vocab_size"] - len(tokens))]
    special = {t["content"] for t in spec["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if t in special else 1 for t in tokens])
    writer.add_token_merges([" ".join(m) for m in spec["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHATML)
    extra(writer)
    kind = gguf.MODEL_ARCH.QWEN3 if arch == "qwen3" else gguf.MODEL_ARCH.LLAMA
    names = gguf.get_tensor_name_map(kind, config["num_hidden_layers"])  # llama.cpp's own
    for key, value in load_file(folder / "model.safetensors").items():
        stem = key.rpartition(".")[0]
        name = names.get_name(key, (".weight", ".bias"))
        array = value.float().numpy()
        count = {"q_proj": heads, "k_proj": kv}.get(stem.rsplit(".", 1)[-1])
        if count and arch == "llama":
            rows = array.reshape(count, 2, head_dim // 2, *array.shape[1:])
            array = np.swapaxes(rows, 1, 2).reshape(array.shape)
        if change:
            name, array = change(name, array)
        kind = Q.F32 if array.ndim == 1 else quantise(name)
        data = array if kind == Q.F32 else gguf.quants.quantize(array, kind)
        writer.add_tensor(name, np.ascontiguousarray(data), raw_dtype=None if kind == Q.F32 else kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


@pytest.fixture
def wide_model(tmp_path):
    """Random models whose widths are multiples of 32, as quantisation blocks need."""

    def make(kind=transformers.LlamaConfig, **options):
        config = kind(
            vocab_size=416,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=2,
            **options,
        )
        torch.manual_seed(0)
        folder = tmp_path / "hf"
        model = transformers.AutoModelForCausalLM.from_config(config)
        for name, weight in model.named_parameters():
            weight.data.normal_(1.0 if "norm" in name else 0.0, 0.1)
        model.save_pretrained(folder)
        return folder

    return make


@pytest.mark.parametrize(
    ("arch", "kind", "options"),
    [
        ("llama", transformers.LlamaConfig, {"tie_word_embeddings": True}),
        ("llama", transformers.LlamaConfig, {"tie_word_embeddings": False, "head_dim": 32}),
        ("qwen2", transformers.Qwen2Config, {}),
        ("qwen3", transformers.Qwen3Config, {"head_dim": 32, "tie_word_embeddings": True}),
    ],
)
def test_unquantised_weights_come_back_exactly(arch, kind, options, wide_model, bpe, tmp_path):
    folder = wide_model(kind, **options)
    written = write_gguf(folder, tmp_path / "m.gguf", bpe, arch=arch)
    config = convert(written, tmp_path / "out", dtype="float32")
    want, got = load_file(folder / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert set(want) == set(got)
    for name, value in want.items():
        assert torch.equal(value, got[name]), name
    original = ModelConfig.from_hf(json.loads((folder / "config.json").read_text()))
    assert config == original == ModelConfig.from_hf(json.loads((tmp_path / "out" / "config.json").read_text()))
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(model).__name__.lower().startswith(arch)


def mixed(name):
    return Q.Q8_0 if name == "token_embd.weight" else Q.Q5_0 if "attn_v" in name else Q.Q4_1


def test_quantised_weights_are_what_transformers_reads_from_the_same_file(wide_model, bpe, tmp_path):
    file = write_gguf(wide_model(tie_word_embeddings=True), tmp_path / "m.gguf", bpe, quantise=mixed)
    convert(file, tmp_path / "full", dtype="float32")
    convert(file, tmp_path / "half")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32)
    full = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "full", dtype=torch.float32)
    half = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype=torch.float32)
    for name, value in theirs.state_dict().items():
        assert torch.equal(value, full.state_dict()[name]), name
        assert torch.equal(value.to(torch.bfloat16).float(), half.state_dict()[name]), name
    ids = torch.arange(40)[None] % 400
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, full(ids).logits, rtol=0, atol=0)


def test_tokens_and_chat_prompts_survive(wide_model, bpe, tmp_path, texts):
    convert(write_gguf(wide_model(), tmp_path / "m.gguf", bpe), tmp_path / "out")
    ours = Tokenizer.load(tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in texts:
        assert ours.encode(text) == theirs.encode(text) == bpe.encode(text).ids
        assert ours.decode(ours.encode(text)) == text
    assert ours.render([{"role": "user", "content": "hi"}], True) == "hi<|im_end|>go"
    assert ours.eos_ids == (2,)
    assert theirs.all_special_ids == [1, 2]


@pytest.mark.parametrize(
    ("pre", "told", "begins"),
    [
        ("llama-bpe", None, True),
        ("tekken", None, True),
        ("smollm", None, False),
        ("qwen2", None, False),
        ("llama-bpe", False, False),
        ("qwen2", True, True),
    ],
)
def test_a_text_begins_as_in_llama_cpp_where_the_file_does_not_say(pre, told, begins):
    letters = [*ByteLevel.alphabet()]
    meta = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": ["<s>", "</s>", *letters],
        "tokenizer.ggml.token_type": [3, 3, *(1 for _ in letters)],
        "tokenizer.ggml.merges": [],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }
    meta |= {} if told is None else {"tokenizer.ggml.add_bos_token": told}
    assert (build_tokenizer(meta).encode("a").ids[0] == 0) is begins
    assert tokenizer_config(meta, 64)["add_bos_token"] is begins


def test_the_same_file_gives_the_same_bytes(wide_model, bpe, tmp_path):
    file = write_gguf(wide_model(), tmp_path / "m.gguf", bpe)
    for name in "ab":
        convert(file, tmp_path / name)
    for first in sorted((tmp_path / "a").iterdir()):
        assert first.read_bytes() == (tmp_path / "b" / first.name).read_bytes(), first.name


def test_llama3_scaling_is_found_from_its_table(wide_model, bpe, tmp_path):
    rope = {
        "rope_theta": 5e5,
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    folder = wide_model(head_dim=64, rope_parameters=rope)
    original = ModelConfig.from_hf(json.loads((folder / "config.json").read_text()))
    plain, scaled = (5e5 ** -(np.arange(0, 64, 2) / 64)).astype(np.float32), None
    from jora_engine.model.rope_table import inv_freq

    scaled, _ = inv_freq(original.rope, 64)
    table = (plain / scaled).astype(np.float32)
    file = write_gguf(folder, tmp_path / "m.gguf", bpe, extra=lambda w: w.add_tensor("rope_freqs.weight", table))
    assert convert(file, tmp_path / "out").rope == original.rope
    file = write_gguf(folder, tmp_path / "n.gguf", bpe, extra=lambda w: w.add_tensor("rope_freqs.weight", table * 3))
    with pytest.raises(BadInput, match="RoPE factors"):
        convert(file, tmp_path / "out2")


def test_a_sentencepiece_vocabulary_is_rebuilt(tmp_path, texts):
    sentencepiece = pytest.importorskip("sentencepiece")
    corpus = tmp_path / "c.txt"
    corpus.write_text("\n".join([*texts, *(f"Line {i} of the text, {i * i}." for i in range(200))]))
    sentencepiece.SentencePieceTrainer.Train(
        f"--input={corpus} --model_prefix={tmp_path}/sp --vocab_size=340 --model_type=bpe --byte_fallback=true "
        "--normalization_rule_name=identity --remove_extra_whitespaces=false --minloglevel=2"
    )
    model = sentencepiece.SentencePieceProcessor(model_file=f"{tmp_path}/sp.model")
    ids = range(model.GetPieceSize())
    tokenizer = build_tokenizer(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": [model.IdToPiece(i) for i in ids],
            "tokenizer.ggml.scores": [model.GetScore(i) for i in ids],
            "tokenizer.ggml.token_type": [
                6 if model.IsByte(i) else 3 if model.IsControl(i) else 2 if model.IsUnknown(i) else 1 for i in ids
            ],
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.unknown_token_id": 0,
        }
    )
    for text in texts:
        assert tokenizer.encode(text).ids == [1, *model.EncodeAsIds(text)]


def poison(name, array):
    return name, np.where(np.arange(array.size).reshape(array.shape) == 3, np.nan, array).astype(np.float32)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"arch": "gpt2"}, "gpt2.*not supported"),
        ({"extra": lambda w: w.add_expert_count(4)}, "mixture of experts"),
        ({"extra": lambda w: w.add_tensor("blk.0.odd.weight", np.zeros(4, np.float32))}, "unknown tensor blk.0.odd"),
        ({"change": lambda n, a: (n.replace("blk.1.", "blk.7."), a)}, "do not fit"),
        ({"change": poison}, "NaN"),
    ],
)
def test_files_that_cannot_be_converted_are_refused(options, named, wide_model, bpe, tmp_path):
    file = write_gguf(wide_model(), tmp_path / "m.gguf", bpe, **options)
    with pytest.raises(BadInput, match=named):
        convert(file, tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()


def test_an_unknown_pre_tokenizer_is_refused():
    meta = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "surprise", "tokenizer.ggml.tokens": []}
    with pytest.raises(BadInput, match="surprise"):
        build_tokenizer(meta)
    with pytest.raises(BadInput, match="t5"):
        build_tokenizer({**meta, "tokenizer.ggml.model": "t5"})


def test_damaged_files_are_refused(wide_model, bpe, tmp_path):
    file = write_gguf(wide_model(), tmp_path / "m.gguf", bpe)
    whole = file.read_bytes()
    for cut in (whole[:-5000], whole[:200], b"not a gguf file at all"):
        file.write_bytes(cut)
        with pytest.raises(BadInput, match="cannot be read"):
            convert(file, tmp_path / "out")
    with pytest.raises(BadInput, match="not there"):
        convert(tmp_path / "none.gguf", tmp_path / "out")


def test_damaged_metadata_is_refused_whatever_it_breaks(wide_model, bpe, tmp_path):
    file = write_gguf(wide_model(), tmp_path / "m.gguf", bpe)
    whole = file.read_bytes()
    name = b"general.architecture"
    no_text = bytearray(whole)
    no_text[whole.index(name) + len(name) + 12] = 0xFF  # behind the kind and the length: the text itself
    other_key = whole.replace(b"tokenizer.ggml.tokens", b"tokenizer.ggml.tokenz")
    far_id = bytearray(whole)
    at = whole.index(b"tokenizer.ggml.eos_token_id") + len(b"tokenizer.ggml.eos_token_id") + 4
    far_id[at : at + 4] = np.uint32(10**6).tobytes()
    begin = whole.index(b"tokenizer.ggml.merges") + len(b"tokenizer.ggml.merges")
    no_merge = bytearray(whole)
    no_merge[begin + 24] = ord("\x01")  # the first letter of the first merge: a token that is not there
    for bad, words in (
        (no_text, "metadata is damaged"),
        (other_key, r"lacks 'tokenizer\.ggml\.tokens'"),
        (far_id, "metadata is damaged"),
        (no_merge, "metadata is damaged"),
    ):
        file.write_bytes(bad)
        for read in (convert, keep_blocks):
            with pytest.raises(BadInput, match=words):
                read(file, tmp_path / "out")
            assert not (tmp_path / "out").exists(), "nothing is begun"


@pytest.mark.slow
def test_whatever_the_metadata_says_the_file_is_converted_or_refused(wide_model, bpe, tmp_path):
    file = write_gguf(wide_model(), tmp_path / "m.gguf", bpe)
    whole, dice, refused = file.read_bytes(), random.Random(11), 0
    values = [0, 1, 3, 2**31 - 1, 2**32 - 1, 0x7FC00000]  # the last is NaN as a number with a point
    keys = [b"context_length", b"embedding_length", b"block_count", b"feed_forward_length", b"head_count", b"eps"]
    keys += [b"head_count_kv", b"key_length", b"freq_base", b"dimension_count", b"eos_token_id", b"padding_token_id"]
    places = [whole.index(key) + len(key) + 4 for key in keys]
    for number in range(240):
        bad = bytearray(whole)
        at = places[number % len(places)] if number < 120 else dice.randrange(24, whole.index(b"blk.0."))
        bad[at : at + 4] = dice.choice(values).to_bytes(4, "little")
        file.write_bytes(bad)
        try:
            convert(file, tmp_path / "out")
        except BadInput:
            refused += 1
    assert refused > 60


@pytest.mark.slow
def test_the_default_base_model_converts_as_transformers_reads_it(tmp_path, texts):
    source = Path(os.environ.get("RAFT_TEST_GGUF", ""))
    if not source.is_file():
        pytest.skip("set RAFT_TEST_GGUF to SmolLM2-135M-Instruct.Q4_1.gguf (`raft models` fetches it)")
    convert(source, tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name)
    ours = load_file(tmp_path / "out" / "model.safetensors")
    state = theirs.state_dict()
    assert set(state) - set(ours) == {"lm_head.weight"}
    for name, value in ours.items():
        assert torch.equal(value, state[name].to(torch.bfloat16)), name
    loaded = transformers.AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer = Tokenizer.load(tmp_path / "out")
    for text in texts[3:]:  # the others hold digits after spaces, which transformers' reader splits unlike the model
        assert tokenizer.encode(text) == loaded.encode(text)
    talk = [{"role": "user", "content": "Hi"}]
    assert tokenizer.render(talk, True) == loaded.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)

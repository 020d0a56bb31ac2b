"""Folders that hold packed weights already: GGUF's blocks and bitsandbytes' NF4, kept as they are or in full."""

import dataclasses
import importlib.util
import json
import os
from pathlib import Path

import gguf
import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file
from test_gguf import Q, wide_model, write_gguf  # noqa: F401  a fixture

from jora_engine.config.parameters import parameters
from jora_engine.files.gguf import convert, keep_blocks
from jora_engine.files.packed_weights import dense_weight
from jora_engine.files.prequantised import STATE
from jora_engine.files.tensor_files import GGUF_FILE
from jora_engine.files.tensor_sources import open_tensors
from jora_engine.files.weights import check_tensors, load_params, model_digest, packed_leaves, read_model_config
from jora_engine.model.ggml_blocks import Blocks
from jora_engine.model.quantised import is_packed
from raft_errors import BadInput

BITSANDBYTES = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


def mixed(name):
    """Of K-quants' kind: one module in two types, by layer."""
    if "attn_v" in name:
        return Q.Q8_0 if "blk.0" in name else Q.Q5_0
    if "ffn_up" in name:
        return Q.Q4_0
    return Q.Q8_0 if name == "token_embd.weight" else Q.Q4_1


@pytest.fixture
def blocks(wide_model, bpe, tmp_path):  # noqa: F811
    """A folder with blocks, beside one that holds the same numbers in full."""
    file = write_gguf(wide_model(tie_word_embeddings=True), tmp_path / "m.gguf", bpe, quantise=mixed)
    convert(file, tmp_path / "full", dtype="float32")
    keep_blocks(file, tmp_path / "blocks")
    return tmp_path / "blocks"


def assert_close(a, b):
    assert np.abs(np.asarray(a) - np.asarray(b)).max() <= 1e-6 * np.abs(np.asarray(b)).max()


@pytest.mark.slow
def test_blocks_stand_for_the_numbers_that_the_file_is_converted_to(blocks):
    config = read_model_config(blocks)
    assert config == read_model_config(blocks.parent / "full")
    packed = load_params(blocks, config, "float32", precision="as_stored")
    full = load_params(blocks.parent / "full", config, "float32")
    held = {name: leaf for name, leaf in packed["layers"].items() if is_packed(leaf)}
    assert held.keys() == {p.name for p in parameters(config) if p.quantisable}
    assert {leaf.data.dtype for leaf in held.values()} == {np.dtype(np.uint8)}
    assert held["v"].kinds == ("Q5_0", "Q8_0")
    for name, leaf in held.items():
        for layer in range(config.num_layers):
            one = jax.tree.map(lambda x, layer=layer: x[layer], leaf)
            assert_close(one.dense("float32"), full["layers"][name][layer])
    for name in ("embed", "final_norm"):
        np.testing.assert_array_equal(packed[name], full[name])
    again = load_params(blocks, config, "float32")  # in full, where no precision is asked for
    jax.tree.map(np.testing.assert_array_equal, again, full)


def test_the_shapes_are_known_before_a_block_is_read(blocks):
    config = read_model_config(blocks)
    packed = load_params(blocks, config, "bfloat16", precision="as_stored")
    shapes = packed_leaves(blocks, config, "as_stored")
    same = jax.tree.map(
        lambda s, x: (s.shape, s.dtype) == (x.shape, x.dtype), shapes, {n: packed["layers"][n] for n in shapes}
    )
    assert all(jax.tree.leaves(same))
    assert model_digest(blocks) != model_digest(blocks.parent / "full")


def test_as_stored_means_nothing_for_plain_weights(blocks):
    folder = blocks.parent / "full"
    with pytest.raises(BadInput, match="as_stored means nothing") as error:
        packed_leaves(folder, read_model_config(folder), "as_stored")
    assert "nf4" in error.value.do


@pytest.mark.slow
def test_a_bad_block_a_wrong_type_and_a_cut_file_are_refused_by_tensor(blocks):
    config, file = read_model_config(blocks), blocks / GGUF_FILE
    whole = file.read_bytes()
    file.unlink()  # a hard link: the original stays
    reader = gguf.GGUFReader(blocks.parent / "m.gguf")
    tensor = next(t for t in reader.tensors if t.name == "blk.1.ffn_up.weight")
    bad = bytearray(whole)
    bad[tensor.data_offset : tensor.data_offset + 2] = np.float16(np.inf).tobytes()
    file.write_bytes(bad)
    with pytest.raises(BadInput, match=r"blk\.1\.ffn_up\.weight holds a block of NaN or infinite"):
        load_params(blocks, config, "bfloat16", precision="as_stored")
    with pytest.raises(BadInput, match=r"blk\.1\.ffn_up\.weight holds NaN or infinite"):
        load_params(blocks, config, "bfloat16")

    name = b"blk.1.ffn_up.weight"
    at = whole.index(name) + len(name) + 4 + 2 * 8  # number of dimensions, the two sizes, then the type
    for kind, words in (
        (99, "99\\)? is not a valid"),
        (int(Q.IQ4_NL), "stored as IQ4_NL"),
        (int(Q.Q4_1), "it follows blk.1.ffn_up.weight of "),  # its numbers would be others, all of them finite
    ):
        bad = bytearray(whole)
        bad[at : at + 4] = np.uint32(kind).tobytes()
        file.write_bytes(bad)
        with pytest.raises(BadInput, match=words) as error:
            load_params(blocks, config, "bfloat16", precision="as_stored")
        assert "blk.1.ffn_up.weight" in error.value.what

    last = max(reader.tensors, key=lambda t: t.data_offset)
    file.write_bytes(whole[: int(last.data_offset) + int(last.n_bytes) // 2])
    with pytest.raises(BadInput, match="cannot be read") as error:
        load_params(blocks, config, "bfloat16", precision="as_stored")
    assert f"tensor {last.name}" in error.value.what


def test_a_folder_that_has_lost_its_file_says_which_one(blocks):
    config = read_model_config(blocks)
    (blocks / GGUF_FILE).rename(blocks / "smollm2-q4.gguf")
    for look in (lambda: open_tensors(blocks, config), lambda: packed_leaves(blocks, config, "as_stored")):
        with pytest.raises(BadInput, match=r"neither model\.safetensors nor model\.gguf is there") as error:
            look()
        assert "name smollm2-q4.gguf model.gguf" in error.value.do
    (blocks / "smollm2-q4.gguf").unlink()
    with pytest.raises(BadInput, match=r"model\.gguf") as error:
        model_digest(blocks)
    assert "put the file back" in error.value.do


def test_a_file_that_lacks_a_tensor_is_refused_by_its_name(wide_model, bpe, tmp_path):  # noqa: F811
    file = write_gguf(wide_model(), tmp_path / "m.gguf", bpe, quantise=mixed)
    keep_blocks(file, tmp_path / "blocks")
    config = read_model_config(tmp_path / "blocks")
    tensors = open_tensors(tmp_path / "blocks", config)
    del tensors._tensors["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(BadInput, match=r"model\.layers\.1\.mlp\.up_proj\.weight is missing"):
        check_tensors(tensors, config)


def test_a_file_of_another_model_than_config_json_says_is_refused_before_its_shapes_are_believed(blocks):
    config = read_model_config(blocks)
    for change, words in (
        ({"num_layers": 3}, r"model\.layers\.2\.\S+ is missing"),
        ({"num_layers": 1}, r"model\.layers\.1\.\S+ is not part of"),
        ({"intermediate_size": 64}, "has shape"),
        ({"family": "qwen3"}, "architecture 'llama', beside a config.json of the family 'qwen3'"),
        ({"family": "granite"}, "of the family 'granite'"),
    ):
        other = dataclasses.replace(config, **change)
        for look in (
            lambda other=other: packed_leaves(blocks, other, "as_stored"),
            lambda other=other: load_params(blocks, other),
        ):
            with pytest.raises(BadInput, match=words):
                look()


def test_blocks_are_not_kept_beside_weights_that_would_come_first(blocks):
    with pytest.raises(BadInput, match=r"holds model\.safetensors already"):
        keep_blocks(blocks / GGUF_FILE, blocks.parent / "full")


def bitsandbytes_folder(base, folder, **options):
    """A base as transformers and bitsandbytes save it in NF4."""
    settings = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32, **options
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(
        base, quantization_config=settings, dtype=torch.float32, device_map="cpu"
    )
    model.save_pretrained(folder)
    return model


@pytest.fixture
def base(tmp_path):
    """A small model whose rows are whole blocks."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "plain")
    return tmp_path / "plain"


@BITSANDBYTES
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.slow
def test_a_folder_of_bitsandbytes_is_read_exactly(base, tmp_path, double):
    from bitsandbytes.functional import dequantize_4bit

    model = bitsandbytes_folder(base, tmp_path / "nf4", bnb_4bit_use_double_quant=double)
    config = read_model_config(tmp_path / "nf4")
    packed = load_params(tmp_path / "nf4", config, "float32", precision="as_stored")
    for name, module in model.named_modules():
        if name.endswith("_proj"):
            layer, leaf = int(name.split(".")[2]), name.rsplit(".", 1)[-1].removesuffix("_proj")
            own = jax.tree.map(lambda x, layer=layer: x[layer], packed["layers"][leaf])
            theirs = dequantize_4bit(module.weight.data, module.weight.quant_state).float().numpy()
            np.testing.assert_allclose(dense_weight(own), theirs, rtol=1e-6, atol=1e-9)
            full = open_tensors(tmp_path / "nf4", config).read(f"{name}.weight")
            np.testing.assert_array_equal(full, dense_weight(own))
    assert packed["layers"]["q"].scales.dtype == (np.uint8 if double else np.float32)


def as_bytes(value):
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


@BITSANDBYTES
def test_what_is_missing_or_otherwise_in_such_a_folder_is_refused_by_name(base, tmp_path):
    bitsandbytes_folder(base, tmp_path / "nf4", bnb_4bit_use_double_quant=True)
    config, file = read_model_config(tmp_path / "nf4"), tmp_path / "nf4" / "model.safetensors"
    tensors, name = load_file(file), "model.layers.1.mlp.up_proj.weight"

    def refused(change, words, precision="as_stored"):
        save_file({**tensors, **change}, file, metadata={"format": "pt"})
        with pytest.raises(BadInput, match=words) as error:
            load_params(tmp_path / "nf4", config, precision=precision)
        assert name in error.value.what

    nan = tensors[f"{name}.nested_absmax"] * np.float32("nan")
    refused({f"{name}.nested_absmax": nan}, "NaN or infinite")
    refused({f"{name}.absmax": tensors[f"{name}.absmax"][:-1]}, "packed otherwise")
    refused({f"{name}.quant_map": tensors[f"{name}.quant_map"] * 2}, "another map")
    refused({f"{name}.nested_quant_map": tensors[f"{name}.nested_quant_map"] + np.float32("inf")}, "NaN or infinite")
    refused({name: tensors[name].astype(np.float32)}, f"{name} is float32 where uint8")
    refused({f"{name}.absmax": tensors[f"{name}.absmax"].astype(np.float32)}, "absmax is float32 where uint8")
    refused({name: tensors[name][:-1]}, "packed otherwise")

    state = json.loads(tensors[f"{name}{STATE}"].tobytes())
    for change, words in (
        ({"blocksize": 128}, "blocksize 128"),
        ({"quant_type": "fp4"}, "quant_type fp4"),
        ({"shape": [64, 128]}, "has shape"),
        ({"shape": "all"}, "is damaged"),
        ({"shape": [-64, 128]}, "is damaged"),
        ({"dtype": "int3"}, "is damaged"),
        ({"nested_offset": None}, "is damaged"),
        ({"nested_offset": float("nan")}, "is damaged"),
    ):
        refused({f"{name}{STATE}": as_bytes({**state, **change})}, words)
    refused({f"{name}{STATE}": np.frombuffer(b'{"shape":', np.uint8)}, "is damaged")
    refused({f"{name}{STATE}": as_bytes([])}, "is damaged")
    del state["nested_offset"]
    refused({f"{name}{STATE}": as_bytes(state)}, "is not quantised as the other layers' are")
    # the 8-bit codes of its scales would pass for the scales themselves
    refused({f"{name}{STATE}": as_bytes(state)}, "nested_absmax without nested_offset", "bfloat16")

    for part in ("", ".absmax", ".nested_absmax", STATE):
        save_file({key: value for key, value in tensors.items() if key != name + part}, file, {"format": "pt"})
        with pytest.raises(BadInput, match=r"is missing|packed otherwise|not part of") as error:
            load_params(tmp_path / "nf4", config, precision="as_stored")
        assert name in error.value.what
        if part == "":
            with pytest.raises(BadInput, match="is missing"):
                packed_leaves(tmp_path / "nf4", config, "as_stored")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "awq", "bits": 4}, "awq"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes in 8 bits"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}, "4 bits as fp4"),
    ],
)
def test_other_quantisations_are_refused_by_name_with_what_to_do(base, settings, words):
    file = base / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": settings}))
    with pytest.raises(BadInput, match=words) as error:
        read_model_config(base)
    assert "train.base_precision nf4" in error.value.do


@pytest.mark.heavy
def test_the_default_base_trains_from_its_own_blocks(tmp_path):
    """SmolLM2-135M-Instruct in Q4_1 (RAFT_TEST_GGUF): packed in memory, and its loss falls."""
    from jora_engine.config.lora import LoraConfig
    from jora_engine.config.recipe import TrainConfig
    from jora_engine.training.loop import Trainer
    from jora_engine.training.packing import Example
    from jora_engine.training.plan import plan

    source = Path(os.environ.get("RAFT_TEST_GGUF", ""))
    if not source.is_file():
        pytest.skip("set RAFT_TEST_GGUF to SmolLM2-135M-Instruct.Q4_1.gguf (`raft models` fetches it)")
    config = keep_blocks(source, tmp_path)
    params = load_params(tmp_path, config, "bfloat16", precision="as_stored")
    assert all(isinstance(params["layers"][p.name], Blocks) for p in parameters(config) if p.quantisable)
    rng = np.random.default_rng(0)
    rows = [Example(*(rng.integers(3, 40000, n).astype(np.int32) for n in (100, 20))) for _ in range(4)]
    training = TrainConfig(max_steps=4, micro_batch_rows=1, sequence_length=128, epochs=4, learning_rate=2e-3)
    trainer = Trainer(params, config, LoraConfig(rank=8), training, rows)
    made = plan(trainer)
    numbers = config.num_layers * sum(np.prod(p.shape) for p in parameters(config) if p.quantisable)
    embedding = 2 * config.vocab_size * config.hidden_size
    assert made.bytes["weights"] - embedding < 0.64 * numbers, "5 bits a number in Q4_1"
    assert made.bytes["temporaries"] < 2 * numbers, "less than the linear layers in bfloat16 alone"
    losses = [row["loss"] for row in trainer.run()[1].history]
    assert losses[-1] < losses[0]

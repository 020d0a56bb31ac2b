"""Every form in which a base can lie on disk, in every `train.base_precision`: held rightly, or refused by name."""

import importlib.util
import sys
from pathlib import Path

import gguf
import jax
import numpy as np
import pytest
import torch
import transformers
from test_gguf import write_gguf
from test_packed_folders import bitsandbytes_folder

from jora_engine.files.gguf import keep_blocks
from jora_engine.files.packed_weights import dense_weight
from jora_engine.files.quantiser import pack
from jora_engine.files.tensor_sources import open_tensors
from jora_engine.files.weights import load_params, packed_leaves, read_model_config
from jora_engine.model.ggml_blocks import KINDS
from jora_engine.model.quantised import is_packed
from raft_errors import BadInput

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "model"))
from test_ggml_blocks import random_blocks

PLAIN = ("safetensors float32", "safetensors float16", "safetensors bfloat16", "F32", "F16", "BF16")
FORMS = (*PLAIN, *(kind for kind in KINDS if kind not in PLAIN), "bitsandbytes double", "bitsandbytes")
NAMES = {"q": "self_attn.q_proj", "up": "mlp.up_proj"}
QUICK = ("safetensors float16", "F16", "Q4_K", "bitsandbytes double")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A model whose rows are whole blocks of every type."""
    folder = tmp_path_factory.mktemp("plain") / "hf"
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=416,
        hidden_size=256,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def in_form(form, plain, folder, bpe, monkeypatch):
    """The model in a form, in `folder`."""
    kind, _, rest = form.partition(" ")
    if kind == "safetensors":
        model = transformers.AutoModelForCausalLM.from_pretrained(plain)
        model.to(getattr(torch, rest)).save_pretrained(folder)
    elif kind == "bitsandbytes":
        if importlib.util.find_spec("bitsandbytes") is None:
            pytest.skip("bitsandbytes is not installed")
        bitsandbytes_folder(plain, folder, bnb_4bit_use_double_quant=bool(rest))
    else:  # any codes will do, and the gguf package makes none of K-quants
        made = lambda array, type_: random_blocks(type_.name, *array.shape).reshape(array.shape[0], -1)  # noqa: E731
        monkeypatch.setattr(gguf.quants, "quantize", made)
        type_ = gguf.GGMLQuantizationType[kind]
        keep_blocks(write_gguf(plain, folder.parent / "m.gguf", bpe, quantise=lambda _: type_), folder)


@pytest.mark.slow
@pytest.mark.parametrize("form", [f if f in QUICK else pytest.param(f, marks=pytest.mark.wide) for f in FORMS])
def test_a_base_in_any_form_is_held_as_the_precision_says(form, plain, bpe, tmp_path, monkeypatch):
    folder = tmp_path / "base"
    in_form(form, plain, folder, bpe, monkeypatch)
    config = read_model_config(folder)
    tensors = open_tensors(folder, config)
    full = {leaf: tensors.read(f"model.layers.1.{name}.weight").astype(np.float32) for leaf, name in NAMES.items()}

    def held(precision):
        layers = load_params(folder, config, "float32", precision=precision)["layers"]
        return {leaf: jax.tree.map(lambda x: np.asarray(x[1]), layers[leaf]) for leaf in NAMES}

    for leaf, weight in held("bfloat16").items():
        np.testing.assert_array_equal(weight, full[leaf])
    for precision in ("int8", "nf4"):
        for leaf, weight in held(precision).items():
            assert is_packed(weight)
            np.testing.assert_array_equal(dense_weight(weight), dense_weight(pack(full[leaf], precision)))
    if form in PLAIN:
        for look in (packed_leaves, lambda *args: load_params(*args[:2], precision=args[2])):
            with pytest.raises(BadInput, match="as_stored means nothing"):
                look(folder, config, "as_stored")
        return
    for leaf, weight in held("as_stored").items():
        assert is_packed(weight)
        np.testing.assert_allclose(dense_weight(weight), full[leaf], rtol=1e-6, atol=1e-6 * np.abs(full[leaf]).max())

"""A tiny model with the small tokenizer, and adapters of several ranks and modules on it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from jora_engine.adapters.peft_folder import write_adapter
from jora_engine.config.lora import LoraConfig
from jora_engine.config.parameters import linear_layers
from jora_engine.files.weights import read_model_config

ADAPTERS = {
    "one": LoraConfig(rank=1, alpha=2),
    "two": LoraConfig(rank=2, alpha=4, target_modules=("q_proj", "v_proj")),
    "three": LoraConfig(rank=3, alpha=5, use_rslora=True),
    "down": LoraConfig(rank=4, alpha=4, target_modules=("down_proj", "gate_proj"), layers_to_transform=(1,)),
    "eight": LoraConfig(rank=8, alpha=8),
    "wide": LoraConfig(rank=16, alpha=8, target_modules=("o_proj", "up_proj", "k_proj")),
}


def widen(model_folder: Path, out: Path) -> Path:
    """The model saved beside a tokenizer with its vocabulary widened to fit."""
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    torch.manual_seed(1)
    model.resize_token_embeddings(416, mean_resizing=False)
    model.get_input_embeddings().weight.data.normal_(0, 0.3)
    model.get_output_embeddings().weight.data.normal_(0, 0.3)
    model.save_pretrained(out)
    return out


@pytest.fixture
def with_tokenizer(tokenizer_folder, model_folder):
    """A model folder that has the small tokenizer; its vocabulary is widened to fit."""
    return lambda family: widen(model_folder(family), tokenizer_folder)


@pytest.fixture(scope="session")
def base_folder(bpe, model_folder, tmp_path_factory):
    """A model with tokenizer, made once; nobody writes to it."""
    folder = tmp_path_factory.mktemp("base")
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|im_end|>").save_pretrained(
        folder
    )
    return widen(model_folder("smollm2"), folder)


@pytest.fixture(scope="session")
def adapter_folders(base_folder, tmp_path_factory):
    """Folders of adapters whose B is not 0, by name."""
    root = tmp_path_factory.mktemp("adapters")
    return {name: make_adapter(base_folder, root / name, lora, n) for n, (name, lora) in enumerate(ADAPTERS.items())}


def make_adapter(base: Path, folder: Path, lora: LoraConfig, seed: int) -> Path:
    """An adapter with random factors, in the layers that it is for."""
    model, rng = read_model_config(base), np.random.default_rng(seed)

    def factor(*shape: int) -> np.ndarray:
        out = rng.normal(0, 0.3, (model.num_layers, *shape)).astype("f4")
        out[[i for i in range(model.num_layers) if i not in lora.layers(model.num_layers)]] = 0
        return out

    shapes = {name: linear_layers(model)[name].shape for name in lora.targets(model)}
    factors = {n: {"a": factor(lora.rank, i), "b": factor(o, lora.rank)} for n, (o, i) in shapes.items()}
    return write_adapter(folder, factors, lora, model, "base", {"base_digest": "x"})

"""A tiny model with the small tokenizer, and adapters of several ranks and modules on it (`engines`)."""

from pathlib import Path

import pytest
import torch
from engines import ADAPTERS, make_adapter
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from jora_engine.generation.adapter_memory import AdapterMemory
from jora_engine.generation.loaded import load_model


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


@pytest.fixture(scope="session")
def model(base_folder):
    """The base in float32; nobody changes it."""
    return load_model(base_folder, dtype="float32")


@pytest.fixture
def memory(model, adapter_folders):
    """All adapters, registered."""
    memory = AdapterMemory(model.config, "float32")
    for name, folder in adapter_folders.items():
        memory.register(name, folder)
    return memory

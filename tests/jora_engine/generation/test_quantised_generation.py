"""Generation on a packed base answers as training computed: on the numbers that the packed weights stand for."""

import json

import numpy as np
import pytest

from jora_engine.adapters.merged_model import write_merged
from jora_engine.adapters.peft_folder import RAFT_JSON, read_adapter
from jora_engine.files.weights import load_params
from jora_engine.generation.adapter_memory import AdapterMemory
from jora_engine.generation.batching import Engine
from jora_engine.generation.generator import Generator
from jora_engine.generation.loaded import load_model
from jora_engine.generation.requests import Request
from jora_engine.model.quantised import is_packed
from raft_errors import BadInput

pytestmark = pytest.mark.slow
PROMPTS = [[5, 9, 13, 200], list(range(20, 60)), [7]]


def held_in(adapter, precision, folder):
    """A copy of an adapter that was trained on a base in that precision."""
    import shutil

    shutil.copytree(adapter, folder)
    contract = json.loads((folder / RAFT_JSON).read_text())
    (folder / RAFT_JSON).write_text(json.dumps({**contract, "base_precision": precision}))
    return folder


@pytest.mark.parametrize("precision", [pytest.param("int8", marks=pytest.mark.heavy), "nf4"])
def test_an_adapter_is_opened_on_the_base_as_it_was_trained(precision, base_folder, adapter_folders, tmp_path):
    adapter = held_in(next(iter(adapter_folders.values())), precision, tmp_path / "adapter")
    ours = Generator(base_folder, adapter, "float32")
    assert is_packed(ours._model.layers[0]["q"])
    config = ours.config
    held = write_merged(base_folder, *read_adapter(adapter, config), config, tmp_path / "held", precision=precision)
    theirs = Generator(held, dtype="float32")
    for a, b in zip(ours.logits(PROMPTS), theirs.logits(PROMPTS), strict=True):
        assert np.abs(a - b).max() <= 2e-5 * np.abs(b).max()
    assert [c.token_ids for c in ours.generate(PROMPTS, max_new_tokens=8)] == [
        c.token_ids for c in theirs.generate(PROMPTS, max_new_tokens=8)
    ]
    full = Generator(base_folder, adapter, "float32", precision="bfloat16")
    assert np.abs(full.logits(PROMPTS[:1])[0] - ours.logits(PROMPTS[:1])[0]).max() > 1e-3


@pytest.mark.wide
def test_a_packed_tree_in_memory_generates_as_the_folder_does(base_folder):
    loaded = Generator(base_folder, dtype="float32", precision="nf4")
    params = load_params(base_folder, loaded.config, "float32", precision="nf4")
    memory = Generator.from_params(params, loaded.config, loaded.tokenizer)
    assert memory.generate(PROMPTS, max_new_tokens=6) == loaded.generate(PROMPTS, max_new_tokens=6)


def test_a_server_takes_adapters_of_its_own_precision_alone(base_folder, adapter_folders, tmp_path):
    model = load_model(base_folder, dtype="float32", precision="int8")
    memory = AdapterMemory(model.config, "float32", precision=model.precision)
    plain = next(iter(adapter_folders.values()))
    memory.register("int8", held_in(plain, "int8", tmp_path / "int8"))
    memory.register("plain", plain)
    engine = Engine(model, 8, adapters=memory)
    engine.probe("int8")
    with pytest.raises(BadInput, match="trained on a base in bfloat16"):
        engine.submit(Request(tuple(PROMPTS[0]), 4, adapter="plain"))
    alone = Generator(base_folder, tmp_path / "int8", "float32").generate(PROMPTS[:1], max_new_tokens=6)[0]
    job = engine.submit(Request(tuple(PROMPTS[0]), 6, adapter="int8"))
    engine.run()
    assert job.completion.token_ids == alone.token_ids

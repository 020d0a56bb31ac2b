"""Training on a packed base: the losses of the weights that it stands for, on a mesh too, and its name in raft.json."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from jora_engine.adapters.merged_model import write_merged
from jora_engine.adapters.peft_folder import precision_of
from jora_engine.config.lora import LoraConfig
from jora_engine.config.recipe import TrainConfig
from jora_engine.files.weights import load_params, read_model_config
from jora_engine.training.job import Job, fine_tune
from jora_engine.training.loop import Trainer
from jora_engine.training.packing import Example
from raft_errors import BadInput

pytestmark = pytest.mark.slow
LORA = LoraConfig(rank=4, alpha=8.0)
TRAIN = TrainConfig(learning_rate=1e-2, max_steps=3, micro_batch_rows=2, sequence_length=64, dtype="float32", epochs=2)


def examples(count=16):
    rng = np.random.default_rng(0)
    return [Example(*(rng.integers(3, 96, n).astype(np.int32) for n in (20, 8))) for _ in range(count)]


@pytest.mark.parametrize("precision", [pytest.param("int8", marks=pytest.mark.heavy), "nf4"])
def test_losses_and_adapter_are_those_of_the_base_that_is_stood_for(precision, model_folder, tmp_path):
    folder = model_folder("smollm2")
    config = read_model_config(folder)
    held = write_merged(folder, {}, LORA, config, tmp_path / "held", dtype="float32", precision=precision)
    packed = load_params(folder, config, "float32", precision=precision)
    plain = load_params(held, config, "float32")
    ours, theirs = (Trainer(p, config, LORA, TRAIN, examples()).run() for p in (packed, plain))
    np.testing.assert_allclose(*([r["loss"] for r in p.history] for _, p in (ours, theirs)), rtol=1e-6)
    for name, pair in ours[0].items():
        for part, array in pair.items():
            np.testing.assert_allclose(array, theirs[0][name][part], rtol=1e-3, atol=1e-5)


def test_a_job_writes_the_precision_and_another_one_is_another_job(with_words, tmp_path):
    folder, file = with_words
    job = Job(model=folder, train=file, out=tmp_path / "out", work=tmp_path / "work", lora=LORA)
    short = dataclasses.replace(TRAIN, base_precision="nf4", checkpoint_every_steps=1)
    fine_tune(dataclasses.replace(job, training=short))
    assert precision_of(tmp_path / "out" / "adapter") == "nf4"
    assert json.loads((tmp_path / "out" / "training.json").read_text())["training"]["base_precision"] == "nf4"
    events = []
    plain = dataclasses.replace(
        job, out=tmp_path / "plain", training=dataclasses.replace(short, base_precision="bfloat16")
    )
    fine_tune(plain, report=events.append)
    assert any("set aside" in e.get("what", "") for e in events if e["event"] == "warning"), events
    assert precision_of(tmp_path / "plain" / "adapter") == "bfloat16"
    assert "base_precision" not in (tmp_path / "plain" / "adapter" / "raft.json").read_text()


def test_a_precision_that_is_not_known_is_refused(tmp_path):
    with pytest.raises(BadInput, match="base_precision is 'int3'"):
        TrainConfig(base_precision="int3")
    (tmp_path / "raft.json").write_text('{"base_precision": "int3"}')
    with pytest.raises(BadInput, match="base_precision is 'int3'"):
        precision_of(tmp_path)


PROGRAM = """
import json, sys
from pathlib import Path
import jax, numpy as np
from jora_engine.config.lora import LoraConfig
from jora_engine.config.recipe import TrainConfig
from jora_engine.files.weights import load_params, packed_leaves, read_model_config
from jora_engine.model.parameters import param_shapes
from jora_engine.model.sharding import Placement, make_mesh
from jora_engine.training.loop import Trainer
from jora_engine.training.packing import Example

folder = Path(sys.argv[1])
model = read_model_config(folder)
rng = np.random.default_rng(0)
draw = lambda low, high: rng.integers(3, 96, rng.integers(low, high)).astype(np.int32)
rows = [Example(draw(10, 60), draw(2, 20)) for _ in range(24)]
config = TrainConfig(
    learning_rate=1e-2, max_steps=2, micro_batch_rows=4, sequence_length=128, dtype="float32", epochs=3
)

def losses(precision, placement):
    packed = packed_leaves(folder, model, precision)
    shardings = placement and placement.params(param_shapes(model, packed=packed))
    params = load_params(folder, model, "float32", shardings, precision=precision)
    shard = max(x.addressable_shards[0].data.size / x.size for x in jax.tree.leaves(params["layers"]) if x.ndim > 2)
    history = Trainer(params, model, LoraConfig(rank=4), config, rows, (), placement).run()[1].history
    return {"losses": [r["loss"] for r in history], "shard": shard}

out = {}
for precision in ("int8", "nf4"):
    mesh = Placement(make_mesh((1, 2, 2, 1), jax.devices()[:4]), model)
    out[precision] = {"one": losses(precision, None), "mesh": losses(precision, mesh)}
print(json.dumps(out))
"""


@pytest.mark.heavy
def test_a_mesh_holds_parts_of_the_packed_weights_and_computes_what_one_device_does(model_folder):
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    command = [sys.executable, "-c", PROGRAM, str(model_folder("llama"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for figures in json.loads(done.stdout.splitlines()[-1]).values():
        np.testing.assert_allclose(figures["mesh"]["losses"], figures["one"]["losses"], rtol=2e-5)
        assert figures["mesh"]["shard"] <= 1 / 2

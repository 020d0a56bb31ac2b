"""Every mesh of eight (forced host) devices computes what one device computes, with the collectives that are expected.

The devices must exist before JAX starts, so the meshes run in one process of their own; its figures are judged here.
"""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from jora_engine.config.architecture import ModelConfig
from jora_engine.model.sharding import AXES, Placement, make_mesh, use_cores
from raft_errors import BadInput

MESHES = {"data and fsdp": (2, 4, 1, 1), "tensor that does not divide the heads": (1, 2, 4, 1)}
MOST_AXES = (2, 1, 2, 2)  # data, tensor, context
FURTHER = {
    "fsdp": (1, 8, 1, 1),
    "tensor": (1, 1, 2, 1),
    "context": (1, 1, 1, 4),
    "fsdp and tensor": (1, 4, 2, 1),
    "data, tensor, context": MOST_AXES,
}
"""Of axes that stand beside another one in `MESHES` and `MOST_AXES`."""

PROGRAM = """
import json, re, sys
from pathlib import Path
import jax, numpy as np
from jora_engine.config.lora import LoraConfig
from jora_engine.config.recipe import TrainConfig
from jora_engine.training.packing import Example
from jora_engine.model.sharding import Placement, make_mesh
from jora_engine.training.loop import Trainer
from jora_engine.files.weights import load_params, read_model_config
from jora_engine.model.parameters import param_shapes

folder, meshes = Path(sys.argv[1]), json.loads(sys.argv[2])
model = read_model_config(folder)
rng = np.random.default_rng(0)
draw = lambda low, high: rng.integers(3, 96, rng.integers(low, high)).astype(np.int32)
examples = [Example(draw(10, 60), draw(2, 20)) for _ in range(40)]
adapter = LoraConfig(rank=4, alpha=8.0, dropout=0.25)  # the masks are those of one device
config = TrainConfig(
    learning_rate=1e-2, max_steps=3, micro_batch_rows=8, accumulation=1, sequence_length=128, dtype="float32", epochs=3
)

def train(placement):
    shardings = placement and placement.params(param_shapes(model))
    params = load_params(folder, model, "float32", shardings)
    trainer = Trainer(params, model, adapter, config, examples, examples[:8], placement)
    text = trainer.compile().as_text()  # which the steps use
    lora, progress = trainer.run()
    flat = np.concatenate([np.asarray(x).ravel() for x in jax.tree.leaves(jax.device_get(lora))])
    census = {}
    kinds = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
    for kind in re.findall(rf" ({kinds})(?:-start)?\\(", text):
        census[kind] = census.get(kind, 0) + 1
    weights = [x for x in jax.tree.leaves(params["layers"]) if x.ndim == 3]
    return {
        "losses": [r["loss"] for r in progress.history], "validation": progress.best_loss, "lora": flat.tolist(),
        "census": census, "shard": max(x.addressable_shards[0].data.size / x.size for x in weights),
    }

out = {"one": train(None)}
for name, shape in meshes.items():
    devices = jax.devices()[: int(np.prod(shape))]
    out[name] = train(Placement(make_mesh(shape, devices), model))
    out[name]["notes"] = Placement(make_mesh(shape, devices), model).notes
print(json.dumps(out))
"""


def train_on(meshes, folder):
    """Figures of a training on one device and on each mesh."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # of LLVM, behind the partitioner: the collectives are the same
    }
    command = [sys.executable, "-c", PROGRAM, str(folder), json.dumps(meshes)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def results(model_folder):
    return train_on(MESHES, model_folder("llama"))


@pytest.mark.slow
@pytest.mark.parametrize("name", MESHES)
def test_a_mesh_computes_what_one_device_computes(results, name):
    judge(results["one"], results[name])


@pytest.mark.heavy
def test_an_axis_alone_or_beside_another_computes_what_one_device_computes(model_folder):
    results = train_on(FURTHER, model_folder("llama"))
    for name in FURTHER:
        judge(results["one"], results[name])
    assert results["fsdp"]["shard"] == pytest.approx(1 / 8)
    assert results["fsdp and tensor"]["shard"] == pytest.approx(1 / 8)
    assert "all-to-all" not in results["fsdp"]["census"]
    assert "all-gather" not in results["tensor"]["census"]
    assert results["tensor"]["census"]["all-reduce"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "family",
    [
        pytest.param("gemma3", marks=pytest.mark.wide),
        *(pytest.param(n, marks=pytest.mark.heavy) for n in ("olmo2", "phi3")),
    ],
)
def test_layers_of_two_kinds_norms_over_cut_heads_and_fused_matrices_are_right_on_a_mesh(family, model_folder):
    many = train_on({"mesh": MOST_AXES}, model_folder(family))
    judge(many["one"], many["mesh"])


def judge(one, many):
    np.testing.assert_allclose(many["losses"], one["losses"], rtol=2e-5)
    np.testing.assert_allclose(many["validation"], one["validation"], rtol=2e-5)
    np.testing.assert_allclose(many["lora"], one["lora"], rtol=5e-3, atol=5e-5)


@pytest.mark.slow
def test_the_base_is_cut_and_the_collectives_are_the_expected_ones(results):
    assert results["one"]["census"] == {}
    assert results["data and fsdp"]["shard"] == pytest.approx(1 / 4)
    census = results["data and fsdp"]["census"]  # weights gathered, adapter gradients reduced: no activation moves
    assert "all-to-all" not in census
    assert census["all-gather"] > 0


@pytest.mark.slow
def test_an_axis_that_does_not_divide_is_told(results):
    (note,) = results["tensor that does not divide the heads"]["notes"]
    assert re.search(r"4 heads and 2 KV heads are not divisible by tensor \(4\)", note)


def test_a_mesh_that_does_not_fit_the_devices_is_refused():
    with pytest.raises(BadInput, match=r"\{'data': 2, 'fsdp': 2, 'tensor': 1, 'context': 1\} does not fit 1 devices"):
        make_mesh((2, 2, 1, 1), [object()])


def test_lora_is_cut_along_tensor_only():
    import jax

    devices = np.asarray(jax.devices()[:1] * 1)
    model = ModelConfig("llama", 96, 32, 56, 3, 4, 2, 8)
    placement = Placement(make_mesh((1, 1, 1, 1), devices), model)
    tree = {"down": {"a": np.zeros((3, 4, 56)), "b": np.zeros((3, 32, 4))}, "q": {"a": np.zeros((3, 4, 32))}}
    specs = jax.tree.map(lambda s: tuple(s.spec), placement.adapters(tree))
    assert specs["down"] == {"a": (None, None, "tensor"), "b": (None, None, None)}
    assert specs["q"]["a"] == (None, None, None)
    assert set(AXES) == {"data", "fsdp", "tensor", "context"}


def test_a_process_that_has_computed_with_jax_can_still_train():
    import jax

    before = jax.devices()
    use_cores(2 * len(before))
    assert jax.devices() == before

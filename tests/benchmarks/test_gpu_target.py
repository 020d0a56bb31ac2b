"""The step of a small packed base, compiled for an H100 that is not here, and what is said where that cannot be."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))  # last: it holds a `serving.py`
import gpu_target

BENCHMARKS = Path(gpu_target.__file__).parent

STEP = """
import json, sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
import gpu_target, numpy as np
from jora_engine.config.architecture import ModelConfig
from jora_engine.config.lora import LoraConfig
from jora_engine.config.parameters import linear_layers
from jora_engine.config.recipe import TrainConfig
from jora_engine.files.weights import packed_leaves
from jora_engine.model.sharding import Placement, make_mesh
from jora_engine.model.target import compiling_for
from jora_engine.training.loop import Trainer
from jora_engine.training.plan import abstract_params, full_rows, plan, weights_in_full
from pathlib import Path

model = ModelConfig("llama", 96, 256, 512, 6, 4, 2, 64)
training = TrainConfig(sequence_length=64, micro_batch_rows=1, remat="layer", base_precision="nf4")
placement = Placement(make_mesh((1, 1, 1, 1), gpu_target.devices()), model)
with compiling_for("gpu"):
    packed = packed_leaves(Path(), model, "nf4")
    base = abstract_params(model, "bfloat16", placement, packed)
    trainer = Trainer(base, model, LoraConfig(rank=4), training, full_rows(training), placement=placement)
    made, text = plan(trainer), trainer.compile().as_text()
shapes = {parameter.shape for parameter in linear_layers(model).values()}
print(json.dumps({
    "compiled_for": made.compiled_for,
    "weights": made.bytes["weights"],
    "temporaries": made.bytes["temporaries"],
    "whole": weights_in_full(text, shapes, model.num_layers),
    "packed": "u8[6,512,4,32]" in text,
    "cublas or triton": "__cublas" in text or "__triton" in text,
}))
"""


def test_where_the_compiler_is_not_installed_the_reason_names_it(monkeypatch):
    monkeypatch.setattr(gpu_target, "_installed", lambda name: name != "nvidia.cu13")
    assert "nvidia.cu13" in gpu_target.lacking()
    assert "jax_cuda13_plugin" not in gpu_target.lacking()
    monkeypatch.setattr(gpu_target, "_installed", lambda name: True)
    assert gpu_target.lacking() == ""


def test_a_package_within_one_that_is_missing_is_missing():
    assert not gpu_target._installed("no_such_package.inside")
    assert gpu_target._installed("xml.dom")


@pytest.mark.heavy
@pytest.mark.skipif(bool(gpu_target.lacking()), reason=gpu_target.lacking() or "it is here")
def test_no_weight_in_full_is_kept_in_a_step_for_an_h100():
    command = [sys.executable, "-c", STEP, str(BENCHMARKS), str(BENCHMARKS.parent)]
    environment = {**os.environ, **gpu_target.ENVIRONMENT}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["whole"] == []
    assert figures["packed"], "packed weights of all layers are its arguments"
    assert figures["cublas or triton"], "it was compiled for a GPU"
    assert figures["compiled_for"] == "gpu"

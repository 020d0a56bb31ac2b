"""Two processes of `jax.distributed` on this machine train to the losses of one: weights, batches and adapters cut.

Each training is stopped after its first step and gone on with from a checkpoint that both processes wrote.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from free_port import free_port

PROGRAM = """
import itertools, json, sys
from pathlib import Path
import jax

folder, port, processes, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
jax.config.update("jax_num_cpu_devices", 4 // processes)
if processes > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", processes, number)
assert jax.device_count() == 4, jax.devices()

import numpy as np
from jora_engine.training.checkpoint import Checkpoints
from jora_engine.config.lora import LoraConfig
from jora_engine.config.recipe import TrainConfig
from jora_engine.training.packing import Example
from jora_engine.model.sharding import Placement, make_mesh
from jora_engine.training.loop import Trainer
from jora_engine.files.weights import load_params, read_model_config
from jora_engine.model.parameters import param_shapes
from raft_errors import Interrupted

model = read_model_config(folder)
rng = np.random.default_rng(0)
draw = lambda low, high: rng.integers(3, 96, rng.integers(low, high)).astype(np.int32)
examples = [Example(draw(10, 40), draw(2, 20)) for _ in range(24)]
config = TrainConfig(
    learning_rate=1e-2, max_steps=2, micro_batch_rows=4, accumulation=1, sequence_length=64, dtype="float32"
)
placement = Placement(make_mesh((1, 2, 2, 1)), model)  # fsdp and tensor both reach over the processes' border
params = load_params(folder, model, "float32", placement.params(param_shapes(model)))
trainer = Trainer(params, model, LoraConfig(rank=4, alpha=8.0), config, examples, examples[:4], placement)
asked = itertools.count()
try:
    trainer.run(Checkpoints(Path(sys.argv[5])), stop=lambda: next(asked) >= 2)
    raise SystemExit("not stopped")
except Interrupted:
    events = []
lora, progress = trainer.run(Checkpoints(Path(sys.argv[5])), report=events.append)
assert events[0] == {"event": "resumed", "step": 1}, events
print(json.dumps([r["loss"] for r in progress.history] + [progress.best_loss]))
"""


def run(folder, processes, states):
    port = str(free_port())
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    environment.pop("XLA_FLAGS", None)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(folder), port, str(processes), str(number), str(states)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]
    losses = []
    for process in started:
        out, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]
        losses.append(json.loads(out.splitlines()[-1]))
    return losses


@pytest.mark.heavy
def test_two_processes_train_like_one(model_folder, tmp_path):
    (one,) = run(model_folder("llama"), 1, tmp_path / "one")
    first, second = run(model_folder("llama"), 2, tmp_path / "two")
    assert not list(tmp_path.glob("*.set-aside"))
    assert first == second
    np.testing.assert_allclose(first, one, rtol=2e-5)

"""The same training run on 1, 2, 4 and 8 forced host devices: the losses are identical, however the work is cut.

    python benchmarks/scaling.py --quick
    python benchmarks/scaling.py --json

A small random Llama in float32, packed records of counting numbers, AdamW; every mesh runs in a process of its own.
What is shown is that sharding changes nothing but where the numbers are; step time on forced devices of one CPU
means nothing and is not quoted. Exits 1 where the first loss is more than 5e-7 of its value from one device's, or a
later one, with the rounding of the updates before it, more than 1e-5.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

from goals import Goals, finish

MESHES = {
    "1 device": (1, 1, 1, 1),
    "2 data": (2, 1, 1, 1),
    "2 fsdp": (1, 2, 1, 1),
    "2 tensor": (1, 1, 2, 1),
    "4 fsdp": (1, 4, 1, 1),
    "2 fsdp x 2 tensor": (1, 2, 2, 1),
    "8 fsdp": (1, 8, 1, 1),
    "4 fsdp x 2 tensor": (1, 4, 2, 1),
    "2 data x 2 tensor x 2 context": (2, 1, 2, 2),
}
QUICK = ("1 device", "2 tensor", "4 fsdp")
KEYS = "steps first_relative_difference max_relative_difference losses/*"
GOALS: Goals = {
    "first_relative_difference": ("<=", 5e-7),  # a few units in the last place of float32
    "max_relative_difference": ("<=", 1e-5),  # AdamW divides by the gradient's size: rounding grows with the steps
}
ROWS, ROW_TOKENS = 8, 256


def train(mesh: tuple[int, ...], steps: int) -> list[float]:
    """One process: losses of a run on `mesh`."""
    import math

    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", math.prod(mesh))
    import numpy as np

    from jora_engine.config.architecture import ModelConfig
    from jora_engine.config.lora import LoraConfig
    from jora_engine.config.recipe import TrainConfig
    from jora_engine.model.parameters import untrained_params
    from jora_engine.model.sharding import Placement, make_mesh
    from jora_engine.training.loop import Trainer
    from jora_engine.training.packing import Example

    model = ModelConfig("llama", 512, 128, 352, 4, 8, 4, 16)
    placement = Placement(make_mesh(mesh), model)
    rng = np.random.default_rng(0)
    params = untrained_params(model, 0, "float32")
    params = jax.device_put(params, placement.params(params))

    def count(low: int, high: int) -> Any:  # a run of numbers that go up by one: something to learn
        return (rng.integers(0, 500) + np.arange(rng.integers(low, high), dtype=np.int32)) % 500 + 3

    examples = [Example(count(20, 160), count(4, 40)) for _ in range(steps * 16)]
    config = TrainConfig(
        learning_rate=1e-2,
        max_steps=steps,
        epochs=2,
        micro_batch_rows=ROWS,
        accumulation=1,
        sequence_length=ROW_TOKENS,
        dtype="float32",
    )
    _, progress = Trainer(params, model, LoraConfig(rank=8), config, examples, (), placement).run()
    return [row["loss"] for row in progress.history]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three meshes, four steps")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object with the figures")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--child", choices=MESHES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(train(MESHES[args.child], args.steps)))
        return 0
    names, steps = (QUICK, 4) if args.quick else (tuple(MESHES), args.steps)
    losses: dict[str, list[float]] = {}
    for name in names:
        command = [sys.executable, __file__, "--child", name, "--steps", str(steps)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        losses[name] = json.loads(done.stdout.splitlines()[-1])
        apart = max(abs(a / b - 1) for a, b in zip(losses[name], losses["1 device"]))
        last = losses[name][-1]
        print(f"{name:30s} last loss {last:.6f}, furthest from one device {apart:.1e} relative", flush=True)
    apart_by_step = [[abs(a / b - 1) for a, b in zip(run, losses["1 device"])] for run in losses.values()]
    differences = {
        "first_relative_difference": max(run[0] for run in apart_by_step),
        "max_relative_difference": max(max(run) for run in apart_by_step),
    }
    return finish({"steps": steps, **differences, "losses": losses}, GOALS, args.json)


if __name__ == "__main__":
    sys.exit(main())

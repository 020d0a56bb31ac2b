"""`python -m jora_engine.training.plan_job JOB.json`: the plan of a training as a process, for these devices or others.

The job is the trainer's with three more fields; `train` may be null, then rows are taken to be full. Prints one JSON
line with every setting that was tried. Loads no weights and trains nothing.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import traceback
from pathlib import Path
from typing import Any

import jax

from jora_engine.config.architecture import ModelConfig
from jora_engine.config.lora import LoraConfig
from jora_engine.config.recipe import TrainConfig
from jora_engine.files.tokenizer import Tokenizer
from jora_engine.files.weights import packed_leaves, read_model_config
from jora_engine.model.sharding import Placement, make_mesh, place, use_cores
from jora_engine.training.distil import distiller
from jora_engine.training.loop import Trainer
from jora_engine.training.machine import keep_programs
from jora_engine.training.plan import GIB, Plan, abstract_params, choose, device_memory, full_rows, rungs, smaller_rows
from jora_engine.training.records import read_examples
from raft_errors import RaftError


def outlook(job: dict[str, Any]) -> list[Plan]:
    """Plans of the settings that were tried, the last one chosen.

    Args:
        job: `model`, `lora` and `training` as for the trainer, `train` or null; `devices` (accelerators to plan for,
            null for the devices here), `memory_gib` of each (null: what is free here, or unknown), and
            `tokens_per_second` (null where no speed is known).
    """
    keep_programs(Path(job["compile_cache"]) if job.get("compile_cache") else None)
    lora, training = LoraConfig.from_dict(job.get("lora", {})), TrainConfig.from_dict(job.get("training", {}))
    model = read_model_config(Path(job["model"]))
    placement, available = _devices(job.get("devices"), model, training)
    if job.get("memory_gib"):
        available = int(job["memory_gib"] * GIB)
    examples = None
    if job.get("train"):
        examples = read_examples(Path(job["train"]), Tokenizer.load(Path(job["model"]), **job.get("chat", {})))
    packed = packed_leaves(Path(job["model"]), model, training.base_precision)
    shapes = abstract_params(model, training.dtype, placement, packed)
    if examples is None:
        training = dataclasses.replace(training, epochs=1)

    def make(setting: TrainConfig) -> Trainer:
        return Trainer(shapes, model, lora, setting, examples or full_rows(setting), (), placement)

    here = not job.get("devices") and jax.default_backend() == "cpu"
    settings = rungs(training, cpu=here)
    if job.get("memory_gib"):
        step = placement.rows if placement else 1
        settings = [smaller for setting in settings for smaller in smaller_rows(setting, step)]
    _, tried = choose(make, settings, available)
    if training.distil_steps:
        whole = abstract_params(model, training.dtype, placement)["layers"]
        _, second = choose(lambda setting: distiller(make(setting), whole), settings, available)
        tried += [*second[:-1], _with_training(second[-1], tried[-1])]
    speed = job.get("tokens_per_second")
    more = () if examples else ("no records yet: one step of full rows is planned",)
    return [
        dataclasses.replace(made, seconds=made.tokens / speed if speed else None, notes=made.notes + more)
        for made in tried
    ]


def _with_training(distillation: Plan, training: Plan) -> Plan:
    """The plan of both: the memory of the distillation, which is the larger, and the steps of the two.

    The teacher's forward pass is half of a frozen base's forward and backward.
    """
    return dataclasses.replace(
        distillation,
        steps=training.steps + distillation.steps,
        tokens=training.tokens + distillation.tokens,
        flops=training.flops + 1.5 * distillation.flops,
        notes=(
            *distillation.notes,
            f"the last of these settings is that of {distillation.steps} steps of distillation, which hold the base "
            "in full beside the packed one",
        ),
    )


def _devices(count: int | None, model: ModelConfig, training: TrainConfig) -> tuple[Placement | None, int | None]:
    """Where the run would be, and the bytes of a device; `count` devices that are not here are compiled for as CPUs."""
    if not count:
        use_cores(training.micro_batch_rows)
        return place(model, training.mesh), device_memory()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)
    return (Placement(make_mesh(training.mesh), model) if count > 1 else None), None


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 2 bad input, 1 failed."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m jora_engine.training.plan_job JOB.json\n")
        return 2
    try:
        tried = outlook(json.loads(Path(arguments[0]).read_text(encoding="utf-8")))
        event: dict[str, Any] = {"event": "plan", "tried": [made.to_json() for made in tried]}
    except RaftError as error:
        event = {"event": "error", "what": error.what, "expected": error.expected, "do": error.do}
    except Exception as error:  # noqa: BLE001  the supervisor needs one line, the log the rest
        traceback.print_exc()
        event = {"event": "error", "what": f"{type(error).__name__}: {error}", "expected": "", "do": ""}
        sys.stdout.write(json.dumps(event) + "\n")
        return 1
    sys.stdout.write(json.dumps(event) + "\n")
    return 0 if event["event"] == "plan" else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

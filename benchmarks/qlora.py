"""LoRA on a base in bfloat16, int8 and NF4: memory, speed, validation loss, beside transformers + PEFT + bitsandbytes.

    python benchmarks/qlora.py --quick        # a random model of two layers: whether it works
    python benchmarks/qlora.py --json         # 100 steps of every side; about half an hour on two cores
    python benchmarks/qlora.py --plans --json # the 7B alone: a minute of CPU time for each precision and target

SQuAD records (question, passages of its article, answer) through SmolLM2-135M-Instruct, LoRA rank 16 on all linear
layers, bfloat16 activations, float32 adapter; what is the same on all sides stands in training_sides.py. The validation
loss is the mean per answer token over the same held-out records, before the first step, half way and at the end.

    bfloat16, int8, nf4   this engine; the packed forms on the fly, never in full
    peft, peft_nf4        transformers + PEFT on the base in bfloat16, and in bitsandbytes' NF4 with double quantisation

A loss gap is a side's validation loss less that of the same program on the bfloat16 base, at the last step. Each side
is a process of its own; the first step is not timed. `*_7b` are GiB of Llama-2-7B at 4096 tokens a step, compiled from
shapes for this machine's back end, `*_7b_gpu` for an H100 that need not be there: nothing of that size is run. `step`
is all that a training holds at once, its moments and its best adapter included; `program` what the compiled gradient
takes, as arguments, results and temporaries. Where XLA's compiler for CUDA is not installed (gpu_target.py says how it
is), the figures of the H100 are null and `gpu_reason` says why. `dequantised` counts the arrays that hold a packed
weight of all layers in plain numbers: there must be none.
Where the Hub cannot be reached the base's weights come from a Q4_1 file (`base_source`): they are not what a bfloat16
training left, and both programs' gaps are measured on the same ones.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gpu_target
from goals import Goals
from harness import child, compile_quickly, conclude, measure, measure_here, options, require_data
from miniature import write_base
from training_sides import GLIBC, Size, train_engine, train_peft, training_job

NEEDS = "data bitsandbytes"
KEYS = (
    "nf4_loss_gap int8_loss_gap peer_nf4_loss_gap over_peft sides/*/loss "
    "weights_gib_7b/nf4 step_gib_7b/nf4 step_gib_7b_gpu dequantised/*"
)
GOALS: Goals = {
    "weights_gib_7b/nf4": ("<=", 4.0),
    "step_gib_7b/nf4": ("<=", 12.0),
    "int8_loss_gap": ("<=", 0.005),
    "nf4_gap_beyond_peer": ("<=", 0.005),
    "dequantised/*": ("==", 0),
}
PLAN_GOALS: Goals = {name: GOALS[name] for name in ("weights_gib_7b/nf4", "step_gib_7b/nf4")}
GPU_GOALS: Goals = {"step_gib_7b_gpu/nf4": ("<=", 12.0)}
ENGINE, PEERS = ("bfloat16", "int8", "nf4"), ("peft", "peft_nf4")
PLANS = {f"7b-{precision}-{target}": (precision, target) for precision in ENGINE for target in ("here", "gpu")}
WELL_COMPILED = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "false"}  # with --quick as well, where it is no slower for a GPU
GIB = 2**30
FULL, QUICK = Size(100, 4, 512, 1, held_out=64), Size(4, 2, 1536, 1, held_out=4)


def large(precision: str, target: str, length: int) -> dict[str, Any]:
    """GiB of weights and of a whole step of Llama-2-7B, compiled from shapes for the devices here or for an H100."""
    from gpu import model_config

    from jora_engine.config.lora import LoraConfig
    from jora_engine.config.parameters import linear_layers
    from jora_engine.config.recipe import TrainConfig
    from jora_engine.files.weights import packed_leaves
    from jora_engine.model.sharding import Placement, make_mesh
    from jora_engine.model.target import compiling_for
    from jora_engine.training.loop import Trainer
    from jora_engine.training.plan import abstract_params, full_rows, plan, weights_in_full

    model = model_config("llama-2-7b")
    training = TrainConfig(sequence_length=length, micro_batch_rows=1, remat="layer", base_precision=precision)
    packed = packed_leaves(Path(), model, precision)
    placement = Placement(make_mesh((1, 1, 1, 1), gpu_target.devices()), model) if target == "gpu" else None
    with compiling_for("gpu") if target == "gpu" else contextlib.nullcontext():
        base = abstract_params(model, "bfloat16", placement, packed)
        trainer = Trainer(base, model, LoraConfig(rank=16), training, full_rows(training), placement=placement)
        step, compiled = plan(trainer), trainer.compile()
    own = compiled.memory_analysis()
    assert own is not None, "the plan has read it"
    program = own.argument_size_in_bytes + own.temp_size_in_bytes + own.output_size_in_bytes
    shapes = {parameter.shape for parameter in linear_layers(model).values()} - {(length, model.hidden_size)}
    return {
        "weights": step.bytes["weights"] / GIB,
        "temporaries": step.bytes["temporaries"] / GIB,
        "step": step.total / GIB,
        "program": program / GIB,
        "dequantised": len(weights_in_full(compiled.as_text() or "", shapes, model.num_layers)) if packed else 0,
        "compiled_for": step.compiled_for,
    }


def run(side: str, job: dict[str, Any]) -> dict[str, Any]:
    """One process: a side over the job's steps, or the plan of a 7B."""
    if side in PLANS:
        return large(*PLANS[side], job["length_7b"])
    return train_engine(job, side) if side in ENGINE else train_peft(job, side.removeprefix("peft_"))


def main() -> int:
    parser = options(__doc__, "four small steps of every side with a tiny model", [*ENGINE, *PEERS, *PLANS])
    parser.add_argument("--plans", action="store_true", help="the plans of a 7B alone, which need no data")
    parser.add_argument("--steps", type=int, default=FULL.steps)
    parser.add_argument("--length-7b", type=int, default=4096, help="tokens of the planned step of a 7B")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.child:
        return child(args, run)
    if not args.plans:
        require_data(parser, args.data)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if args.quick:
            compile_quickly(place / "programs")
        figures = plans(("nf4",) if args.quick else ENGINE, args.length_7b, place / "plan.json", here=args.quick)
        goals = PLAN_GOALS if args.plans else GOALS
        if args.quick:
            goals = {"weights_gib_7b/nf4": GOALS["weights_gib_7b/nf4"]}
        figures |= {} if args.plans else compare(args, place)
    if figures["step_gib_7b_gpu"] is not None:
        goals = {**goals, **GPU_GOALS}
    return conclude(figures, {**goals, "dequantised/*": GOALS["dequantised/*"]}, args.json)


def compare(args: Any, place: Path) -> dict[str, Any]:
    """The figures of every side over the same records."""
    from tasks.inputs.models import resolve

    size = QUICK if args.quick else replace(FULL, steps=args.steps)
    model = resolve(str(write_base(place / "base", hidden=64)) if args.quick else args.model)  # 64: a block of NF4
    job, examples = training_job(place, model.folder, args.data, size, seed=args.seed, dtype="bfloat16")
    job_file = place / "job.json"
    job_file.write_text(json.dumps(job))
    sides = {}
    for side in (*ENGINE, *PEERS):
        sides[side] = measure_here(run, side, job) if args.quick else measure(__file__, side, job_file, **GLIBC)
        per = statistics.median(sides[side]["seconds"][1:])
        print(f"{side:9s} {per:6.2f} s a step, validation {sides[side]['validation']}", flush=True)
    return {**summary(sides, job, examples), "base": model.name, "base_source": model.source}


def plans(precisions: Sequence[str], length: int, job_file: Path, *, here: bool) -> dict[str, Any]:
    """The figures of a 7B, compiled for the devices here (in this process, with `here`) and for an H100."""
    job = {"length_7b": length}
    job_file.write_text(json.dumps(job))
    reason = gpu_target.lacking()
    planned: dict[str, dict[str, dict[str, Any]]] = {"here": {}, "gpu": {}}
    for precision in precisions:
        for target in ("here",) if reason else planned:
            side = f"7b-{precision}-{target}"
            environment = gpu_target.ENVIRONMENT | WELL_COMPILED if target == "gpu" else GLIBC
            made = (
                measure_here(run, side, job)
                if here and target == "here"
                else measure(__file__, side, job_file, **environment)
            )
            planned[target][precision] = made
            print(f"7B in {precision}: {made}", flush=True)

    def gib(target: str, name: str) -> dict[str, float] | None:
        return {precision: round(one[name], 2) for precision, one in planned[target].items()} or None

    return {
        "weights_gib_7b": gib("here", "weights"),
        "step_gib_7b": gib("here", "step"),
        "step_gib_7b_gpu": gib("gpu", "step"),
        "program_gib_7b_gpu": gib("gpu", "program"),
        "gpu_reason": reason,
        "dequantised": {
            f"{precision} {target}": one["dequantised"]
            for target, made in planned.items()
            for precision, one in made.items()
            if precision != "bfloat16"
        },
        "length_7b": length,
    }


def summary(sides: dict[str, dict[str, Any]], job: dict[str, Any], examples: list[Any]) -> dict[str, Any]:
    """The figures of the sides; gaps at the last step."""
    tokens = sum(examples[i].length for numbers in job["steps"][1:] for i in numbers)
    speed = {side: tokens / sum(run["seconds"][1:]) for side, run in sides.items()}
    last = {side: run["validation"][-1] for side, run in sides.items()}
    gap, peer = last["nf4"] - last["bfloat16"], last["peft_nf4"] - last["peft"]
    return {
        "nf4_loss_gap": round(gap, 5),
        "int8_loss_gap": round(last["int8"] - last["bfloat16"], 5),
        "peer_nf4_loss_gap": round(peer, 5),
        "nf4_gap_beyond_peer": round(gap - peer, 5),
        "over_peft": round(speed["nf4"] / speed["peft_nf4"], 3),
        "over_bfloat16": {name: round(speed[name] / speed["bfloat16"], 3) for name in ("int8", "nf4")},
        "sides": {
            side: {
                "tokens_per_second": round(speed[side], 1),
                "peak_mib": round(run["peak_mib"]),
                "weights_mib": round(run["weights_mib"], 1),
                "loss": [round(value, 5) for value in run["validation"]],
            }
            for side, run in sides.items()
        },
        "steps": len(job["steps"]),
        "held_out": len(job["held_out"]),
    }


if __name__ == "__main__":
    sys.exit(main())

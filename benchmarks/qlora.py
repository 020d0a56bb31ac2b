"""LoRA on a base in bfloat16, int8 and NF4: memory, speed, validation loss, beside transformers + PEFT + bitsandbytes.

    python benchmarks/qlora.py --quick        # a random model of two layers: whether it works
    python benchmarks/qlora.py --json         # 100 steps of every side; about half an hour on two cores

SQuAD records (question, passages of its article, answer) through SmolLM2-135M-Instruct, LoRA rank 16 on all linear
layers, bfloat16 activations, float32 adapter; what is the same on all sides stands in training_sides.py. The validation
loss is the mean per answer token over the same held-out records, before the first step, half way and at the end.

    bfloat16, int8, nf4   this engine; the packed forms on the fly, never in full
    peft, peft_nf4        transformers + PEFT on the base in bfloat16, and in bitsandbytes' NF4 with double quantisation

A loss gap is a side's validation loss less that of the same program on the bfloat16 base, at the last step. Each side
is a process of its own; the first step is not timed. `*_7b` are GiB of Llama-2-7B at 4096 tokens a step, compiled from
shapes for this machine's back end (a GPU's temporaries differ, see docs/engine.md): nothing of that size is run.
Where the Hub cannot be reached the base's weights come from a Q4_1 file (`base_source`): they are not what a bfloat16
training left, and both programs' gaps are measured on the same ones.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from goals import Goals
from harness import child, compile_quickly, conclude, measure, measure_here, options, require_data
from miniature import write_base
from training_sides import GLIBC, Size, train_engine, train_peft, training_job

NEEDS = "data bitsandbytes"
KEYS = "nf4_loss_gap int8_loss_gap peer_nf4_loss_gap weights_gib_7b/nf4 step_gib_7b/nf4 over_peft sides/*/loss"
GOALS: Goals = {
    "weights_gib_7b/nf4": ("<=", 4.0),
    "step_gib_7b/nf4": ("<=", 12.0),
    "int8_loss_gap": ("<=", 0.005),
    "nf4_gap_beyond_peer": ("<=", 0.005),
}
ENGINE, PEERS = ("bfloat16", "int8", "nf4"), ("peft", "peft_nf4")
PLANS = {f"7b-{precision}": precision for precision in ENGINE}
GIB = 2**30
FULL, QUICK = Size(100, 4, 512, 1, held_out=64), Size(4, 2, 1536, 1, held_out=4)


def large(precision: str, length: int) -> dict[str, float]:
    """GiB of weights and of a whole step of Llama-2-7B, compiled from shapes."""
    from gpu import model_config

    from jora_engine.config.lora import LoraConfig
    from jora_engine.config.recipe import TrainConfig
    from jora_engine.files.weights import packed_leaves
    from jora_engine.training.loop import Trainer
    from jora_engine.training.plan import abstract_params, full_rows, plan

    model = model_config("llama-2-7b")
    training = TrainConfig(sequence_length=length, micro_batch_rows=1, remat="layer", base_precision=precision)
    packed = packed_leaves(Path(), model, precision)
    trainer = Trainer(
        abstract_params(model, "bfloat16", None, packed), model, LoraConfig(rank=16), training, full_rows(training)
    )
    step = plan(trainer)
    return {"weights": step.bytes["weights"] / GIB, "step": step.total / GIB}


def run(side: str, job: dict[str, Any]) -> dict[str, Any]:
    """One process: a side over the job's steps, or the plan of a 7B."""
    if side in PLANS:
        return large(PLANS[side], job["length_7b"])
    return train_engine(job, side) if side in ENGINE else train_peft(job, side.removeprefix("peft_"))


def main() -> int:
    parser = options(__doc__, "four small steps of every side with a tiny model", [*ENGINE, *PEERS, *PLANS])
    parser.add_argument("--steps", type=int, default=FULL.steps)
    parser.add_argument("--length-7b", type=int, default=4096, help="tokens of the planned step of a 7B")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.child:
        return child(args, run)
    require_data(parser, args.data)
    size = QUICK if args.quick else replace(FULL, steps=args.steps)

    from tasks.inputs.models import resolve

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if args.quick:
            compile_quickly(place / "programs")
        model = resolve(str(write_base(place / "base", hidden=64)) if args.quick else args.model)  # 64: a block of NF4
        job, examples = training_job(place, model.folder, args.data, size, seed=args.seed, dtype="bfloat16")
        job["length_7b"] = args.length_7b
        job_file = place / "job.json"
        job_file.write_text(json.dumps(job))

        def take(side: str) -> dict[str, Any]:
            return measure_here(run, side, job) if args.quick else measure(__file__, side, job_file, **GLIBC)

        sides, plans = {}, {}
        for side in (*ENGINE, *PEERS):
            sides[side] = take(side)
            per = statistics.median(sides[side]["seconds"][1:])
            print(f"{side:9s} {per:6.2f} s a step, validation {sides[side]['validation']}", flush=True)
        for precision in ("nf4",) if args.quick else ENGINE:
            plans[precision] = take(f"7b-{precision}")
            print(f"7B in {precision}: {plans[precision]}", flush=True)
    figures = summary(sides, plans, job, examples)
    figures |= {"base": model.name, "base_source": model.source}
    goals = {"weights_gib_7b/nf4": GOALS["weights_gib_7b/nf4"]} if args.quick else GOALS
    return conclude(figures, goals, args.json)


def summary(
    sides: dict[str, dict[str, Any]], plans: dict[str, dict[str, float]], job: dict[str, Any], examples: list[Any]
) -> dict[str, Any]:
    """The figures of a run; gaps at the last step."""
    tokens = sum(examples[i].length for numbers in job["steps"][1:] for i in numbers)
    speed = {side: tokens / sum(run["seconds"][1:]) for side, run in sides.items()}
    last = {side: run["validation"][-1] for side, run in sides.items()}
    gap, peer = last["nf4"] - last["bfloat16"], last["peft_nf4"] - last["peft"]
    return {
        "nf4_loss_gap": round(gap, 5),
        "int8_loss_gap": round(last["int8"] - last["bfloat16"], 5),
        "peer_nf4_loss_gap": round(peer, 5),
        "nf4_gap_beyond_peer": round(gap - peer, 5),
        "weights_gib_7b": {name: round(one["weights"], 3) for name, one in plans.items()},
        "step_gib_7b": {name: round(one["step"], 2) for name, one in plans.items()},
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
        "length_7b": job["length_7b"],
    }


if __name__ == "__main__":
    sys.exit(main())

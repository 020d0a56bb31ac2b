"""Training speed and memory of the engine against transformers + PEFT on this machine, in one run, interleaved.

    python benchmarks/train_vs_peft.py --quick      # a random model of two layers: whether it works
    python benchmarks/train_vs_peft.py --json

SQuAD records (question, 4 passages of its article, answer) through SmolLM2-135M-Instruct, LoRA rank 16 on all linear
layers, bfloat16 base, float32 adapter; what is the same on all sides stands in training_sides.py.

    engine       rows of packed records, this project
    peft         transformers + PEFT, SDPA, 2 records a micro batch padded to the longer one
    peft_packed  the same with transformers' own packing (position ids that restart, one row)
    tunix        google-tunix, padded records (tunix_side.py); with `--tunix PYTHON` of an environment that has it and
                 tokenizers, and best with `--rounds 1 --steps 2`, for a step takes it minutes

Each side runs in processes of its own, `--rounds` times in turn; the first step (compilation, caches) is not timed.
The figure is the median over rounds. Needs ../shared/data (or RAFT_SHARED_DATA).
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from harness import child, compile_quickly, conclude, measure, measure_here, options, ratio, require_data, turns
from miniature import write_base
from training_sides import GLIBC, Size, train_engine, train_peft, training_job
from tunix_side import train_tunix

NEEDS = "data"
KEYS = """
    records_per_second_ratio records_per_second_interval peak_memory_ratio max_loss_difference peak_mib/engine
    losses/*"""
FULL, QUICK = Size(7, 16, 2048, 4), Size(3, 2, 2048, 2)
SIDES = ("engine", "peft", "peft_packed")


def run(side: str, job: dict[str, Any]) -> dict[str, Any]:
    """One process: a side over the job's steps."""
    if side == "tunix":
        return train_tunix(job)
    return train_engine(job) if side == "engine" else train_peft(job, packed=side == "peft_packed")


def main() -> int:
    parser = options(__doc__, "engine and PEFT with a tiny model, one round of three small steps", (*SIDES, "tunix"))
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=FULL.steps)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tunix", metavar="PYTHON", help="the Python of an environment with google-tunix")
    args = parser.parse_args()
    if args.child:
        return child(args, run)
    require_data(parser, args.data)
    size = QUICK if args.quick else Size(args.steps, FULL.records, FULL.row_tokens, FULL.passages)
    sides, rounds = (SIDES[:2], 1) if args.quick else (SIDES, args.rounds)
    pythons = {"tunix": args.tunix} if args.tunix else {}
    sides = (*sides, *pythons)

    from tasks.inputs.models import resolve

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if args.quick:
            compile_quickly(place / "programs")
        model = write_base(place / "base") if args.quick else resolve(args.model).folder
        job, examples = training_job(place, model, args.data, size, seed=args.seed, dtype=args.dtype)
        job_file = place / "job.json"
        job_file.write_text(json.dumps(job))
        results: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        for turn, side in turns(sides, rounds):
            python = pythons.get(side, sys.executable)
            here = args.quick and side not in pythons
            one = measure_here(run, side, job) if here else measure(__file__, side, job_file, python, **GLIBC)
            results[side].append(one)
            per = statistics.median(one["seconds"][1:])
            print(f"round {turn + 1}: {side:12s} {per:6.2f} s a step", flush=True)
    return conclude(summary(results, job, examples), {}, args.json)


def summary(results: dict[str, list[dict[str, Any]]], job: dict[str, Any], examples: list[Any]) -> dict[str, Any]:
    """The figures of a run; ratios are times that the engine is faster."""
    timed = job["steps"][1:]
    records, tokens = sum(map(len, timed)), sum(examples[i].length for numbers in timed for i in numbers)
    rates = {side: [records / sum(run["seconds"][1:]) for run in runs] for side, runs in results.items()}
    peak = {side: statistics.median(run["peak_mib"] for run in runs) for side, runs in results.items()}
    losses = {side: np.array(runs[0]["losses"]) for side, runs in results.items()}
    ratios = {side: ratio(rates["engine"], rates[side]) for side in rates if side != "engine"}
    return {
        "records_per_second_ratio": ratios["peft"]["ratio"],
        "records_per_second_interval": ratios["peft"]["interval"],
        **{f"records_per_second_ratio_to_{side}": r["ratio"] for side, r in ratios.items() if side != "peft"},
        "ratios_by_round": [round(a / b, 3) for a, b in zip(rates["engine"], rates["peft"], strict=True)],
        "peak_memory_ratio": round(peak["engine"] / peak["peft"], 3),
        "max_loss_difference": round(float(np.abs(losses["engine"] - losses["peft"]).max()), 5),
        "records_per_second": {side: round(statistics.median(each), 4) for side, each in rates.items()},
        "tokens_per_second": {
            side: round(statistics.median(each) * tokens / records, 1) for side, each in rates.items()
        },
        "peak_mib": {side: round(value) for side, value in peak.items()},
        "losses": {side: [round(float(x), 5) for x in value] for side, value in losses.items()},
        "records": records,
        "mean_record_tokens": round(tokens / records, 1),
        "row_fill": round(results["engine"][0]["fill"], 3),
        "rounds": len(results["engine"]),
        "dtype": job["dtype"],
    }


if __name__ == "__main__":
    sys.exit(main())

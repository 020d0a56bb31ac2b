"""LoRA on a base in bfloat16, int8 and NF4: memory, speed, validation loss, beside transformers + PEFT + bitsandbytes.

    python benchmarks/qlora.py --quick        # a few small steps: whether it works
    python benchmarks/qlora.py --json         # 100 steps of every side; about half an hour on two cores

SQuAD records (question, passages of its article, answer) through SmolLM2-135M-Instruct, LoRA rank 16 on all linear
layers, bfloat16 activations, float32 adapter. Every side starts from the same adapter, sees the same records in the
same order and steps AdamW at the same rate; the validation loss is the mean per answer token over the same held-out
records, before the first step, half way and at the end.

    bfloat16, int8, nf4   this engine; the packed forms on the fly, never in full
    peft, peft_nf4        transformers + PEFT on the base in bfloat16, and in bitsandbytes' NF4 with double quantisation

A loss gap is a side's validation loss less that of the same program on the bfloat16 base, at the last step. Each side
is a process of its own; the first step is not timed. `*_7b` are GiB of Llama-2-7B at 4096 tokens a step, compiled from
shapes for this machine's back end (a GPU's temporaries differ, see docs/engine.md): nothing of that size is run.
Where the Hub cannot be reached the base's weights come from a Q4_1 file (`base_source`): they are not what a bfloat16
training left, and both programs' gaps are measured on the same ones.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from goals import Goals, finish
from train_vs_peft import PEFT_MICRO_BATCH, leaves, make_rates, padded, squad_records

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

NEEDS = "data HuggingFaceTB/SmolLM2-135M-Instruct bitsandbytes"
KEYS = "nf4_loss_gap int8_loss_gap peer_nf4_loss_gap weights_gib_7b/nf4 step_gib_7b/nf4 over_peft sides/*/loss"
GOALS: Goals = {
    "weights_gib_7b/nf4": ("<=", 4.0),
    "step_gib_7b/nf4": ("<=", 12.0),
    "int8_loss_gap": ("<=", 0.005),
    "nf4_gap_beyond_peer": ("<=", 0.005),
}
ENGINE, PEERS = ("bfloat16", "int8", "nf4"), ("peft", "peft_nf4")
GIB = 2**30


@dataclass(frozen=True)
class Size:
    """How much there is to do."""

    steps: int
    records: int  # of a step
    row_tokens: int
    passages: int
    held_out: int


FULL, QUICK = Size(100, 4, 512, 1, 64), Size(4, 2, 384, 1, 8)
ROWS = 2  # of a micro batch: one a core


def settings(job: dict[str, Any], precision: str) -> tuple[Any, Any]:
    """LoRA and training configuration of a side."""
    from jora_engine.config.lora import LoraConfig
    from jora_engine.config.recipe import TrainConfig

    training = TrainConfig(
        seed=job["seed"],
        sequence_length=job["row_tokens"],
        micro_batch_rows=ROWS,
        max_steps=len(job["steps"]),
        base_precision=precision,
    )
    return LoraConfig(rank=16, alpha=16.0), training


def run_engine(job: dict[str, Any], precision: str) -> dict[str, Any]:
    """One process: the engine with its base in that precision."""
    from jora_engine.files.tokenizer import Tokenizer
    from jora_engine.files.weights import load_params, packed_leaves, read_model_config
    from jora_engine.model.parameters import param_shapes
    from jora_engine.model.sharding import place, use_cores
    from jora_engine.training.loop import Schedule, Trainer
    from jora_engine.training.packing import Packing, pack
    from jora_engine.training.plan import bits_here
    from jora_engine.training.records import read_examples

    use_cores(ROWS)
    folder = Path(job["model"])
    model, (lora, config) = read_model_config(folder), settings(job, precision)
    examples = read_examples(Path(job["records"]), Tokenizer.load(folder))
    rows: list[tuple[int, ...]] = []
    steps = []
    for numbers in job["steps"]:
        packed = pack([examples[i] for i in numbers], config.sequence_length, seed=0, epoch=0)
        steps.append((0, range(len(rows), len(rows) + len(packed.rows))))
        rows += [tuple(numbers[i] for i in row) for row in packed.rows]
    capacity = max(sum(len(examples[i].completion) for i in row) for row in rows)
    placement = place(model)
    shapes = param_shapes(model, packed=packed_leaves(folder, model, precision))
    shardings = placement.params(shapes) if placement else None
    params = load_params(folder, model, "bfloat16", shardings, bits=bits_here(), precision=precision)
    held_out = [examples[i] for i in job["held_out"]]
    trainer = Trainer(params, model, lora, config, examples, held_out, placement)
    trainer.schedule = Schedule(
        (Packing(tuple(rows), config.sequence_length, -(-capacity // 64) * 64, 0.0),), tuple(steps), len(steps)
    )
    trainer.optimizer, trainer.rate = make_rates(job)
    state, seconds, losses = trainer.initial_state(), [], []
    weights = sum(x.addressable_shards[0].data.nbytes for x in leaves(params))
    validation = [trainer.evaluate(state.lora)]
    for step in range(len(steps)):
        began = time.perf_counter()
        state, row = trainer._step(state, step, lambda: False, lambda event: None)
        seconds.append(time.perf_counter() - began)
        losses.append(row["loss"])
        if step + 1 in (len(steps) // 2, len(steps)):
            validation.append(trainer.evaluate(state.lora))
    return {"losses": losses, "seconds": seconds, "validation": validation, "weights_mib": weights / 2**20}


def run_peft(job: dict[str, Any], precision: str) -> dict[str, Any]:
    """One process: transformers + PEFT, with bitsandbytes where the base is in NF4, as their documentation does it."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from jora_engine.adapters.peft_folder import adapter_tensors
    from jora_engine.files.tokenizer import Tokenizer
    from jora_engine.files.weights import read_model_config
    from jora_engine.model.lora import init_lora
    from jora_engine.training.records import read_examples

    torch.manual_seed(0)
    folder = Path(job["model"])
    config, (lora, _) = read_model_config(folder), settings(job, "bfloat16")
    examples = read_examples(Path(job["records"]), Tokenizer.load(folder))
    options: dict[str, Any] = {"dtype": torch.bfloat16, "attn_implementation": "sdpa", "use_cache": False}
    if precision == "nf4":
        options |= {
            "device_map": "cpu",
            "quantization_config": BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=torch.bfloat16,
            ),
        }
    base = AutoModelForCausalLM.from_pretrained(folder, **options)
    weights = sum(p.numel() * p.element_size() for p in base.parameters())
    model = peft.get_peft_model(base, peft.LoraConfig(**lora.to_peft(config) | {"inference_mode": False}))
    start = adapter_tensors(init_lora(lora, config, job["seed"]), config, range(config.num_layers))
    state = {k.replace(".weight", ".default.weight"): torch.tensor(np.array(v)) for k, v in start.items()}
    assert not model.load_state_dict(state, strict=False).unexpected_keys
    parameters = [p for p in model.parameters() if p.requires_grad]
    for p in parameters:
        p.data = p.data.float()
    optimizer = torch.optim.AdamW(parameters, lr=job["rate"], eps=1e-8, weight_decay=0.0)

    def summed(numbers: list[int], backward: bool) -> float:
        weight = sum(len(examples[i].completion) for i in numbers)
        total = 0.0
        for at in range(0, len(numbers), PEFT_MICRO_BATCH):
            inputs, labels = padded([examples[i] for i in numbers[at : at + PEFT_MICRO_BATCH]])
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = model(**inputs, labels=labels, num_items_in_batch=torch.tensor(weight)).loss
            if backward:
                loss.backward()
            total += float(loss.detach())
        return total

    def evaluate() -> float:
        with torch.inference_mode():
            return summed(job["held_out"], backward=False)

    losses, seconds, validation = [], [], [evaluate()]
    for step, numbers in enumerate(job["steps"], 1):
        began = time.perf_counter()
        losses.append(summed(numbers, backward=True))
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - began)
        if step in (len(job["steps"]) // 2, len(job["steps"])):
            validation.append(evaluate())
    return {"losses": losses, "seconds": seconds, "validation": validation, "weights_mib": weights / 2**20}


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
    made = plan(trainer)
    return {"weights": made.bytes["weights"] / GIB, "step": made.total / GIB}


def child(side: str, job_file: Path) -> int:
    job = json.loads(job_file.read_text())
    if side.startswith("7b-"):
        print(json.dumps(large(side.removeprefix("7b-"), job["length_7b"])))
        return 0
    result = run_engine(job, side) if side in ENGINE else run_peft(job, "nf4" if side == "peft_nf4" else "bfloat16")
    result["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(result))
    return 0


def measure(side: str, job_file: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", side, "--job", str(job_file)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    environment["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"  # as the train stage sets it, for every side
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    default_data = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four small steps of every side")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object with the figures")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RAFT_SHARED_DATA", default_data)))
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct", help="Hub id or folder")
    parser.add_argument("--steps", type=int, default=FULL.steps)
    parser.add_argument("--length-7b", type=int, default=4096, help="tokens of the planned step of a 7B")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", choices=[*ENGINE, *PEERS, *(f"7b-{p}" for p in ENGINE)], help=argparse.SUPPRESS)
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args.child, args.job)
    if not args.data.is_dir():
        parser.error("shared data not found: set RAFT_SHARED_DATA or place it at ../shared/data")
    size = QUICK if args.quick else FULL
    steps = size.steps if args.quick else args.steps

    from jora_engine.files.tokenizer import Tokenizer
    from jora_engine.training.records import read_examples
    from tasks.inputs.models import resolve

    with tempfile.TemporaryDirectory() as place:
        model = resolve(args.model)
        count = steps * size.records + size.held_out
        records = squad_records(args.data, 2 * count, args.seed, size.passages)
        file = Path(place, "records.jsonl")
        file.write_text("".join(json.dumps(r) + "\n" for r in records))
        examples = read_examples(file, Tokenizer.load(model.folder))
        kept = [i for i, e in enumerate(examples) if e.length <= size.row_tokens][:count]
        held_out, kept = kept[: size.held_out], kept[size.held_out :]
        job = {
            "model": str(model.folder),
            "records": str(file),
            "steps": [kept[i : i + size.records] for i in range(0, steps * size.records, size.records)],
            "held_out": held_out,
            "row_tokens": size.row_tokens,
            "dtype": "bfloat16",
            "rate": 5e-4,
            "seed": args.seed,
            "length_7b": args.length_7b,
        }
        job_file = Path(place, "job.json")
        job_file.write_text(json.dumps(job))
        sides, planned = {}, {}
        for side in (*ENGINE, *PEERS):
            sides[side] = measure(side, job_file)
            per = statistics.median(sides[side]["seconds"][1:])
            print(f"{side:9s} {per:6.2f} s a step, validation {sides[side]['validation']}", flush=True)
        for precision in ENGINE:
            planned[precision] = measure(f"7b-{precision}", job_file)
            print(f"7B in {precision}: {planned[precision]}", flush=True)
    figures = summary(sides, planned, job, examples)
    figures |= {"base": model.name, "base_source": model.source}
    for name, value in figures.items():
        print(f"{name}: {value}")
    goals = {"weights_gib_7b/nf4": GOALS["weights_gib_7b/nf4"]} if args.quick else GOALS
    return finish(figures, goals, args.json)


def summary(
    sides: dict[str, dict[str, Any]], planned: dict[str, dict[str, float]], job: dict[str, Any], examples: list[Any]
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
        "weights_gib_7b": {name: round(one["weights"], 3) for name, one in planned.items()},
        "step_gib_7b": {name: round(one["step"], 2) for name, one in planned.items()},
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

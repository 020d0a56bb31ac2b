"""Training speed and memory of the engine against transformers + PEFT on this machine, in one run, interleaved.

    python benchmarks/train_vs_peft.py --quick      # whether it works and about how fast: small steps, a minute
    python benchmarks/train_vs_peft.py --json

SQuAD records (question, 4 passages of its article, answer) through SmolLM2-135M-Instruct, LoRA rank 16 on all linear
layers, bfloat16 base, float32 adapter. Every side starts from the same adapter, sees the same records in the same
order, steps AdamW at the same rates, and normalises the loss by the tokens of the whole step.

    engine       rows of packed records, this project
    peft         transformers + PEFT, SDPA, 2 records a micro batch padded to the longer one
    peft_packed  the same with transformers' own packing (position ids that restart, one row)

Each side runs in processes of its own, `--rounds` times in turn; the first step (compilation, caches) is not timed.
The figure is the median over rounds. Needs ../shared/data (or RAFT_SHARED_DATA).
"""

from __future__ import annotations

import argparse
import json
import os
import random
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


@dataclass(frozen=True)
class Size:
    """How much a step holds."""

    row_tokens: int
    records_per_step: int
    passages: int


FULL, QUICK = Size(2048, 16, 4), Size(1024, 4, 2)
ENGINE_ROWS = 2  # rows of a micro batch: one a core
PEFT_MICRO_BATCH = 2
SIDES = ("engine", "peft", "peft_packed")


def squad_records(data: Path, count: int, seed: int, passages: int = FULL.passages) -> list[dict[str, str]]:
    """Question, its paragraph and others of the same article in random order, short answer."""
    folder = data / "squad_v1_dev"
    corpus = [json.loads(line) for line in (folder / "corpus.jsonl").open(encoding="utf-8")]
    texts = {row["id"]: row for row in corpus}
    articles: dict[str, list[str]] = {}
    for row in corpus:
        articles.setdefault(row["title"], []).append(row["id"])
    questions = [json.loads(line) for line in (folder / "questions.jsonl").open(encoding="utf-8")]
    rng = random.Random(seed)
    records = []
    for question in rng.sample(questions, count):
        gold = question["gold_doc_ids"][0]
        others = [i for i in articles[texts[gold]["title"]] if i != gold]
        shown = [gold, *rng.sample(others, min(passages - 1, len(others)))]
        rng.shuffle(shown)
        context = "\n\n".join(f"[{n}] {texts[i]['title']}\n{texts[i]['text']}" for n, i in enumerate(shown, 1))
        answer = f"Passage [{shown.index(gold) + 1}] tells it.\n<ANSWER>: {question['answers'][0]}"
        records.append({"instruction": question["question"], "input": context, "output": answer})
    return records


def run_engine(job: dict[str, Any]) -> dict[str, Any]:
    """One process: the engine over the job's steps."""
    from jora_engine.files.tokenizer import Tokenizer
    from jora_engine.files.weights import load_params, read_model_config
    from jora_engine.model.lora import init_lora
    from jora_engine.model.parameters import param_shapes
    from jora_engine.model.sharding import place, use_cores
    from jora_engine.training.loop import Schedule, Trainer
    from jora_engine.training.packing import Packing, pack
    from jora_engine.training.plan import bits_here
    from jora_engine.training.records import read_examples

    use_cores(ENGINE_ROWS)
    row_tokens = job["row_tokens"]
    folder = Path(job["model"])
    model, (lora, config) = read_model_config(folder), engine_config(job)
    examples = read_examples(Path(job["records"]), Tokenizer.load(folder))
    rows: list[tuple[int, ...]] = []
    steps = []
    for numbers in job["steps"]:
        packed = pack([examples[i] for i in numbers], row_tokens, seed=0, epoch=0)
        steps.append((0, range(len(rows), len(rows) + len(packed.rows))))
        rows += [tuple(numbers[i] for i in row) for row in packed.rows]
    capacity = max(sum(len(examples[i].completion) for i in row) for row in rows)
    packing = Packing(tuple(rows), row_tokens, -(-capacity // 64) * 64, 0.0)
    placement = place(model)
    shardings = placement.params(param_shapes(model)) if placement else None
    params = load_params(folder, model, job["dtype"], shardings, bits=bits_here())  # as the trainer does
    trainer = Trainer(params, model, lora, config, examples, (), placement)
    trainer.schedule = Schedule((packing,), tuple(steps), len(steps))
    trainer.optimizer, trainer.rate = make_rates(job)
    state, losses, seconds = trainer.initial_state(), [], []
    assert all(np.array_equal(a, b) for a, b in zip(leaves(state.lora), leaves(init_lora(lora, model, job["seed"]))))
    for step in range(len(steps)):
        began = time.perf_counter()
        state, row = trainer._step(state, step, lambda: False, lambda event: None)
        seconds.append(time.perf_counter() - began)
        losses.append(row["loss"])
    fill = sum(examples[i].length for row in rows for i in row) / (row_tokens * len(rows))
    return {"losses": losses, "seconds": seconds, "fill": fill}


def leaves(tree: Any) -> list[Any]:
    import jax

    return jax.tree.leaves(tree)


def engine_config(job: dict[str, Any]):
    from jora_engine.config.lora import LoraConfig
    from jora_engine.config.recipe import TrainConfig

    steps = len(job["steps"])
    training = TrainConfig(
        seed=job["seed"],
        sequence_length=job["row_tokens"],
        micro_batch_rows=ENGINE_ROWS,
        accumulation=1,
        max_steps=steps,
        dtype=job["dtype"],
    )
    return LoraConfig(rank=16, alpha=16.0), training


def make_rates(job: dict[str, Any]):
    """Constant rate for both sides: what differs is then arithmetic alone."""
    import optax

    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(job["rate"], eps=1e-8, weight_decay=0.0))
    return optimizer, lambda step: job["rate"]


def run_peft(job: dict[str, Any], packed: bool) -> dict[str, Any]:
    """One process: transformers + PEFT over the job's steps, written the way their documentation does."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    from jora_engine.adapters.peft_folder import adapter_tensors
    from jora_engine.files.tokenizer import Tokenizer
    from jora_engine.files.weights import read_model_config
    from jora_engine.model.lora import init_lora
    from jora_engine.training.records import read_examples

    torch.manual_seed(0)
    folder = Path(job["model"])
    config, (lora, _) = read_model_config(folder), engine_config(job)
    examples = read_examples(Path(job["records"]), Tokenizer.load(folder))
    base = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, job["dtype"]), attn_implementation="sdpa", use_cache=False
    )
    model = peft.get_peft_model(base, peft.LoraConfig(**lora.to_peft(config) | {"inference_mode": False}))
    start = adapter_tensors(init_lora(lora, config, job["seed"]), config, range(config.num_layers))
    state = {k.replace(".weight", ".default.weight"): torch.tensor(np.array(v)) for k, v in start.items()}
    assert not model.load_state_dict(state, strict=False).unexpected_keys
    parameters = [p for p in model.parameters() if p.requires_grad]
    assert all(p.dtype == torch.float32 for p in parameters)
    optimizer = torch.optim.AdamW(parameters, lr=job["rate"], eps=1e-8, weight_decay=0.0)
    losses, seconds = [], []
    for numbers in job["steps"]:
        began = time.perf_counter()
        chosen = [examples[i] for i in numbers]
        weight = sum(len(e.completion) for e in chosen)
        total = 0.0
        groups = (
            fit_rows(chosen, job["row_tokens"])
            if packed
            else [chosen[i : i + 2] for i in range(0, len(chosen), PEFT_MICRO_BATCH)]
        )
        for group in groups:
            inputs, labels = flattened(group) if packed else padded(group)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=job["dtype"] == "bfloat16"):
                out = model(**inputs, labels=labels, num_items_in_batch=torch.tensor(weight))
            out.loss.backward()
            total += float(out.loss.detach())
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - began)
        losses.append(total)
    return {"losses": losses, "seconds": seconds}


def padded(group: list[Any]):
    import torch

    width = max(e.length for e in group)
    ids, mask = torch.zeros(len(group), width, dtype=torch.long), torch.zeros(len(group), width, dtype=torch.long)
    labels = torch.full((len(group), width), -100)
    for row, e in enumerate(group):
        ids[row, : e.length] = torch.tensor(np.concatenate(e))
        mask[row, : e.length] = 1
        labels[row, len(e.prompt) : e.length] = torch.tensor(e.completion).long()
    return {"input_ids": ids, "attention_mask": mask}, labels


def fit_rows(chosen: list[Any], row_tokens: int) -> list[list[Any]]:
    from jora_engine.training.packing import pack

    return [[chosen[i] for i in row] for row in pack(chosen, row_tokens, seed=0, epoch=0).rows]


def flattened(group: list[Any]):
    import torch

    ids = torch.tensor(np.concatenate([np.concatenate(e) for e in group]))[None].long()
    positions = torch.tensor(np.concatenate([np.arange(e.length) for e in group]))[None].long()
    labels = torch.cat(
        [torch.cat([torch.full((len(e.prompt),), -100), torch.tensor(e.completion).long()]) for e in group]
    )
    return {"input_ids": ids, "position_ids": positions}, labels[None]


def child(side: str, job_file: Path) -> int:
    job = json.loads(job_file.read_text())
    result = run_engine(job) if side == "engine" else run_peft(job, packed=side == "peft_packed")
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
    parser.add_argument(
        "--quick", action="store_true", help="engine and PEFT, one round of three small steps: a minute"
    )
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object with the figures")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RAFT_SHARED_DATA", default_data)))
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct", help="Hub id or folder")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args.child, args.job)
    if not args.data.is_dir():
        parser.error("shared data not found: set RAFT_SHARED_DATA or place it at ../shared/data")
    rounds, steps, size = (1, 3, QUICK) if args.quick else (args.rounds, args.steps, FULL)
    sides = SIDES[:2] if args.quick else SIDES

    from jora_engine.files.tokenizer import Tokenizer
    from jora_engine.training.records import read_examples
    from tasks.inputs.models import resolve

    with tempfile.TemporaryDirectory() as place:
        model = resolve(args.model).folder
        records = squad_records(args.data, steps * size.records_per_step, args.seed, size.passages)
        file = Path(place, "records.jsonl")
        file.write_text("".join(json.dumps(r) + "\n" for r in records))
        examples = read_examples(file, Tokenizer.load(model))
        kept = [i for i, e in enumerate(examples) if e.length <= size.row_tokens]
        job = {
            "model": str(model),
            "records": str(file),
            "steps": [kept[i : i + size.records_per_step] for i in range(0, len(kept), size.records_per_step)],
            "row_tokens": size.row_tokens,
            "dtype": args.dtype,
            "rate": 5e-4,
            "seed": args.seed,
        }
        job_file = Path(place, "job.json")
        job_file.write_text(json.dumps(job))
        results: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        for turn in range(rounds):
            for side in sides:
                results[side].append(measure(side, job_file))
                per = statistics.median(results[side][-1]["seconds"][1:])
                print(f"round {turn + 1}: {side:12s} {per:6.2f} s a step", flush=True)
    figures = summary(results, job, examples)
    for name, value in figures.items():
        print(f"{name}: {value}")
    if args.json:
        print(json.dumps(figures))
    return 0


def summary(results: dict[str, list[dict[str, Any]]], job: dict[str, Any], examples: list[Any]) -> dict[str, Any]:
    timed = job["steps"][1:]
    records, tokens = sum(map(len, timed)), sum(examples[i].length for numbers in timed for i in numbers)
    rate = {
        side: statistics.median(records / sum(run["seconds"][1:]) for run in runs) for side, runs in results.items()
    }
    peak = {side: statistics.median(run["peak_mib"] for run in runs) for side, runs in results.items()}
    losses = {side: np.array(runs[0]["losses"]) for side, runs in results.items()}
    ratios = {
        other: [
            sum(theirs["seconds"][1:]) / sum(ours["seconds"][1:])
            for ours, theirs in zip(results["engine"], results[other])
        ]
        for other in list(results)[1:]
    }
    return {
        "records_per_second_ratio": round(statistics.median(ratios["peft"]), 3),
        **{
            f"records_per_second_ratio_to_{o}": round(statistics.median(r), 3) for o, r in ratios.items() if o != "peft"
        },
        "ratios_by_round": [round(r, 3) for r in ratios["peft"]],
        "peak_memory_ratio": round(peak["engine"] / peak["peft"], 3),
        "max_loss_difference": round(float(np.abs(losses["engine"] - losses["peft"]).max()), 5),
        "records_per_second": {side: round(value, 4) for side, value in rate.items()},
        "tokens_per_second": {side: round(value * tokens / records, 1) for side, value in rate.items()},
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

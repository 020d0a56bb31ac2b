"""Generation speed of the engine against transformers on this machine, in one run, interleaved.

    python benchmarks/generation_speed.py --quick
    python benchmarks/generation_speed.py --json

The same RAFT prompts of SQuAD (question and four passages of its article) through SmolLM2-135M-Instruct in bfloat16,
greedy, the same number of new tokens for every prompt on both sides (no token ends one):

    engine        `Generator.generate`, this project
    transformers  `model.generate` on the batch padded on the left, SDPA

Each side runs in a process of its own, `--rounds` times in turn. What compiles, compiles before the clock starts.
`prefill` is the time for one new token of each prompt, `decode` the rest of the whole batch's time, `single` one prompt
alone. A ratio above 1 says how many times faster the engine is; it is the median over rounds, of wall time and (under
`cpu`) of CPU seconds, which a busy machine disturbs less. Needs ../shared/data (or RAFT_SHARED_DATA).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NEEDS = "data HuggingFaceTB/SmolLM2-135M-Instruct"
KEYS = """
    over_transformers prefill_over_transformers decode_over_transformers single_over_transformers cpu/over_transformers
    decode_tokens_per_cpu_second/engine equal_tokens"""
SIDES = ("engine", "transformers")
PARTS = {"over": "batch", "prefill_over": "prefill", "decode_over": "decode", "single_over": "single"}


def run_engine(job: dict[str, Any]) -> Callable[[list[list[int]], int], list[list[int]]]:
    """`run(prompts, count)` of this project."""
    from jora_engine.generation.generator import Generator

    generator = Generator(Path(job["model"]), dtype=job["dtype"], max_rows=job["rows"])

    def run(prompts: list[list[int]], count: int) -> list[list[int]]:
        completions = generator.generate(prompts, max_new_tokens=count, ignore_eos=True)
        return [list(one.token_ids) for one in completions]

    return run


def run_transformers(job: dict[str, Any]) -> Callable[[list[list[int]], int], list[list[int]]]:
    """`run(prompts, count)` of transformers, as its documentation writes it."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        job["model"], dtype=getattr(torch, job["dtype"]), attn_implementation="sdpa"
    ).eval()

    def run(prompts: list[list[int]], count: int) -> list[list[int]]:
        width = max(map(len, prompts))
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=count,
                min_new_tokens=count,
                do_sample=False,
                pad_token_id=0,
            )
        return out[:, width:].tolist()

    return run


def child(side: str, job_file: Path) -> int:
    """One side of one round, as JSON: seconds of wall and CPU time by part, and the tokens of the batch."""
    job = json.loads(job_file.read_text())
    run = {"engine": run_engine, "transformers": run_transformers}[side](job)
    prompts, count = job["prompts"], job["new_tokens"]
    run(prompts, count)
    run(prompts[:1], count)
    seconds: dict[str, tuple[float, float]] = {}

    def clock(name: str, some: list[list[int]], tokens: int) -> list[list[int]]:
        wall, cpu = time.perf_counter(), time.process_time()
        replies = run(some, tokens)
        seconds[name] = time.perf_counter() - wall, time.process_time() - cpu
        return replies

    clock("prefill", prompts, 1)
    tokens = clock("batch", prompts, count)
    clock("single", prompts[:1], count)
    seconds["decode"] = tuple(a - b for a, b in zip(seconds["batch"], seconds["prefill"]))  # type: ignore[assignment]
    print(json.dumps({"seconds": seconds, "tokens": tokens}))
    return 0


def measure(side: str, job_file: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", side, "--job", str(job_file)]
    root = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "PYTHONPATH": root}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def raft_prompts(model: Path, data: Path, count: int, tokens: int) -> list[list[int]]:
    """`count` prompts of SQuAD, those nearest to `tokens` long among a few hundred."""
    from train_vs_peft import squad_records

    from jora_engine.files.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(model)
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": f"{record['instruction']}\n\n{record['input']}"}], add_generation_prompt=True
        )
        for record in squad_records(data, 20 * count, seed=0)
    ]
    return sorted(prompts, key=lambda prompt: abs(len(prompt) - tokens))[:count]


def main() -> int:
    default_data = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of four prompts of 256 tokens, 16 new ones")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object with the figures")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RAFT_SHARED_DATA", default_data)))
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct", help="Hub id or folder")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--prompt-tokens", type=int, default=736)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--rows", type=int, default=16, help="prompts that the engine decodes side by side at most")
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args.child, args.job)
    if not args.data.is_dir():
        parser.error("shared data not found: set RAFT_SHARED_DATA or place it at ../shared/data")
    if args.quick:
        args.rounds, args.prompts, args.prompt_tokens, args.new_tokens = 1, 4, 256, 16

    from tasks.inputs.models import resolve

    with tempfile.TemporaryDirectory() as place:
        model = resolve(args.model).folder
        job = {
            "model": str(model),
            "prompts": raft_prompts(model, args.data, args.prompts, args.prompt_tokens),
            "new_tokens": args.new_tokens,
            "rows": args.rows,
            "dtype": args.dtype,
        }
        job_file = Path(place, "job.json")
        job_file.write_text(json.dumps(job))
        results: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
        for turn in range(args.rounds):
            for side in SIDES if turn % 2 == 0 else SIDES[::-1]:
                results[side].append(measure(side, job_file))
                parts = results[side][-1]["seconds"]
                words = ", ".join(f"{name} {wall:.2f} s ({cpu:.2f} CPU)" for name, (wall, cpu) in parts.items())
                print(f"round {turn + 1}: {side:12s} {words}", flush=True)
    figures = summary(results, job)
    for name, value in figures.items():
        print(f"{name}: {value}")
    if args.json:
        print(json.dumps(figures))
    return 0


def summary(results: dict[str, list[dict[str, Any]]], job: dict[str, Any]) -> dict[str, Any]:
    def ratios(part: str, clock: int) -> list[float]:
        pairs = zip(results["transformers"], results["engine"], strict=True)
        return [theirs["seconds"][part][clock] / ours["seconds"][part][clock] for theirs, ours in pairs]

    def medians(clock: int) -> dict[str, float]:
        return {f"{key}_transformers": round(statistics.median(ratios(part, clock)), 3) for key, part in PARTS.items()}

    pairs = list(zip(results["engine"][0]["tokens"], results["transformers"][0]["tokens"], strict=True))
    prompt_tokens = sum(map(len, job["prompts"]))
    cpu = {
        side: {part: statistics.median(run["seconds"][part][1] for run in runs) for part in ("prefill", "decode")}
        for side, runs in results.items()
    }
    new = len(job["prompts"]) * (job["new_tokens"] - 1)
    return {
        **medians(0),
        "cpu": medians(1),
        "by_round": {part: [round(r, 3) for r in ratios(part, 0)] for part in PARTS.values()},
        "prefill_tokens_per_cpu_second": {side: round(prompt_tokens / of["prefill"], 1) for side, of in cpu.items()},
        "decode_tokens_per_cpu_second": {side: round(new / of["decode"], 1) for side, of in cpu.items()},
        "prompts": len(job["prompts"]),
        "prompt_tokens": round(prompt_tokens / len(job["prompts"]), 1),
        "new_tokens": job["new_tokens"],
        "equal_first_tokens": sum(a[0] == b[0] for a, b in pairs),
        "equal_tokens": round(sum(x == y for a, b in pairs for x, y in zip(a, b)) / sum(len(a) for a, _ in pairs), 3),
        "rounds": len(results["engine"]),
        "dtype": job["dtype"],
    }


if __name__ == "__main__":
    sys.exit(main())

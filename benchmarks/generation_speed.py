"""Generation speed of the engine against transformers on this machine, in one run, interleaved.

    python benchmarks/generation_speed.py --quick
    python benchmarks/generation_speed.py --json
    python benchmarks/generation_speed.py --packed --json   # the engine on a base in int8 and in NF4 as well

The same RAFT prompts of SQuAD (question and four passages of its article) through SmolLM2-135M-Instruct in bfloat16,
greedy, the same number of new tokens for every prompt on both sides (no token ends one):

    engine        `Generator.generate`, this project
    transformers  `model.generate` on the batch padded on the left, SDPA
    llama_cpp     llama.cpp's own server with a slot for each prompt, on the same weights as GGUF in the same dtype,
                  where the extra `llama-cpp` is installed (else `over_llama_cpp` is null)

Each side runs in a process of its own, `--rounds` times in turn. What compiles, compiles before the clock starts.
`prefill` is the time for one new token of each prompt, `decode` the rest of the whole batch's time, `single` one prompt
alone. A ratio above 1 says how many times faster the engine is; it is the median over rounds, of wall time and (under
`cpu`) of CPU seconds, which a busy machine disturbs less. `packed` is what decodes on packed bases per CPU second, as
a share of what does on the base in `--dtype`. Needs ../shared/data (or RAFT_SHARED_DATA).
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import (
    child,
    compile_quickly,
    conclude,
    measure,
    measure_here,
    options,
    ratio,
    require_data,
    squad_records,
    turns,
)
from miniature import write_base

NEEDS = "data"
KEYS = """
    over_transformers prefill_over_transformers decode_over_transformers single_over_transformers over_llama_cpp
    cpu/over_transformers
    decode_tokens_per_cpu_second/engine equal_tokens"""
SIDES = ("engine", "transformers", "llama_cpp")
PACKED = {"engine_int8": "int8", "engine_nf4": "nf4"}
PARTS = {"over": "batch", "prefill_over": "prefill", "decode_over": "decode", "single_over": "single"}


def run_engine(job: dict[str, Any], precision: str) -> Callable[[list[list[int]], int], list[list[int]]]:
    """`run(prompts, count)` of this project, the base held in that precision."""
    from jora_engine.generation.generator import Generator

    generator = Generator(Path(job["model"]), dtype=job["dtype"], max_rows=job["rows"], precision=precision)

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


def run_llama_cpp(job: dict[str, Any]) -> Callable[[list[list[int]], int], list[list[int]]]:
    """`run(prompts, count)` of llama.cpp; it gives no tokens back."""
    from serving_arms.rivals import llama_cpp

    longest = max(map(len, job["prompts"])) + job["new_tokens"] + 8
    answered = llama_cpp({"gguf": job["gguf"], "rows": len(job["prompts"]), "longest": longest})

    def run(prompts: list[list[int]], count: int) -> list[list[int]]:
        answered([{"prompt": prompt, "new_tokens": count} for prompt in prompts])
        return []

    return run


def run_side(side: str, job: dict[str, Any]) -> dict[str, Any]:
    """One side of one round: seconds of wall and CPU time by part, and the tokens of the batch."""
    others = {"transformers": run_transformers, "llama_cpp": run_llama_cpp}
    run = others[side](job) if side in others else run_engine(job, PACKED.get(side, "bfloat16"))
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
    return {"seconds": seconds, "tokens": tokens}


def raft_prompts(model: Path, data: Path, count: int, tokens: int, passages: int) -> list[list[int]]:
    """`count` prompts of SQuAD, those nearest to `tokens` long among a few hundred."""
    from jora_engine.files.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(model)
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": f"{record['instruction']}\n\n{record['input']}"}], add_generation_prompt=True
        )
        for record in squad_records(data, 20 * count, seed=0, passages=passages)
    ]
    return sorted(prompts, key=lambda prompt: abs(len(prompt) - tokens))[:count]


def main() -> int:
    parser = options(__doc__, "a tiny model, one round of four prompts of 512 tokens, 8 new ones", [*SIDES, *PACKED])
    parser.add_argument("--packed", action="store_true", help="the engine on packed bases as well")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--prompt-tokens", type=int, default=736)
    parser.add_argument("--passages", type=int, default=4, help="of a prompt")
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--rows", type=int, default=16, help="prompts that the engine decodes side by side at most")
    args = parser.parse_args()
    if args.child:
        return child(args, run_side)
    require_data(parser, args.data)
    if args.quick:
        args.rounds, args.prompts, args.prompt_tokens, args.passages, args.new_tokens = 1, 4, 512, 1, 8

    from jora_engine.files.gguf_writer import write_gguf
    from jora_engine.generation.llama_cpp import available
    from tasks.inputs.models import resolve

    sides = SIDES if available() and not args.quick else SIDES[:2]  # llama.cpp knows no tokenizer in miniature
    with tempfile.TemporaryDirectory() as place:
        if args.quick:
            compile_quickly(Path(place, "programs"))
        model = write_base(Path(place, "base")) if args.quick else resolve(args.model).folder
        job = {
            "model": str(model),
            "prompts": raft_prompts(model, args.data, args.prompts, args.prompt_tokens, args.passages),
            "new_tokens": args.new_tokens,
            "rows": args.rows,
            "dtype": args.dtype,
        }
        if "llama_cpp" in sides:
            job["gguf"] = str(write_gguf(model, Path(place, "base.gguf"), args.dtype))
        job_file = Path(place, "job.json")
        job_file.write_text(json.dumps(job))
        sides = (*sides, *PACKED) if args.packed else sides
        results: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        for turn, side in turns(sides, args.rounds):
            one = measure_here(run_side, side, job) if args.quick else measure(__file__, side, job_file)
            results[side].append(one)
            parts = one["seconds"]
            words = ", ".join(f"{name} {wall:.2f} s ({cpu:.2f} CPU)" for name, (wall, cpu) in parts.items())
            print(f"round {turn + 1}: {side:12s} {words}", flush=True)
    return conclude(summary(results, job), {}, args.json)


def summary(results: dict[str, list[dict[str, Any]]], job: dict[str, Any]) -> dict[str, Any]:
    """The figures of a run; ratios are times that the engine is faster."""

    def ratios(clock: int, rival: str = "transformers") -> dict[str, dict[str, Any]]:
        seconds = {
            side: {part: [run["seconds"][part][clock] for run in runs] for part in PARTS.values()}
            for side, runs in results.items()
        }
        return {key: ratio(seconds[rival][part], seconds["engine"][part]) for key, part in PARTS.items()}

    wall, used = ratios(0), ratios(1)
    other = ratios(0, "llama_cpp") if "llama_cpp" in results else dict.fromkeys(PARTS)
    pairs = list(zip(results["engine"][0]["tokens"], results["transformers"][0]["tokens"], strict=True))
    prompt_tokens = sum(map(len, job["prompts"]))
    cpu = {
        side: {part: statistics.median(run["seconds"][part][1] for run in runs) for part in ("prefill", "decode")}
        for side, runs in results.items()
    }
    new = len(job["prompts"]) * (job["new_tokens"] - 1)
    return {
        **{f"{key}_transformers": of["ratio"] for key, of in wall.items()},
        **{f"{key}_llama_cpp": of and of["ratio"] for key, of in other.items()},
        "cpu": {f"{key}_transformers": of["ratio"] for key, of in used.items()},
        "intervals": {f"{key}_transformers": of["interval"] for key, of in wall.items()},
        "prefill_tokens_per_cpu_second": {side: round(prompt_tokens / of["prefill"], 1) for side, of in cpu.items()},
        "packed": {
            precision: round(cpu["engine"]["decode"] / cpu[side]["decode"], 3)
            for side, precision in PACKED.items()
            if side in cpu
        },
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

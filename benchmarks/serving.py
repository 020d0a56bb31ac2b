"""The server's engine under load, beside itself with few adapters and beside others, on this machine.

    python benchmarks/serving.py --quick                # a tiny model, a pair of small blocks, an arm of each kind
    python benchmarks/serving.py --json                 # SmolLM2-135M-Instruct, bfloat16; more than an hour
    python benchmarks/serving.py --only peft --json     # one arm
    python benchmarks/serving.py --part promotion       # the arms of one part

Two sides take turns in short blocks (A B, B A, ...) with the same requests; a ratio is the median over pairs, with the
95 % bootstrap interval of that median. Prompts are random tokens, or the prefix cache would be measured, and lengths
are forced. Ours is the engine in its own thread as `raft serve` runs it, the client in the same process; wall time
decides, CPU seconds of either side stand beside it. Arms:

    s_lora      S-LoRA's generator, alpha 1 (their table's): 1,000 adapters on disk over 5; host memory as `raft serve`
    s_lora_3    the same with alpha .3: a quarter of the requests is for the first 1 % of the adapters
    lorax       LoRAX's load: users with 1 s to think, 25 adapters over 1; first token from when a request was due
    peft        transformers + PEFT, 25 adapters, switched before each request; short prompts
    peft_raft   the same on prompts of 736 tokens with answers of 48
    decode      tokens/s of decoding alone beside one batch of transformers' `generate`
    llama_cpp   requests/s beside llama.cpp's own server on the merged model (bfloat16), where the extra is installed
    prefix      time to first token of a question asked again, over the first time; 736 tokens
    soak        the tiny model behind the HTTP server, see `serving_arms/soak.py`
    promotion   promotions and rollbacks under load, in float32, see `serving_arms/promotion.py`; `promotion_seconds` is
                the longest time from the start of `raft promote` to the head of the first answer of the new version
    routing     where `auto` sends questions of three real domains and of none, see `serving_arms/routing.py`; needs
                ../shared/data (or RAFT_SHARED_DATA) and the embedder
    routing_f1  three adapters of these domains, and unseen questions answered by the one that `auto` chooses and by
                the domain's own, see `serving_arms/routing_f1.py`; trains them once for a folder of --adapters

`lost` counts requests without their answer in all arms, `compiles` programs compiled after everything was warm.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

# a script's own folder comes first on the path, and there this file would be taken for the package `serving`
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from goals import finish
from harness import compile_quickly
from serving_arms.arms import ARMS, PARTS, QUICK, QUICK_ARMS, WHOLE, Bench

KEYS = """
    throughput_1000_over_5 ttft_25_over_1 throughput_25_over_1 over_peft_switching over_peft_raft
    decode_over_transformers over_llama_cpp prefix_ttft lost memory_growth compiles promotion_seconds routed_right
    abstained_right f1_auto_minus_oracle
    arms/*/seconds"""
GOALS = {"lost": ("<=", 0), "compiles": ("<=", 0)}
TARGETS = {
    "throughput_1000_over_5": (">=", 0.95),
    "ttft_25_over_1": ("<=", 1.05),
    "throughput_25_over_1": (">=", 0.95),
    "over_peft_switching": (">=", 5),
    "over_peft_raft": (">=", 3),
    "decode_over_transformers": (">=", 1.5),
    "prefix_ttft": ("<=", 0.3),
    "memory_growth": ("<=", 0.02),
    "routed_right": (">=", 0.95),
    "f1_auto_minus_oracle": (">=", -0.01),
    "promotion_seconds": ("<=", 5),
}
"""Of a whole measurement on a quiet machine."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="a tiny model, a pair of small blocks, an arm of each kind"
    )
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object with the figures")
    parser.add_argument("--only", action="append", choices=ARMS, help="this arm alone; may be repeated")
    parser.add_argument("--part", action="append", choices=PARTS, help="the arms of this part; may be repeated")
    default_data = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RAFT_SHARED_DATA", default_data)))
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct", help="Hub id or folder")
    parser.add_argument("--pairs", type=int, help="pairs of blocks instead of each arm's own number")
    parser.add_argument("--rows", type=int, default=8, help="requests answered side by side")
    parser.add_argument("--rank", type=int, default=8, help="of the adapters, on all linear layers")
    parser.add_argument("--adapters", type=Path, help="folder for the adapters, kept for the next run (10 GB)")
    parser.add_argument("--adapter-memory", type=int, default=1024, help="MiB for adapters in host memory")
    args = parser.parse_args()
    sizes = QUICK if args.quick else WHOLE
    figures: dict = {key: None for key in KEYS.split() if "/" not in key} | {"lost": 0, "compiles": 0, "arms": {}}
    with tempfile.TemporaryDirectory(prefix="raft-serving-") as place:
        if args.quick:
            compile_quickly(Path(place, "programs"))
        bench = Bench(Path(place), sizes, args)
        chosen = [*(args.only or []), *(arm for part in args.part or [] for arm in PARTS[part])]
        for name in chosen or (QUICK_ARMS if args.quick else ARMS):
            began = time.perf_counter()
            print(f"--- {name}", flush=True)
            result = ARMS[name](bench)
            result["seconds"] = round(time.perf_counter() - began, 1)
            figures["arms"][name] = result
            figures |= result.pop("figures", {})
            print(f"{name}: {json.dumps(result)}", flush=True)
    figures["lost"] = sum(arm.get("lost", 0) for arm in figures["arms"].values())
    figures["compiles"] = sum(arm.get("compiles", 0) for arm in figures["arms"].values())
    goals = GOALS if args.quick else GOALS | {k: v for k, v in TARGETS.items() if figures[k] is not None}
    return finish(figures, goals, args.json)


if __name__ == "__main__":
    sys.exit(main())

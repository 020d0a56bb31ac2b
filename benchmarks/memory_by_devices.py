"""Bytes on each device for LoRA training of true 7B, 13B and 70B shapes on 1 to 256 devices, compiled and not run.

    python benchmarks/memory_by_devices.py --quick
    python benchmarks/memory_by_devices.py --json
    python benchmarks/memory_by_devices.py --models llama-2-70b --devices 64 --tokens 8192 --ways fsdp

Each line compiles the training step (rank 16 on all linear layers, bfloat16 base, float32 adapter and AdamW) from
shapes alone, for that many forced host devices, in a process of its own: weights are never made. `tensor` cuts one row
over all devices, `fsdp` gives each device a row of its own and gathers a layer's weights when it needs them. The
figures are the compiler's for XLA's CPU back end: temporaries of another back end differ, the other parts do not.

`jora` is the setting of JORA's own table (Llama-2-7B, 512 tokens, one row, rank 16 on q and v, cut over heads), whose
measured megabytes (JORA, 1, 2 and 4 GPUs: 23102, 16068, 11460) stand beside it. Exits 1 where ours are more than three
quarters of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

from goals import Goals, finish

KEYS = "compiled_not_run rows/*/gib rows/*/parts_gib/weights jora_setting/*/gib jora_setting/*/ratio"
GOALS: Goals = {"jora_setting/*/ratio": ("<=", 0.75)}
GIB = 2**30
JORA_MB = {1: 23102, 2: 16068, 4: 11460}
SHAPES: dict[str, dict[str, int]] = {
    "llama-2-7b": {"vocab": 32000, "hidden": 4096, "ffn": 11008, "layers": 32, "heads": 32, "kv_heads": 32},
    "llama-2-13b": {"vocab": 32000, "hidden": 5120, "ffn": 13824, "layers": 40, "heads": 40, "kv_heads": 40},
    "llama-2-70b": {"vocab": 32000, "hidden": 8192, "ffn": 28672, "layers": 80, "heads": 64, "kv_heads": 8},
    "llama-3.1-8b": {"vocab": 128256, "hidden": 4096, "ffn": 14336, "layers": 32, "heads": 32, "kv_heads": 8},
    "qwen2.5-7b": {"vocab": 152064, "hidden": 3584, "ffn": 18944, "layers": 28, "heads": 28, "kv_heads": 4},
}
LLAMA_2 = ("llama-2-7b", "llama-2-13b", "llama-2-70b")


def compiled(job: dict[str, Any]) -> dict[str, Any]:
    """One process: the plan of one setting."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", job["devices"])
    from jora_engine.config.architecture import ModelConfig
    from jora_engine.config.lora import LoraConfig
    from jora_engine.config.recipe import TrainConfig
    from jora_engine.model.sharding import Placement, make_mesh
    from jora_engine.training.loop import Trainer
    from jora_engine.training.plan import abstract_params, full_rows, plan

    m = SHAPES[job["model"]]
    qwen = job["model"].startswith("qwen")
    model = ModelConfig(
        family="qwen2" if qwen else "llama",
        vocab_size=m["vocab"],
        hidden_size=m["hidden"],
        intermediate_size=m["ffn"],
        num_layers=m["layers"],
        num_heads=m["heads"],
        num_kv_heads=m["kv_heads"],
        head_dim=m["hidden"] // m["heads"],
        qkv_bias=qwen,
    )
    mesh = (1, 1, -1, 1) if job["way"] == "tensor" else (1, -1, 1, 1)
    placement = Placement(make_mesh(mesh), model) if job["devices"] > 1 else None
    training = TrainConfig(
        micro_batch_rows=placement.rows if placement else 1,
        accumulation=1,
        sequence_length=job["tokens"],
        remat=job["remat"],
    )
    lora = LoraConfig.preset(job["preset"])
    shapes = abstract_params(model, "bfloat16", placement)
    began = time.perf_counter()
    made = plan(Trainer(shapes, model, lora, training, full_rows(training), (), placement))
    return {
        "gib": round(made.total / GIB, 2),
        "parts_gib": {name: round(size / GIB, 3) for name, size in made.bytes.items()},
        "collectives": made.collectives,
        "compile_seconds": round(time.perf_counter() - began, 1),
        "notes": list(made.notes),
    }


def measure(job: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", json.dumps(job)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return {**job, **json.loads(done.stdout.splitlines()[-1])}


def show(row: dict[str, Any]) -> None:
    parts = row["parts_gib"]
    kinds = ", ".join(f"{count} {kind}" for kind, count in row["collectives"].items()) or "none"
    print(
        f"{row['model']:12s} {row['preset']:10s} {row['tokens']:6d} tokens, {row['devices']:3d} {row['way']:6s} "
        f"remat {row['remat']:6s}: {row['gib']:7.2f} GiB a device "
        f"(weights {parts['weights']:.2f}, temporaries {parts['temporaries']:.2f}); collectives: {kinds}; "
        f"compiled in {row['compile_seconds']} s, not run",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="7B on 1 and 4 devices at 2048 tokens, and JORA's setting")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object with the figures")
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(LLAMA_2))
    parser.add_argument("--devices", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--tokens", nargs="+", type=int, default=[2048, 8192, 32768])
    parser.add_argument("--ways", nargs="+", choices=["tensor", "fsdp"], default=["tensor", "fsdp"])
    parser.add_argument("--remat", choices=["none", "names", "layer"], default="layer")
    parser.add_argument("--skip-jora", action="store_true", help="leave out JORA's own setting")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(compiled(json.loads(args.child))))
        return 0
    models, devices, tokens = (args.models, args.devices, args.tokens)
    if args.quick:
        models, devices, tokens = ["llama-2-7b"], [1, 4], [2048]
    jobs = [
        {"model": m, "preset": "all-linear", "tokens": t, "devices": n, "way": way, "remat": args.remat}
        for m in models
        for t in tokens
        for n in devices
        for way in args.ways
        if n > 1 or way == args.ways[0]
    ]
    own = {"model": "llama-2-7b", "preset": "jora", "tokens": 512, "way": "tensor", "remat": "layer"}
    rows, beside = [], []
    for job in jobs:
        rows.append(measure(job))
        show(rows[-1])
    for n in () if args.skip_jora else (1, 4) if args.quick else (1, 2, 4):
        row = measure({**own, "devices": n})
        show(row)
        ratio = row["gib"] * GIB / (JORA_MB[n] * 1e6)
        beside.append({**row, "jora_gib": round(JORA_MB[n] * 1e6 / GIB, 2), "ratio": round(ratio, 3)})
        print(f"  JORA measured {beside[-1]['jora_gib']} GiB there: ratio {ratio:.2f}")
    goals = {} if args.skip_jora else GOALS
    return finish({"compiled_not_run": True, "rows": rows, "jora_setting": beside}, goals, args.json)


if __name__ == "__main__":
    sys.exit(main())

"""LoRA training of Llama-2-7B on the accelerator at hand: tokens/s, MFU and peak memory by row length, beside PEFT.

    python benchmarks/gpu.py --quick          # a tiny model, whatever the device: shows that everything runs
    python benchmarks/gpu.py --json           # the full table, for one GPU of 80 GiB
    python benchmarks/gpu.py --lengths 4096 --skip attention peft

Needs only the engine's dependencies and this repository; weights are random in the true shapes, made on the device.
Every measurement is a process of its own, so that peak memory is its own; the first steps (compilation) are not timed.

    engine     rank 16 on all linear layers, one record of the full length a row, 8192 tokens a step (one row beyond),
               remat and attention back end as `planning` and `attention_backends` choose them
    peft       transformers + PEFT in the same run where torch and peft are importable: the same shapes, tokens and
               optimiser, flash attention 2 where it is installed, else SDPA; gradient checkpointing only if it must
    int8, nf4  the same with the base packed (`train.base_precision`, docs/quantised.md)
    jora       JORA's own setting: 512 tokens, one row, rank 16 on q and v (JORA: 0.19 s a step, 23.1 GB on its own GPU)
    attention  each attention back end: right or not, seconds forward and backward

MFU counts 4 FLOPs a frozen and 6 an adapter parameter and causal attention, no recomputation, against the device's
dense bfloat16 peak (known for H100, H200 and A100).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a bare checkout

from harness import compile_quickly

KEYS = "model rows/*/side"  # a row that failed has `error` and makes the exit code 1
GIB = 2**30
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
MODELS: dict[str, dict[str, int]] = {
    "llama-2-7b": {"vocab": 32000, "hidden": 4096, "ffn": 11008, "layers": 32, "heads": 32, "kv_heads": 32},
    "llama-3.1-8b": {"vocab": 128256, "hidden": 4096, "ffn": 14336, "layers": 32, "heads": 32, "kv_heads": 8},
    "tiny": {"vocab": 512, "hidden": 128, "ffn": 352, "layers": 2, "heads": 4, "kv_heads": 2},
}
SUPERVISED = 128  # target tokens of a record
STEP_TOKENS = 8192


def model_config(name: str) -> Any:
    from jora_engine.config.architecture import ModelConfig

    m = MODELS[name]
    return ModelConfig(
        "llama", m["vocab"], m["hidden"], m["ffn"], m["layers"], m["heads"], m["kv_heads"], m["hidden"] // m["heads"]
    )


def run_engine(job: dict[str, Any]) -> dict[str, Any]:
    """One process: the engine at one row length."""
    import jax

    from jora_engine.config.lora import LoraConfig
    from jora_engine.config.recipe import TrainConfig
    from jora_engine.files.weights import packed_leaves
    from jora_engine.model.parameters import untrained_params
    from jora_engine.training.loop import Trainer
    from jora_engine.training.plan import (
        abstract_params,
        choose,
        device_memory,
        flops_per_token,
        full_rows,
        held_as_bits,
        rungs,
    )

    model, lora = model_config(job["model"]), LoraConfig.preset(job["preset"])
    length, rows = job["length"], job["rows"]
    precision = job.get("precision", "bfloat16")
    training = TrainConfig(
        sequence_length=length, micro_batch_rows=rows, accumulation=1, remat="auto", base_precision=precision
    )
    packed = packed_leaves(Path(), model, precision)
    shapes = abstract_params(model, "bfloat16", None, packed)
    examples = full_rows(training, SUPERVISED)
    trainer, tried = choose(
        lambda setting: Trainer(shapes, model, lora, setting, examples),
        rungs(training, cpu=jax.default_backend() == "cpu"),
        device_memory(),
    )

    trainer.params = untrained_params(model, 0, bits=held_as_bits(), packed=packed)
    state, seconds = trainer.initial_state(), []
    for _ in range(job["steps"] + 2):
        began = time.perf_counter()
        state, row = trainer._step(state, 0, lambda: False, lambda event: None)
        seconds.append(time.perf_counter() - began)
    device = jax.devices()[0]
    step = statistics.median(seconds[2:])
    peak = next((flops for kind, flops in PEAK_FLOPS.items() if kind in device.device_kind), None)
    flops = flops_per_token(model, lora, float(length), SUPERVISED / length) * rows * length
    stats = device.memory_stats() or {}
    return {
        "seconds": round(step, 4),
        "tokens_per_second": round(rows * length / step, 1),
        "mfu": round(flops / step / peak, 3) if peak else None,
        "peak_gib": round(stats["peak_bytes_in_use"] / GIB, 2) if "peak_bytes_in_use" in stats else None,
        "planned_gib": round(tried[-1].total / GIB, 2),
        "remat": trainer.config.remat,
        "attention": list(trainer.backend),
        "loss": round(row["loss"], 4),
        "device": device.device_kind,
        "jax": jax.__version__,
    }


def run_peft(job: dict[str, Any]) -> dict[str, Any]:
    """One process: transformers + PEFT at one row length, without gradient checkpointing where it fits."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    for checkpointing in (False, True):
        try:
            return peft_steps(job, device, checkpointing)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
    return {"error": "out of memory with gradient checkpointing"}


def peft_steps(job: dict[str, Any], device: str, checkpointing: bool) -> dict[str, Any]:
    import peft
    import torch
    import transformers

    from jora_engine.config.lora import LoraConfig

    m, length, rows = MODELS[job["model"]], job["length"], job["rows"]
    flash = device == "cuda" and importlib.util.find_spec("flash_attn") is not None
    attention = "flash_attention_2" if flash else "sdpa"
    config = transformers.LlamaConfig(
        vocab_size=m["vocab"],
        hidden_size=m["hidden"],
        intermediate_size=m["ffn"],
        num_hidden_layers=m["layers"],
        num_attention_heads=m["heads"],
        num_key_value_heads=m["kv_heads"],
        max_position_embeddings=max(4096, length),
        use_cache=False,
    )
    torch.manual_seed(0)
    with torch.device(device):
        base = transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation=attention
        )
    wanted = LoraConfig.preset(job["preset"]).to_peft(model_config(job["model"])) | {"inference_mode": False}
    model = peft.get_peft_model(base, peft.LoraConfig(**wanted))
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=device == "cuda")
    ids = torch.zeros(rows, length, dtype=torch.long, device=device)
    labels = ids.clone()
    labels[:, : length - min(SUPERVISED, length // 2)] = -100
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(job["steps"] + 2):
        began = time.perf_counter()
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        float(loss.detach())
        seconds.append(time.perf_counter() - began)
    step = statistics.median(seconds[2:])
    return {
        "seconds": round(step, 4),
        "tokens_per_second": round(rows * length / step, 1),
        "peak_gib": round(torch.cuda.max_memory_allocated() / GIB, 2) if device == "cuda" else None,
        "attention": attention,
        "gradient_checkpointing": checkpointing,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, peft)},
    }


def run_attention(job: dict[str, Any]) -> dict[str, Any]:
    """One process: every attention back end at one shape."""
    import jax
    import jax.numpy as jnp

    from jora_engine.model.attention_backends import KERNELS, Shape, _draw, attend_with, choose, fault

    model, out = model_config(job["model"]), {}
    shape = Shape(
        rows=job["rows"],
        length=job["length"],
        heads=model.num_heads,
        kv_heads=model.num_kv_heads,
        head_dim=model.head_dim,
        window=None,
        packed=job["packed"],
        dtype="bfloat16",
    )
    inputs, mask, weight = _draw(shape)
    inputs = [x.astype(jnp.bfloat16) for x in inputs]
    for name in ("blocked", *KERNELS):
        wrong = "" if name == "blocked" else fault(shape, KERNELS[name])
        if wrong:
            out[name] = {"right": False, "why": wrong}
            continue
        function = attend_with(name, None)

        def value(q: Any, k: Any, v: Any, function: Any = function) -> Any:
            return (function(q, k, v, mask).astype(jnp.float32) * weight).sum()

        try:
            out[name] = {"right": True, **attention_seconds(value, inputs, job["steps"])}
        except jax.errors.JaxRuntimeError as error:  # XLA:CPU lacks some products of bfloat16
            if "UNIMPLEMENTED" not in str(error):
                raise
            out[name] = {"right": False, "why": str(error)}
    return {"chosen": list(choose(shape)), "backends": out, "device": jax.devices()[0].device_kind}


def attention_seconds(value: Any, inputs: list[Any], steps: int) -> dict[str, float]:
    """Median times of `value` and of its gradient, compiled."""
    import jax

    times = {}
    for what, call in (("forward", jax.jit(value)), ("both", jax.jit(jax.grad(value, argnums=(0, 1, 2))))):
        seconds = []
        for _ in range(steps + 1):
            began = time.perf_counter()
            jax.block_until_ready(call(*inputs))
            seconds.append(time.perf_counter() - began)
        times[f"{what}_seconds"] = round(statistics.median(seconds[1:]), 5)
    return times


CHILDREN = {"engine": run_engine, "peft": run_peft, "attention": run_attention}


def measure(what: str, job: dict[str, Any]) -> dict[str, Any]:
    """A child's figures, or its last line of complaint."""
    command = [sys.executable, __file__, "--child", what, "--job", json.dumps(job)]
    environment = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92", "HF_HUB_OFFLINE": "1", **os.environ}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode == 0:
        return {**job, "side": what, **json.loads(done.stdout.splitlines()[-1])}
    said = done.stderr.strip().splitlines() or ["no message"]
    return {**job, "side": what, "error": said[-1][:300]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the tiny model at 128 tokens, two steps")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object with the figures")
    parser.add_argument("--model", choices=MODELS, default="llama-2-7b")
    parser.add_argument("--lengths", nargs="+", type=int, default=[512, 2048, 4096, 8192, 16384, 32768])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--skip", nargs="+", choices=["engine", "peft", "jora", "attention", "packed"], default=[])
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(CHILDREN[args.child](json.loads(args.job))))
        return 0
    name, lengths, steps = (args.model, args.lengths, args.steps)
    if args.quick:
        name, lengths, steps = "tiny", [128], 2
    sides = [side for side in ("engine", "peft") if side not in args.skip]
    if "peft" in sides and not all(importlib.util.find_spec(m) for m in ("torch", "transformers", "peft")):
        print("peft: torch, transformers or peft is not installed, left out")
        sides.remove("peft")
    jobs = [
        {"model": name, "preset": "all-linear", "length": n, "rows": max(1, STEP_TOKENS // n), "steps": steps}
        for n in lengths
    ]
    if args.quick:
        jobs = [{**job, "rows": 2} for job in jobs]
    held = [{**jobs[min(2, len(jobs) - 1)], "precision": one} for one in ("int8", "nf4") if "packed" not in args.skip]
    if "jora" not in args.skip:
        jobs.append({"model": name, "preset": "jora", "length": min(lengths[0], 512), "rows": 1, "steps": steps})
    processes = [(side, job) for job in jobs for side in sides]
    processes += [("engine", job) for job in held if "engine" in sides]
    if "attention" not in args.skip:
        shapes = [{**job, "packed": packed} for job in jobs[: len(lengths)] for packed in (False, True)]
        processes += [("attention", shape) for shape in shapes]
    rows = []
    with tempfile.TemporaryDirectory(prefix="raft-gpu-") as programs:
        if args.quick:
            compile_quickly(Path(programs))
        for side, job in processes:
            rows.append(measure(side, job))
            print(json.dumps(rows[-1]), flush=True)
    if args.json:
        print(json.dumps({"model": name, "rows": rows}))
    return 1 if any("error" in row for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())

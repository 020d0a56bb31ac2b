"""The work of `export`: the adapter as a PEFT folder, a merged model, and the gate that both compute the same."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.nouns import Record, read_jsonl
from raft_errors import RaftError
from tasks.runtime.folders import ModelFolder, StageFiles, read_json, write_json
from tasks.work.bench import Bench, Outcome
from tasks.work.model_card import README, model_card

if TYPE_CHECKING:
    from tasks.export import ExportConfig

POSITIONS = 48  # per prompt, at which logits are compared


def build(
    bench: Bench,
    config: ExportConfig,
    train: StageFiles,
    records: StageFiles,
    index: StageFiles,
    chunk: StageFiles,
    *,
    base: ModelFolder,
) -> Outcome:
    """Writes adapter/ (PEFT and raft.json), merged/ (Hugging Face) and parity.json."""
    from jora_engine.export import read_adapter, write_merged
    from jora_engine.tokenizer import Tokenizer
    from jora_engine.weights import model_digest, read_model_config

    bench.progress(0, None, "writing adapter and merged model")
    shutil.copytree(train.path("adapter"), bench.out / "adapter")
    serving = {
        "base_model": base.name,
        "base_digest": model_digest(base.folder),
        "base_source": base.source,
        "prompt": read_json(records.path("contract.json")),
        "retrieval": {
            "embedder": read_json(index.path("index.json"))["embedder"],
            "chunking": chunk.ingredients["config"],
            "search": records.ingredients["shared"]["retrieval"],
        },
        "lineage": dict(bench.lineage),
    }
    write_json(bench.out / "adapter" / "raft.json", serving)
    card = model_card(serving, name="adapter", training=train.ingredients["config"], figures=train.metrics)
    (bench.out / "adapter" / README).write_text(card, encoding="utf-8")
    model = read_model_config(base.folder)
    lora, lora_config = read_adapter(bench.out / "adapter", model)
    tokenizer = Tokenizer.load(base.folder)
    write_merged(
        base.folder,
        lora,
        lora_config,
        model,
        bench.out / "merged",
        dtype=config.merged_dtype,
        chat_template=tokenizer.chat_template if tokenizer.fallback_template else None,
    )
    prompts = gate_prompts(records, tokenizer, config.gate_prompts)
    figures = measure(
        base=base.folder,
        trained=train.path("adapter"),
        adapter=bench.out / "adapter",
        merged=bench.out / "merged",
        prompts=prompts,
        config=config,
        bench=bench,
    )
    write_json(bench.out / "parity.json", figures)
    judge(figures, config.tolerance)
    size = sum(p.stat().st_size for p in (bench.out / "merged").iterdir())
    return Outcome(
        f"adapter, merged model ({size / 1e6:.0f} MB, {config.merged_dtype}); largest logit difference to the engine: "
        f"PEFT {figures['peft']['max_logit_difference']:.1e}, merged {figures['merged']['max_logit_difference']:.1e}, "
        f"{len(prompts)} of {len(prompts)} greedy continuations equal",
        {
            "merged_bytes": size,
            "peft_max_logit_difference": figures["peft"]["max_logit_difference"],
            "merged_max_logit_difference": figures["merged"]["max_logit_difference"],
            "continuations": len(prompts),
            **({"fallback_template": tokenizer.fallback_template} if tokenizer.fallback_template else {}),
        },
    )


def gate_prompts(records: StageFiles, tokenizer: Any, count: int) -> list[list[int]]:
    """Token ids of the first prompts of the test records, then of the others."""
    from data.prompting.contract import to_messages

    rows: list[Record] = []
    for split in ("test", "validation", "train"):
        rows += list(read_jsonl(records.path(f"{split}.jsonl"), Record))
    return [tokenizer.apply_chat_template(to_messages(row), add_generation_prompt=True) for row in rows[:count]]


def measure(
    *,
    base: Path,
    trained: Path,
    adapter: Path,
    merged: Path,
    prompts: list[list[int]],
    config: ExportConfig,
    bench: Bench,
) -> dict[str, Any]:
    """Runs the same prompts through the engine, PEFT and the merged model, all in float32.

    A merged model in bfloat16 is compared with the engine on the same rounded weights; what the rounding costs is told
    beside it as `rounding`.
    """
    import numpy as np

    from jora_engine.generate import Generator

    positions = [_spread(len(prompt)) for prompt in prompts]
    engine = Generator(base, adapter=trained, dtype="float32")
    expected = {"adapter": _logits(engine, prompts, positions)}
    wanted = [list(c.token_ids) for c in engine.generate(prompts, max_new_tokens=config.gate_tokens)]
    wanted_of = {"peft": wanted, "merged": wanted}
    references = {"peft": "adapter", "merged": "adapter"}
    rounding: dict[str, float] = {}
    if config.merged_dtype != "float32":
        rounded = Generator(merged, dtype="float32")
        expected["merged"] = _logits(rounded, prompts, positions)
        references["merged"] = "merged"
        wanted_of["merged"] = [list(c.token_ids) for c in rounded.generate(prompts, max_new_tokens=config.gate_tokens)]
        pairs = zip(expected["adapter"], expected["merged"], strict=True)
        rounding = {"rounding": max(float(np.abs(a - b).max()) for a, b in pairs)}
    arrays = {f"{name}/{i}": array for name, rows in expected.items() for i, array in enumerate(rows)}
    np.savez(bench.scratch / "logits.npz", **arrays)
    job = {
        "base": str(base),
        "adapter": str(adapter),
        "merged": str(merged),
        "prompts": prompts,
        "positions": positions,
        "references": references,
        "tokens": config.gate_tokens,
        "eos": list(engine.tokenizer.eos_ids),
        "logits": str(bench.scratch / "logits.npz"),
        "out": str(bench.scratch / "parity.json"),
    }
    del engine
    write_json(bench.scratch / "parity-job.json", job)
    bench.run_child(
        "tasks.runtime.parity",
        [str(bench.scratch / "parity-job.json")],
        log_file=bench.scratch / "parity.log",
        on_event=lambda e: bench.progress(e.get("done", 0), e.get("total"), f"comparing {e.get('model', '')}"),
        environment={"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
    )
    found = read_json(bench.scratch / "parity.json")
    return {
        name: {
            "max_logit_difference": figures["max_logit_difference"],
            "continuations_equal": sum(a == b for a, b in zip(figures["continuations"], wanted_of[name], strict=True)),
            "continuations": len(prompts),
            **(rounding if name == "merged" else {}),
        }
        for name, figures in found.items()
    } | {"prompts": len(prompts), "tokens": config.gate_tokens, "tolerance": config.tolerance}


def judge(figures: Mapping[str, Any], tolerance: float) -> None:
    """Closes the gate.

    Raises:
        RaftError: naming what disagrees and by how much.
    """
    faults = []
    for name, words in (("peft", "the base with the PEFT adapter"), ("merged", "the merged model")):
        row = figures[name]
        if not row["max_logit_difference"] <= tolerance:  # also where it is not a number
            faults.append(f"{words} differs by {row['max_logit_difference']:.3g} in a logit (allowed {tolerance:g})")
        if row["continuations_equal"] != row["continuations"]:
            wrong = row["continuations"] - row["continuations_equal"]
            faults.append(f"{words} continues {wrong} of {row['continuations']} prompts differently")
    if faults:
        raise RaftError(
            "The parity gate is closed: " + "; ".join(faults) + "; nothing was exported",
            expected="transformers and PEFT to compute what the engine trained, in float32",
            do="run again to rule out damaged files; if it stays, report it with the base model's name",
        )


def _spread(length: int) -> list[int]:
    """At most `POSITIONS` positions of a prompt, evenly spread, the last one among them."""
    step = max(1, length // POSITIONS)
    return sorted({*range(length - 1, -1, -step)})[-POSITIONS:]


def _logits(engine: Any, prompts: list[list[int]], positions: list[list[int]]) -> list[Any]:
    return [engine.logits([prompt])[0][at] for prompt, at in zip(prompts, positions, strict=True)]

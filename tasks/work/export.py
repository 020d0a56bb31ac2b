"""The work of `export`: the adapter as a PEFT folder, a merged model, and the proof that both compute the same."""

from __future__ import annotations

import operator
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.nouns import Record, read_jsonl
from data.prompting.contract import with_quote_weight
from raft_errors import RaftError
from tasks.runtime.adapted import adapted, choice_of
from tasks.runtime.folders import ModelFolder, StageFiles, read_json, write_json
from tasks.work.bench import Bench, Outcome
from tasks.work.model_card import README, model_card

if TYPE_CHECKING:
    from tasks.ask import QuotingConfig
    from tasks.export import ExportConfig

POSITIONS = 48  # of a prompt at which logits are compared


def build(
    bench: Bench,
    config: ExportConfig,
    train: StageFiles,
    records: StageFiles,
    index: StageFiles,
    chunk: StageFiles,
    adapt: StageFiles | None = None,
    calibrate: StageFiles | None = None,
    *,
    base: ModelFolder,
    quoting: QuotingConfig,
    reranker: ModelFolder | None = None,
) -> Outcome:
    """Writes adapter/ (PEFT and raft.json), merged/ (Hugging Face) and parity.json."""
    from jora_engine.adapters.merged_model import write_merged
    from jora_engine.adapters.peft_folder import precision_of, read_adapter
    from jora_engine.files.tokenizer import Tokenizer
    from jora_engine.files.weights import read_model_config

    bench.progress(0, None, "writing adapter and merged model")
    contract = with_quote_weight(read_json(records.path("contract.json")), quoting.quote_weight)
    if calibrate is not None:
        contract["citing"] = read_json(calibrate.path("citing.json"))
    _write_adapter(
        bench, train, records, index, chunk, base, served_reranker(adapt, reranker), choice_of(adapt), contract
    )
    model = read_model_config(base.folder)
    lora, lora_config = read_adapter(bench.out / "adapter", model)
    tokenizer = Tokenizer.load(base.folder, **base.chat)
    write_merged(
        base.folder,
        lora,
        lora_config,
        model,
        bench.out / "merged",
        dtype=config.merged_dtype,
        chat_template=tokenizer.portable_template() if tokenizer.fallback_template or base.chat else None,
    )
    prompts = parity_prompts(records, tokenizer, config.gate_prompts)
    figures = measure_parity(
        base=base.folder,
        engine_adapter=train.path("adapter"),
        adapter=bench.out / "adapter",
        merged=bench.out / "merged",
        prompts=prompts,
        config=config,
        bench=bench,
        precision=precision_of(bench.out / "adapter"),
    )
    write_json(bench.out / "parity.json", figures)
    require_parity(figures, config.tolerance)
    size = sum(p.stat().st_size for p in (bench.out / "merged").iterdir())
    return Outcome(
        f"adapter, merged model ({size / 1e6:.0f} MB, {config.merged_dtype}); largest logit difference to the engine: "
        f"PEFT {figures['peft']['max_logit_difference']:.1e}, merged {figures['merged']['max_logit_difference']:.1e}, "
        f"{len(prompts)} of {len(prompts)} greedy continuations equal{_full_base_in_words(figures)}",
        {
            "merged_bytes": size,
            "peft_max_logit_difference": figures["peft"]["max_logit_difference"],
            "merged_max_logit_difference": figures["merged"]["max_logit_difference"],
            "continuations": len(prompts),
            **({"full_base": figures["full_base"]} if "full_base" in figures else {}),
            **({"fallback_template": tokenizer.fallback_template} if tokenizer.fallback_template else {}),
        },
    )


def _write_adapter(
    bench: Bench,
    train: StageFiles,
    records: StageFiles,
    index: StageFiles,
    chunk: StageFiles,
    base: ModelFolder,
    reranker: ModelFolder | None,
    choice: Mapping[str, Any],
    contract: Mapping[str, Any],
) -> None:
    """The PEFT folder with its model card and raft.json: how to serve it, and the digest of every stage behind it."""
    from jora_engine.adapters.peft_folder import PRECISION, precision_of
    from jora_engine.files.weights import model_digest

    shutil.copytree(train.path("adapter"), bench.out / "adapter")
    serving = {
        "base_model": base.name,
        "base_digest": model_digest(base.folder),
        "base_source": base.source,
        "prompt": contract,
        "retrieval": {
            "embedder": read_json(index.path("index.json"))["embedder"],
            "chunking": chunk.ingredients["config"],
            "search": records.ingredients["shared"]["retrieval"],
            **({"reranker": reranker_entry(reranker)} if reranker is not None else {}),
            **({"adapted": choice} if choice else {}),
        },
        "lineage": dict(bench.lineage),
    }
    if (precision := precision_of(train.path("adapter"))) != "bfloat16":
        serving[PRECISION] = precision
    write_json(bench.out / "adapter" / "raft.json", serving)
    card = model_card(serving, name="adapter", training=train.ingredients["config"], figures=train.metrics)
    (bench.out / "adapter" / README).write_text(card, encoding="utf-8")


def served_reranker(adapt: StageFiles | None, reranker: ModelFolder | None) -> ModelFolder | None:
    """The cross-encoder that chose the passages: the fitted one, the configured one, or none."""
    return adapted(adapt, "reranker") or (reranker if choice_of(adapt).get("rerank", True) else None)


def reranker_entry(reranker: ModelFolder) -> dict[str, str]:
    """What an adapter's contract says of the cross-encoder that chose its passages."""
    return {"name": reranker.name, "digest": reranker.digest, "source": reranker.source}


def parity_prompts(records: StageFiles, tokenizer: Any, count: int) -> list[list[int]]:
    """The prompts to compare on, as token ids: those of the test records first, then of the others."""
    from data.prompting.contract import to_messages

    rows: list[Record] = []
    for split in ("test", "validation", "train"):
        rows += list(read_jsonl(records.path(f"{split}.jsonl"), Record))
    return [tokenizer.apply_chat_template(to_messages(row), add_generation_prompt=True) for row in rows[:count]]


def measure_parity(
    *,
    base: Path,
    engine_adapter: Path,
    adapter: Path,
    merged: Path,
    prompts: list[list[int]],
    config: ExportConfig,
    bench: Bench,
    precision: str,
) -> dict[str, Any]:
    """Runs the same prompts through the engine, PEFT and the merged model, all in float32.

    PEFT computes on the base as it was held in training: where that was packed, on the numbers that the packed weights
    stand for. The merged model holds the base's own weights and is compared with the engine on these; what that changes
    stands in `full_base`. A merged model in bfloat16 is compared with the engine on the same rounded weights; the cost
    of rounding stands beside it as `rounding`.

    Args:
        precision: how the base was held in training.
    """
    import numpy as np

    from jora_engine.generation.generator import Generator

    positions = [_spread(len(prompt)) for prompt in prompts]
    engine = Generator(base, adapter=engine_adapter, dtype="float32", precision=precision)
    eos = list(engine.tokenizer.eos_ids)
    logits = {"adapter": _logits(engine, prompts, positions)}
    continuations = dict.fromkeys(("peft", "merged"), _continuations(engine, prompts, config.gate_tokens))
    references = {"peft": "adapter", "merged": "adapter"}
    rounding: dict[str, float] = {}
    full_base: dict[str, Any] = {}
    if precision != "bfloat16":
        del engine
        engine = Generator(base, adapter=engine_adapter, dtype="float32", precision="bfloat16")
        logits["full"] = _logits(engine, prompts, positions)
        references["merged"] = "full"
        continuations["merged"] = _continuations(engine, prompts, config.gate_tokens)
        full_base = {
            "trained_in": precision,
            "max_logit_difference": _largest(logits["adapter"], logits["full"]),
            "continuations_equal": sum(map(operator.eq, continuations["peft"], continuations["merged"])),
            "continuations": len(prompts),
        }
    if config.merged_dtype != "float32":
        exact = logits[references["merged"]]
        rounded = Generator(merged, dtype="float32")
        logits["merged"] = _logits(rounded, prompts, positions)
        references["merged"] = "merged"
        continuations["merged"] = _continuations(rounded, prompts, config.gate_tokens)
        rounding = {"rounding": _largest(exact, logits["merged"])}
        del rounded
    del engine
    held = base if precision == "bfloat16" else _write_held(base, bench.scratch / "held", precision)
    arrays = {f"{name}/{i}": array for name, rows in logits.items() for i, array in enumerate(rows)}
    np.savez(bench.scratch / "logits.npz", **arrays)
    models = {"base": str(held), "adapter": str(adapter), "merged": str(merged)}
    job = {"prompts": prompts, "positions": positions, "references": references, "tokens": config.gate_tokens}
    results = _compare_elsewhere({**models, **job, "eos": eos}, bench)
    if held != base:
        shutil.rmtree(held)
    return {
        name: {
            "max_logit_difference": figures["max_logit_difference"],
            "continuations_equal": sum(
                a == b for a, b in zip(figures["continuations"], continuations[name], strict=True)
            ),
            "continuations": len(prompts),
            **(rounding if name == "merged" else {}),
        }
        for name, figures in results.items()
    } | {
        "prompts": len(prompts),
        "tokens": config.gate_tokens,
        "tolerance": config.tolerance,
        **({"full_base": full_base} if full_base else {}),
    }


def _write_held(base: Path, folder: Path, precision: str) -> Path:
    """The base with the numbers that its packed weights stand for, float32, as a folder for transformers."""
    from jora_engine.adapters.merged_model import write_merged
    from jora_engine.config.lora import LoraConfig
    from jora_engine.files.weights import read_model_config

    model = read_model_config(base)
    return write_merged(base, {}, LoraConfig(), model, folder, dtype="float32", precision=precision)


def _largest(ours: list[Any], theirs: list[Any]) -> float:
    """The largest difference of logits."""
    import numpy as np

    return max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))


def _full_base_in_words(figures: Mapping[str, Any]) -> str:
    """What changes where the adapter stands on the base's own weights instead of the packed ones of its training."""
    if not (full := figures.get("full_base")):
        return ""
    return (
        f"; trained on a base in {full['trained_in']}: on the unpacked one, as in the merged model, a logit changes by "
        f"up to {full['max_logit_difference']:.2g} and {full['continuations_equal']} of {full['continuations']} "
        "continuations stay"
    )


def _compare_elsewhere(job: dict[str, Any], bench: Bench) -> dict[str, Any]:
    """What transformers and PEFT compute, in a process of their own: torch and JAX do not share one well."""
    out = bench.scratch / "parity.json"
    files = {"logits": str(bench.scratch / "logits.npz"), "out": str(out)}
    write_json(bench.scratch / "parity-job.json", {**job, **files})
    bench.run_child(
        "tasks.runtime.parity",
        [str(bench.scratch / "parity-job.json")],
        log_file=bench.scratch / "parity.log",
        on_event=lambda e: bench.progress(e.get("done", 0), e.get("total"), f"comparing {e.get('model', '')}"),
        environment={"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
    )
    return read_json(out)


def require_parity(figures: Mapping[str, Any], tolerance: float) -> None:
    """Stops the export where the files do not compute what was trained.

    Raises:
        RaftError: it names what differs and by how much.
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


def _continuations(engine: Any, prompts: list[list[int]], count: int) -> list[list[int]]:
    return [list(c.token_ids) for c in engine.generate(prompts, max_new_tokens=count)]


def _logits(engine: Any, prompts: list[list[int]], positions: list[list[int]]) -> list[Any]:
    return [engine.logits([prompt])[0][at] for prompt, at in zip(prompts, positions, strict=True)]

"""Trains the adapters that are compared, each in a process of its own, and keeps them by what they were trained on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.nouns import Record, write_jsonl
from jora_engine.files.tokenizer import Tokenizer
from literature.arms import closed_records
from literature.protocols import TRAINERS, Protocol
from tasks.build.supervisor import run_child
from tasks.inputs.models import ModelFiles, compile_cache
from tasks.runtime.folders import write_json
from tasks.store.store import read_json

ROWS = 2  # packed rows of a step


def train_closed(protocol: Protocol, records: Sequence[Record], base: ModelFiles, work: Path) -> Path:
    """An adapter that learns the answers without documents, in as many steps: rows are shorter as records are."""
    tokenizer = Tokenizer.load(base.folder)
    closed = closed_records(records, lambda text: len(tokenizer.encode(text, add_special_tokens=False)))
    lengths = [[int(record.metadata["tokens"]) for record in some] for some in (records, closed)]
    means = [sum(some) / len(some) for some in lengths]
    tokens = max(protocol.row_tokens * means[1] / means[0], 2.0 * max(lengths[1]))
    shorter = dataclasses.replace(protocol, row_tokens=min(protocol.row_tokens, 128 * math.ceil(tokens / 128)))
    return train(shorter, closed, base, work)[0]


def train(protocol: Protocol, records: Sequence[Record], base: ModelFiles, work: Path) -> tuple[Path, dict[str, Any]]:
    """The adapter's folder and the trainer's facts, from an earlier run where records and settings are the same."""
    if protocol.shuffled:
        outputs = [r.output for r in [*records[1:], records[0]]]
        records = [dataclasses.replace(r, output=output) for r, output in zip(records, outputs, strict=True)]
    training = {
        "learning_rate": protocol.learning_rate,
        "epochs": protocol.epochs,
        "micro_batch_rows": ROWS,
        "accumulation": 1,
        "sequence_length": protocol.row_tokens,
        "checkpoint_every_steps": 10,
        "seed": protocol.seed,
    }
    lora = {"rank": protocol.rank, "alpha": protocol.rank}
    parts = [base.digest, training, lora, [r.to_dict() for r in records]]
    if protocol.trainer == "peft":
        parts.append(protocol.trainer)
    everything = json.dumps(parts, sort_keys=True)
    place = work / ("train-" + hashlib.sha256(everything.encode()).hexdigest()[:16])
    place.mkdir(parents=True, exist_ok=True)
    if not (place / "out" / "training.json").exists():
        write_jsonl(place / "train.jsonl", records)
        job: dict[str, Any] = {
            "model": str(base.folder),
            "train": str(place / "train.jsonl"),
            "out": str(place / "out"),
            "work": str(place / "scratch"),
            "base_name": base.name,
            "compile_cache": str(compile_cache()),
            "lora": lora,
            "training": training,
        }
        if protocol.trainer == "peft":
            tokens = sum(int(r.metadata["tokens"]) for r in records) * protocol.epochs
            job |= {**training, "rank": protocol.rank, "steps": max(1, tokens // (ROWS * protocol.row_tokens))}
        write_json(place / "job.json", job)
        here = {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}  # for peft_reference.py
        child = [str(place / "job.json")]
        run_child(TRAINERS[protocol.trainer], child, log_file=place / "trainer.log", on_event=show, environment=here)
    return place / "out" / "adapter", read_json(place / "out" / "training.json")


def show(event: Mapping[str, Any]) -> None:
    if event.get("event") == "step" and event["step"] % 5 == 0:
        speed, left = event["tokens_per_second"], event["seconds_left"] / 60
        say(f"step {event['step']} of {event['steps']}: loss {event['loss']:.3f}, {speed:.0f} tokens/s, {left:.0f} min")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

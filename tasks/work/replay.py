"""The work of `replay`: all records that the earlier version never saw, and a share of those that it did."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from data.nouns import Record, digest, read_jsonl, write_jsonl
from data.text.counts import counted
from tasks.runtime.folders import StageFiles
from tasks.work.bench import Bench, Outcome, balanced

if TYPE_CHECKING:
    from tasks.replay import ReplayConfig


def build(bench: Bench, config: ReplayConfig, records: StageFiles, earlier: StageFiles) -> Outcome:
    """Writes train.jsonl and validation.jsonl.

    Args:
        earlier: the records that the earlier version was made from. A record is known by its question and the passages
            that answer it (an edited passage makes a new question); which known ones are repeated is drawn by hash.
    """
    known = {r.metadata["question_id"] for r in read_jsonl(earlier.path("train.jsonl"), Record)}
    rows = list(read_jsonl(records.path("train.jsonl"), Record))
    new = [r for r in rows if r.metadata["question_id"] not in known]
    repeated = [r for r in rows if r.metadata["question_id"] in known and _draw(r, bench.seed) < config.share]
    chosen = {id(r) for r in (*new, *repeated)}
    count = write_jsonl(bench.out / "train.jsonl", [r for r in rows if id(r) in chosen])
    shutil.copyfile(records.path("validation.jsonl"), bench.out / "validation.jsonl")
    left_out = len(rows) - len(new) - len(repeated)
    balanced("replay", len(rows), count, left_out)
    return Outcome(
        f"{counted(len(rows), 'record')} = {len(new)} new + {len(repeated)} repeated + {left_out} left out",
        {"new": len(new), "repeated": len(repeated), "left_out": left_out},
    )


def _draw(record: Record, seed: int) -> float:
    """Uniform in [0, 1), the same for a question on every night."""
    return int(digest("replay", str(seed), record.metadata["question_id"]), 16) / 2**63

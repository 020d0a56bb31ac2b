"""A corpus changes a little: how much of the work on questions and records is done again?

    python benchmarks/records_incremental.py --quick
    python benchmarks/records_incremental.py --json > incremental.json

2,000 paragraphs of SQuAD stand for documents and a teacher that counts its calls is asked about each. Then nothing
changes; 3 % of the documents are edited; 3 % are deleted. The last line with --json is one object. Exits 1 where an
unchanged corpus costs a call, or 3 % of edits more than 3.5 % of the full run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.nouns import Chunk, MemoryCache, Question, Record, digest, text_sha256
from data.questions import QuestionOptions, generate_questions
from data.records.compose import RecordOptions, compose_records
from data.records.diff import diff_records
from retrieval.mining import mine_distractors
from retrieval.search import Retriever

NEEDS = "data"
KEYS = """
    documents changed_documents full/teacher_calls same/calls_share edited/calls_share edited/records_same
    edited/why deleted/teacher_calls missed"""
SHARE = 0.03
LIMIT = 0.035


@dataclass
class CountingTeacher:
    """Answers by simple rules, well enough to pass most checks, and counts what it would have been paid for."""

    name: str = "counting"
    batch_size: int = 64
    calls: int = 0

    def complete(
        self,
        prompts: Sequence[list[dict[str, str]]],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        stop: Sequence[str] = (),
    ) -> list[str]:
        self.calls += len(prompts)
        return [self.reply(prompt[-1]["content"]) for prompt in prompts]

    def reply(self, prompt: str) -> str:
        passage = prompt.partition("<passage>")[2].partition("</passage>")[0].strip()
        sentence = max(passage.split(". "), key=len)
        words = sorted({w.strip(",;()\"'.") for w in sentence.split() if w.strip(",;()\"'.").isalpha()}, key=_rare)
        if "\nQuestion: " in prompt:
            return f"<quote>{sentence}</quote>\nIt says so.\nAnswer: {words[0]}"
        return f"What is it that links {words[1]} with {', '.join(words[2:5])}?" if len(words) > 4 else "What?"


def _rare(word: str) -> tuple[int, str]:
    return -len(word), word


@dataclass(frozen=True)
class Run:
    calls: int
    questions: list[Question]
    records: list[Record]
    seconds: float


def main() -> int:
    default_data = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="500 documents")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object with the figures")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RAFT_SHARED_DATA", default_data)))
    args = parser.parse_args()
    if not args.data.is_dir():
        parser.error("shared data not found: set RAFT_SHARED_DATA or place it at ../shared/data")
    lines = (args.data / "squad_v1_dev" / "corpus.jsonl").read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line][: 500 if args.quick else 2000]
    picked = sorted(range(len(rows)), key=lambda i: digest("changed", rows[i]["id"]))[: round(SHARE * len(rows))]
    edited = [
        {**row, "text": row["text"] + " This paragraph was checked again last spring."} if i in set(picked) else row
        for i, row in enumerate(rows)
    ]
    deleted = [row for i, row in enumerate(rows) if i not in set(picked)]
    cache = MemoryCache()
    runs = {name: run(kind, cache) for name, kind in (("full", rows), ("same", rows), ("edited", edited))}
    runs["deleted"] = run(deleted, cache)
    full = runs["full"]
    figures: dict[str, Any] = {"documents": len(rows), "changed_documents": len(picked)}
    for name, made in runs.items():
        diff = diff_records(full.records, made.records)
        figures[name] = {
            "teacher_calls": made.calls,
            "calls_share": round(made.calls / full.calls, 4),
            "questions": len(made.questions),
            "records": len(made.records),
            "records_same": diff.same,
            "records_changed": len(diff.changed),
            "why": diff.why,
            "seconds": round(made.seconds, 1),
        }
        print(f"{name}: {figures[name]}", flush=True)
    missed = [name for name, most in (("same", 0.0), ("edited", LIMIT)) if figures[name]["calls_share"] > most]
    print(f"goals missed: {', '.join(missed) or 'none'}")
    if args.json:
        print(json.dumps({**figures, "missed": missed}))
    return 1 if missed else 0


def run(rows: Sequence[dict[str, Any]], cache: MemoryCache) -> Run:
    """Questions and records of a corpus, with word search as the retriever."""
    begin = time.perf_counter()
    chunks = [as_chunk(row) for row in rows]
    retriever = Retriever(None, None, chunks, mode="lexical")
    teacher = CountingTeacher()
    options = QuestionOptions(style="full", max_questions=None)
    asked = generate_questions(chunks, teacher, retriever.search, options=options, cache=cache).questions
    mined = mine_distractors(asked, chunks, retriever.search, count=6, seed=0)
    made = compose_records(
        asked, chunks, mined, options=RecordOptions(max_tokens=1600), count_tokens=lambda text: len(text) // 4
    )
    records = [*made.train, *made.validation, *made.test]
    return Run(teacher.calls, list(asked), records, time.perf_counter() - begin)


def as_chunk(row: dict[str, Any]) -> Chunk:
    text, document = row["text"], digest(row["id"])
    return Chunk(
        id=digest(document, "0", text), document_id=document, ordinal=0, text=text, start=0, end=len(text), tokens=0,
        sha256=text_sha256(text), source=row["id"], title=row["title"],
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())

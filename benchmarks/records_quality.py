"""RAFT records made of SQuAD and HotpotQA questions as a team's own QA file: are they what they claim to be?

    python benchmarks/records_quality.py --quick
    python benchmarks/records_quality.py --json > records.json

Imports the questions, mines distractors with the pipeline's retriever and composes records in the template that a run
takes if it says no other, then measures the written records alone, read by the contract that is written beside them.
The last line with --json is one object. Exits 1 where a goal is missed: false distractors <= 5 % by the answer-string
test, oracle positions uniform (p >= 0.01), every quote verbatim, no leak, something quoted.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from goals import Goals, finish, missed

from data.nouns import Chunk, Question, Record, digest, text_sha256
from data.prompting.contract import PromptTemplate, load_template, parse_answer, prompt_contract, template_from_contract
from data.questions.importing import import_questions
from data.records.compose import RecordOptions, compose_records
from data.records.figures import false_distractors, find_leaks, passage_texts
from data.records.splits import SPLITS, split_by_document
from retrieval.embedding.embedder import Embedder
from retrieval.index.faiss_index import build_index, open_index
from retrieval.mining import Mined, false_distractor_rate, mine_distractors
from retrieval.search import Retriever, passage_text
from tasks.inputs.models import resolve
from tasks.records import RecordsConfig

SETS = {"squad": ("squad_v1_dev", "corpus.jsonl"), "hotpotqa": ("hotpotqa", "corpus.jsonl.gz")}
NEEDS = "data"
KEYS = """
    false_distractor_rate position_p_value quote_verbatim_rate leaks missed mode seed template sets/*/records
    sets/*/quotes sets/*/false_distractor_rate_nearest sets/*/false_distractor_rate_loose"""
GOALS: Goals = {
    "false_distractor_rate": ("<=", 0.05),
    "position_p_value": (">=", 0.01),
    "quote_verbatim_rate": (">=", 1.0),
    "leaks": ("<=", 0),
    "sets/*/quotes": (">=", 1),
}


def main() -> int:
    default_data = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="word search instead of embeddings, 1000 questions a set")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object with the figures")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RAFT_SHARED_DATA", default_data)))
    parser.add_argument("--mode", choices=["dense", "lexical", "hybrid"], help="default: dense; lexical with --quick")
    parser.add_argument("--questions", type=int, help="questions a set; default: all, 1000 with --quick")
    parser.add_argument("--embedder", default="sentence-transformers/all-MiniLM-L6-v2", help="Hub id or folder")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if not args.data.is_dir():
        parser.error("shared data not found: set RAFT_SHARED_DATA or place it at ../shared/data")
    mode = args.mode or ("lexical" if args.quick else "dense")
    limit = args.questions or (1000 if args.quick else None)
    embedder = None if mode == "lexical" else Embedder.load(resolve(args.embedder).folder)
    sets = {name: measure(name, args.data, mode, embedder, limit, args.seed) for name in SETS}
    for name, row in sets.items():
        print(f"{name}: " + ", ".join(f"{k} {v}" for k, v in row.items()), flush=True)
    worst = {
        "false_distractor_rate": max(f["false_distractor_rate"] for f in sets.values()),
        "position_p_value": min(f["position_p_value"] for f in sets.values()),
        "quote_verbatim_rate": min(f["quote_verbatim_rate"] for f in sets.values()),
        "leaks": sum(f["leaks"] for f in sets.values()),
    }
    figures = {**worst, "mode": mode, "seed": args.seed, "template": RecordsConfig().template, "sets": sets}
    return finish({**figures, "missed": missed(figures, GOALS)}, GOALS, args.json)


def measure(
    name: str, data: Path, mode: str, embedder: Embedder | None, limit: int | None, seed: int
) -> dict[str, Any]:
    """Figures of one set, over the records of all splits."""
    folder, corpus = data / SETS[name][0], SETS[name][1]
    chunks = [as_chunk(row) for row in read(folder / corpus)]
    rows = read(folder / "questions.jsonl")
    if limit and limit < len(rows):
        rows = random.Random(seed).sample(rows, limit)
    with tempfile.TemporaryDirectory() as place:
        retriever = make_retriever(chunks, mode, embedder, Path(place))
        asked = import_questions(rows, chunks, retriever.search)
        begin = time.perf_counter()
        mined = mine_distractors(asked.questions, chunks, retriever.search, count=6, seed=seed)
        plain = nearest(asked.questions, retriever)
    together = {c.document_id: c.source.split("#")[0] for c in chunks}
    splits = split_by_document(chunks, asked.questions, seed=seed, together=together)
    template = load_template(RecordsConfig().template)
    made = compose_records(
        asked.questions,
        chunks,
        mined,
        options=RecordOptions(max_tokens=1600),
        count_tokens=lambda text: len(text) // 4,
        seed=seed,
        splits=splits,
        template=template,
    )
    contract = prompt_contract(template, passages=4, may_refuse=bool(made.report["may_refuse"]))
    seconds = time.perf_counter() - begin
    by_split = {split: getattr(made, split) for split in SPLITS}
    records = [r for split in SPLITS for r in by_split[split]]
    shown = {
        r.metadata["question_id"]: [
            Mined(row["chunk_id"], row["rank"], row["score"], row["mined_by"])
            for row in r.metadata["passages"]
            if row["role"] == "distractor"
        ]
        for r in records
    }
    kept = [q for q in asked.questions if q.id in shown]
    quotes = made.report["quotes"]
    return {
        "questions": len(rows),
        "placed": len(asked.questions),
        "records": len(records),
        "false_distractor_rate": false_distractors(records)["rate"],
        "false_distractor_rate_nearest": holds_answer(kept, chunks, plain),
        "false_distractor_rate_loose": round(float(false_distractor_rate(kept, chunks, shown)["question_rate"]), 4),
        "position_p_value": made.report["oracle_position"]["p_value"],
        "positions": made.report["oracle_position"]["histogram"],
        "quotes": quotes["quotes"],
        "quote_verbatim_rate": verbatim_rate(records, template_from_contract(contract)),
        "oracle_without_quote": quotes["records_with_oracle_but_no_quote"],
        "leaks": len(find_leaks(by_split, splits)),
        "p_oracle": {s: made.report["per_split"][s]["p_oracle"] for s in SPLITS},
        "split_questions": made.report["records"],
        "distractor_origin": made.report["distractor_origin"],
        "distractors_of_gold_article": of_gold_article(records, together),
        "dropped": made.report["dropped"],
        "seconds": round(seconds, 1),
    }


def make_retriever(chunks: Sequence[Chunk], mode: str, embedder: Embedder | None, folder: Path) -> Retriever:
    if embedder is None:
        return Retriever(None, None, chunks, mode="lexical")
    vectors = embedder.encode([passage_text(c) for c in chunks])
    build_index(vectors, [c.id for c in chunks], folder, embedder=embedder.info.to_dict())
    index = open_index(folder, expect_embedder=embedder.info.digest)
    return Retriever(index, embedder, chunks, mode="hybrid" if mode == "hybrid" else "dense")


def nearest(questions: Sequence[Question], retriever: Retriever) -> dict[str, list[str]]:
    """What plain nearest neighbours would have put beside each question: the first three that are not gold."""
    found = retriever.search([q.question for q in questions], 8)
    return {
        q.id: [h.chunk_id for h in hits if h.chunk_id not in q.gold_chunk_ids][:3]
        for q, hits in zip(questions, found, strict=True)
    }


def holds_answer(questions: Sequence[Question], chunks: Sequence[Chunk], chosen: Mapping[str, list[str]]) -> float:
    """The answer-string test of `false_distractors`, on passages that no record shows."""
    texts = {c.id: c.text for c in chunks}
    records = []
    for question in questions:
        parts = [texts[c] for c in chosen[question.id]]
        ends = [sum(map(len, parts[: i + 1])) for i in range(len(parts))]
        passages = [
            {"role": "distractor", "start": end - len(part), "end": end} for part, end in zip(parts, ends, strict=True)
        ]
        answers = list(question.answers or (question.answer,))
        records.append(Record("", "".join(parts), "", {"answers": answers, "passages": passages}))
    return float(false_distractors(records)["rate"])


def verbatim_rate(records: Sequence[Record], template: PromptTemplate) -> float:
    """Read from the label as a reader would: each quote, to the letter, in the passage that it cites.

    Where the template writes no numbers, it must stand in an oracle that is shown.
    """
    total = right = 0
    for record in records:
        passages = passage_texts(record)
        for quote in parse_answer(record.output, template=template).quotes:
            cited = (
                [passages[quote.passage - 1]] if quote.passage else [p for p in passages if p[0]["role"] == "oracle"]
            )
            total += 1
            right += any(quote.text in text for _, text in cited)
    return round(right / total, 6) if total else 0.0


def of_gold_article(records: Sequence[Record], together: Mapping[str, str]) -> float:
    rows = [
        (row, {together[d] for d in r.metadata["document_ids"]})
        for r in records
        for row in r.metadata["passages"]
        if row["role"] == "distractor"
    ]
    return round(sum(together[row["document_id"]] in gold for row, gold in rows) / max(1, len(rows)), 4)


def read(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file, plain or gzipped."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in raw.decode("utf-8").split("\n") if line]


def as_chunk(row: Mapping[str, Any]) -> Chunk:
    """One paragraph as a document of one chunk; `together` holds the paragraphs of an article on one side."""
    text = row["text"]
    return Chunk(
        id=digest(row["id"], "0", text), document_id=digest(row["id"]), ordinal=0, text=text, start=0, end=len(text),
        tokens=0, sha256=text_sha256(text), source=row["id"], title=row.get("title", ""),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())

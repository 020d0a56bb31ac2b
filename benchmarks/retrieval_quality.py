"""Dense, lexical and hybrid retrieval on SciFact, SQuAD, HotpotQA and PubMedQA, beside the measured baselines.

    python benchmarks/retrieval_quality.py --quick
    python benchmarks/retrieval_quality.py --json > quality.json

Documents are embedded and searched by the pipeline's own code (title and text, cut at the embedder's limit). The last
line with --json is one object: set -> mode -> metric. Exits 1 where a figure falls short of its baseline. --quick
searches SciFact's judged documents among a few others, against a baseline of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data.nouns import Chunk, Hit, ItemCache, Question, Search, digest, text_sha256
from retrieval.embedding.embedder import Embedder
from retrieval.fusion import reciprocal_rank_fusion
from retrieval.index.faiss_index import build_index, open_index
from retrieval.metrics import ranking_metrics
from retrieval.mining import Mined, MiningOptions, false_distractor_rate, mine_distractors
from retrieval.search import Retriever, passage_text
from tasks.inputs.models import resolve
from tasks.store.itemcache import SqliteCache

NEEDS = "data sentence-transformers/all-MiniLM-L6-v2"
KEYS = "sets/*/*/nDCG@10 sets/*/*/recall@1 sets/*/*/recall@5 sets/*/*/recall@10 mining constants below precision"
METRICS = ("nDCG@10", "recall@1", "recall@5", "recall@10")
DEPTH = 100
MINED_QUESTIONS = 1000
TOLERANCE = {"dense": 0.01, "lexical": 0.005, "hybrid": 0.01}  # dense: other cuts; lexical: other bm25s versions


@dataclass(frozen=True)
class DataSet:
    """Where a set lies, how many queries the baseline used, and the baseline: mode -> figures in METRICS order."""

    folder: str
    corpus: str
    questions: str
    qrels: str
    queries: int
    baseline: dict[str, tuple[float, float, float, float]]
    documents: int | None = None  # so many, the judged ones and others drawn by hash; None = all


SETS = {
    "scifact": DataSet(
        "scifact", "corpus.jsonl.gz", "questions_test.jsonl", "qrels_test.tsv", 300,
        {"dense": (0.649, 0.488, 0.728, 0.790), "lexical": (0.686, 0.534, 0.736, 0.819),
         "hybrid": (0.714, 0.563, 0.788, 0.844)},
    ),
    "squad": DataSet(
        "squad_v1_dev", "corpus.jsonl", "questions.jsonl", "qrels.tsv", 3000,
        {"dense": (0.763, 0.619, 0.847, 0.904), "lexical": (0.876, 0.783, 0.933, 0.960),
         "hybrid": (0.856, 0.735, 0.933, 0.967)},
    ),
    "hotpotqa": DataSet(
        "hotpotqa", "corpus.jsonl.gz", "questions.jsonl", "qrels.tsv", 347,
        {"dense": (0.778, 0.412, 0.765, 0.842), "lexical": (0.828, 0.428, 0.813, 0.922),
         "hybrid": (0.828, 0.415, 0.829, 0.921)},
    ),
    "pubmedqa": DataSet(
        "pubmedqa", "corpus.jsonl", "questions.jsonl", "qrels.tsv", 1000,
        {"dense": (0.985, 0.972, 0.995, 0.996), "lexical": (0.975, 0.956, 0.985, 0.990),
         "hybrid": (0.985, 0.970, 0.994, 0.995)},
    ),
}  # fmt: skip
QUICK = dataclasses.replace(
    SETS["scifact"],
    queries=50,
    documents=150,
    baseline={
        "dense": (0.904, 0.81, 0.98, 0.98),
        "lexical": (0.859, 0.77, 0.89, 0.93),
        "hybrid": (0.918, 0.81, 0.98, 1.0),
    },
)
"""Measured with this script on 2026-11-29, in float32."""
OF_A_QUESTION = 0.025  # what quick figures may fall by: one of 50 questions, which another processor may rank otherwise


def main() -> int:
    default_data = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK.queries} queries and {QUICK.documents} documents of SciFact"
    )
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object with the figures")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RAFT_SHARED_DATA", default_data)))
    parser.add_argument("--embedder", default="sentence-transformers/all-MiniLM-L6-v2", help="Hub id or folder")
    parser.add_argument("--cache", type=Path, help="SQLite file that keeps vectors between runs")
    parser.add_argument("--set", action="append", choices=sorted(SETS), help="only these sets")
    parser.add_argument("--constants", type=int, nargs="*", default=[], help="hybrid with other fusion constants too")
    args = parser.parse_args()
    if not args.data.is_dir():
        parser.error("shared data not found: set RAFT_SHARED_DATA or place it at ../shared/data")
    precision = "float32" if args.quick else "auto"  # the same figures everywhere, and nothing to find out first
    embedder = Embedder.load(resolve(args.embedder).folder, precision=precision)
    cache = SqliteCache(args.cache) if args.cache else None
    figures: dict[str, dict[str, dict[str, float]]] = {}
    mining: dict[str, dict[str, float | int]] = {}
    sweep: dict[str, dict[int, dict[str, float]]] = {}
    short: list[str] = []
    sets = {"scifact in part": QUICK} if args.quick else {name: SETS[name] for name in args.set or SETS}
    for name, data in sets.items():
        sweep[name] = {constant: {} for constant in args.constants}
        about = mining if name == "squad" else None
        figures[name] = measure(data, args.data, embedder, cache, about, sweep[name])
        for constant, row in sweep[name].items():
            print(f"{name:9} hybrid, constant {constant}: " + " / ".join(f"{row[metric]:.3f}" for metric in METRICS))
        for mode, row in figures[name].items():
            below = [
                metric
                for metric, wanted in zip(METRICS, data.baseline[mode])
                if row[metric] < wanted - (OF_A_QUESTION if args.quick else TOLERANCE[mode])
            ]
            short += [f"{name} {mode} {metric}" for metric in below]
            wanted = " / ".join(f"{value:.3f}" for value in data.baseline[mode])
            found = " / ".join(f"{row[metric]:.3f}" for metric in METRICS)
            print(f"{name:9} {mode:8} {found}   baseline {wanted}{'   BELOW' if below else ''}", flush=True)
    print(f"columns: {' / '.join(METRICS)}; precision {embedder.info.precision}; below baseline: {short or 'none'}")
    if args.json:
        said = {"mining": mining, "constants": sweep, "below": short, "precision": embedder.info.precision}
        print(json.dumps({"sets": figures, **said}))
    return 1 if short else 0


def measure(
    data: DataSet,
    root: Path,
    embedder: Embedder,
    cache: ItemCache | None,
    mining: dict | None,
    sweep: dict[int, dict[str, float]],
) -> dict[str, dict[str, float]]:
    """Mode -> metric for one set, through the pipeline's own retriever.

    Fills `mining` by rule where it is given, and `sweep` with hybrid search by its fusion constants.
    """
    folder = root / data.folder
    judgements: dict[str, dict[str, int]] = {}
    for line in (folder / data.qrels).read_text(encoding="utf-8").splitlines():
        query, _, document, grade = line.split("\t")
        judgements.setdefault(query, {})[document] = int(grade)
    questions = [row for row in rows(folder / data.questions) if row["id"] in judgements]
    if data.queries < len(questions):
        questions = random.Random(0).sample(questions, data.queries)
    chunks = [as_chunk(row) for row in rows(folder / data.corpus)]
    if data.documents:
        gold = {document for row in questions for document in judgements[row["id"]]}
        others = sorted((c for c in chunks if c.source not in gold), key=lambda c: digest("some", c.source))
        kept = gold | {c.source for c in others[: data.documents - len(gold)]}
        chunks = [c for c in chunks if c.source in kept]
    ids = {chunk.source: chunk.id for chunk in chunks}
    qrels = {row["id"]: {ids[d]: grade for d, grade in judgements[row["id"]].items()} for row in questions}
    texts = [row["question"] for row in questions]
    begin = time.perf_counter()
    done = embedder.embed([passage_text(chunk) for chunk in chunks], cache=cache)
    seconds = time.perf_counter() - begin
    print(f"{data.folder}: {len(chunks)} documents ({done.computed} embedded in {seconds:.0f} s, {done.truncated} cut)")
    found: dict[str, dict[str, float]] = {}
    hits: dict[str, list[list[Hit]]] = {}
    names = [row["id"] for row in questions]
    with tempfile.TemporaryDirectory() as place:
        build_index(done.vectors, [chunk.id for chunk in chunks], Path(place), embedder=embedder.info.to_dict())
        index = open_index(Path(place), expect_embedder=embedder.info.digest)
        for mode in ("dense", "lexical", "hybrid"):
            retriever = Retriever(index, embedder, chunks, mode=mode, query_cache=cache)
            hits[mode] = retriever.search(texts, DEPTH)
            found[mode] = ranking_metrics(dict(zip(names, hits[mode])), qrels, ks=(1, 5, 10, 100))
            if mining is not None and mode == "dense":
                asked = [as_question(row, ids, chunks) for row in questions[:MINED_QUESTIONS]]
                mining.update(false_distractors(asked, chunks, retriever.search))
    for constant in sweep:
        pairs = zip(hits["lexical"], hits["dense"], strict=True)
        fused = [reciprocal_rank_fusion(pair, DEPTH, constant=constant) for pair in pairs]
        sweep[constant] = ranking_metrics(dict(zip(names, fused)), qrels, ks=(1, 5, 10, 100))
    return found


def false_distractors(questions: list[Question], chunks: list[Chunk], search: Search) -> dict[str, dict]:
    """Rule -> the rate of distractors that seem to answer, for the unfiltered nearest and for the miner's rules."""
    nearest = {}
    for question, hits in zip(questions, search([q.question for q in questions], 5)):
        others = [hit for hit in hits if hit.chunk_id not in question.gold_chunk_ids][:4]
        nearest[question.id] = [Mined(hit.chunk_id, hit.rank, hit.score, "retrieved") for hit in others]
    mined = {"nearest, unfiltered": nearest}
    for name, options in {
        "mined, default": MiningOptions(),
        "mined, all retrieved": MiningOptions(random_share=0.0),
        "mined, margin .95": MiningOptions(random_share=0.0, relative_margin=0.95),
        "mined, ranks 10-50": MiningOptions(random_share=0.0, first_rank=10),
        "random": MiningOptions(random_share=1.0),
    }.items():
        mined[name] = mine_distractors(questions, chunks, search, count=4, seed=0, options=options)
    rates = {}
    for name, found in mined.items():
        rates[name] = dict(false_distractor_rate(questions, chunks, found))
        same = {chunk.id: chunk.document_id for chunk in chunks}
        gold = [same[m.chunk_id] in q.document_ids for q in questions for m in found[q.id]]
        rates[name]["same_document_share"] = round(sum(gold) / max(1, len(gold)), 4)
        print(f"  distractors, {name}: {rates[name]}")
    return rates


def rows(path: Path) -> Iterator[dict]:
    """The objects of a JSON Lines file, plain or gzipped."""
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text(encoding="utf-8")
    for line in text.rstrip("\n").split("\n"):
        yield json.loads(line)


def as_question(row: dict, ids: dict[str, str], chunks: list[Chunk]) -> Question:
    """A question of a set with its accepted answers."""
    gold = tuple(ids[document] for document in row["gold_doc_ids"])
    owners = tuple(chunk.document_id for chunk in chunks if chunk.id in gold)
    return Question(row["id"], row["question"], row["answers"][0], gold, owners, answers=tuple(row["answers"]))


def as_chunk(row: dict) -> Chunk:
    """One document of a set as a single chunk; SQuAD's paragraphs belong to their article."""
    document, text = digest(row["id"].split("#")[0]), row["text"]
    return Chunk(
        id=digest(row["id"], "0", text), document_id=document, ordinal=0, text=text, start=0, end=len(text), tokens=0,
        sha256=text_sha256(text), source=row["id"], title=row.get("title", ""),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())

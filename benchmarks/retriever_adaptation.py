"""What a reranker, measured weights and a fitted retriever bring, on development documents alone.

    python benchmarks/retriever_adaptation.py --quick              # lexical, hybrid, weighted, reranked: does it run?
    python benchmarks/retriever_adaptation.py --set squad --adapt embedder --json

The development part: half of the papers of `covidqa_half`, by a hash of their ids, and the 14 articles of SQuAD that
were reported so far; nothing else is read. They are split again, by paper or article, into training, validation and a
check part, on which all figures are taken. With --json the last line is one object: set -> search -> figure, and
`recall@1`, `recall@1_adapted` (dense search, before and after) where an embedder was fitted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.chunking.chunks import ChunkOptions, chunk_documents
from data.nouns import Chunk, Document, Question, digest, text_sha256
from data.questions.importing import import_questions
from data.records.split_sides import unit_draw
from data.records.splits import SplitOptions, split_by_document
from retrieval.adaptation.judgement import LEAST_QUESTIONS, choose_share, compare, reciprocal_ranks
from retrieval.embedding.embedder import Embedder
from retrieval.index.faiss_index import build_index, open_index
from retrieval.rerank import Reranker
from retrieval.search import Retriever, passage_text
from tasks.adapt import AdaptConfig
from tasks.inputs.model_catalog import DEFAULT_EMBEDDER, DEFAULT_RERANKER
from tasks.inputs.models import resolve
from tasks.store.itemcache import SqliteCache
from tasks.store.places import calibration_file
from tasks.work.adapt import Sides, sides_of

NEEDS = "data sentence-transformers/all-MiniLM-L6-v2 cross-encoder/ms-marco-MiniLM-L12-v2"
KEYS = "sets/*/searches/*/recall@1 sets/*/weights/lexical_share"
SQUAD_ARTICLES = 14  # the development part of `literature/parts.py`
SIDES = SplitOptions(validation=0.25, test=0.4)
PASSAGES = 4  # that an answer is written from


@dataclass(frozen=True)
class Development:
    """Passages and questions of a set's development part, and their sides; figures are taken on `check`."""

    chunks: list[Chunk]
    sides: Sides
    check: list[Question]


def main() -> int:
    default_data = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four questions of SQuAD or --set, nothing fitted")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object with the figures")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RAFT_SHARED_DATA", default_data)))
    parser.add_argument("--set", action="append", choices=("covidqa", "squad"), help="only these sets")
    parser.add_argument("--questions", type=int, default=300, help="check questions at most, drawn by seed")
    parser.add_argument("--adapt", action="append", default=[], choices=("embedder", "reranker"), help="what is fitted")
    parser.add_argument("--train", type=int, default=3000, help="training questions at most")
    parser.add_argument("--epochs", type=int, default=AdaptConfig().epochs)
    parser.add_argument("--no-rerank", action="store_true", help="without the cross-encoder")
    parser.add_argument("--cache", type=Path, help="SQLite file that keeps vectors and scores between runs")
    args = parser.parse_args()
    if not args.data.is_dir():
        parser.error("shared data not found: set RAFT_SHARED_DATA or place it at ../shared/data")
    figures: dict[str, Any] = {}
    for name in args.set or (("squad",) if args.quick else ("covidqa", "squad")):
        figures[name] = measure(name, args)
    if args.json:
        print(json.dumps({"sets": figures}))
    return 0


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Search -> figures on the check part, and what was chosen on the validation part."""
    embedder_folder, cache = resolve(DEFAULT_EMBEDDER).folder, SqliteCache(args.cache) if args.cache else None
    development = covidqa(args.data, embedder_folder) if name == "covidqa" else squad(args.data)
    check = some(development.check, min(args.questions, 4) if args.quick else args.questions)
    sides = development.sides
    print(
        f"{name}: {len(development.chunks)} passages; {len(sides.train)} training, {len(sides.validation)} validation, "
        f"{len(check)} check questions about {len({q.document_ids[0] for q in check})} documents",
        flush=True,
    )
    embedder = Embedder.load(embedder_folder, calibration=calibration_file())
    with tempfile.TemporaryDirectory() as place:
        index = indexed(development.chunks, embedder, Path(place), cache)
        retriever = Retriever(index, embedder, development.chunks, mode="hybrid", rerank_depth=30, query_cache=cache)
        share, weights = choose_share(sides.validation, retriever)
        searches = {mode: retriever.in_mode(mode) for mode in ("dense", "lexical", "hybrid")}
        weighted = retriever.in_mode("hybrid", lexical_share=share)
        searches[f"hybrid, BM25 {share:.0%}"] = weighted
        if not args.no_rerank:
            reranker = Reranker.load(resolve(DEFAULT_RERANKER).folder, precision=embedder.info.precision)
            searches["hybrid, reranked"] = weighted.with_reranker(reranker)
        result: dict[str, Any] = {"weights": {"lexical_share": share, **weights}}
        if args.adapt and not args.quick:
            adapted = fitted(args, development, retriever, weighted, cache, Path(place), result)
            searches |= adapted
        rows: dict[str, dict[str, float]] = {}
        ranks = {}
        for label, search in searches.items():
            began = time.perf_counter()
            ranks[label] = reciprocal_ranks(check, search.search)
            seconds = (time.perf_counter() - began) / len(check)
            rows[label] = figures_of(ranks[label], seconds)
            print(f"  {label:28} " + "  ".join(f"{key} {value:.3f}" for key, value in rows[label].items()), flush=True)
        if "hybrid, reranked" in ranks:
            result["rerank"] = compare(check, ranks["hybrid"], ranks["hybrid, reranked"]).to_dict()
            print(f"  reranked against hybrid: {result['rerank']}")
        if "dense, adapted" in ranks:
            result["adapted"] = compare(check, ranks["dense"], ranks["dense, adapted"]).to_dict()
            result |= {"recall@1": rows["dense"]["recall@1"], "recall@1_adapted": rows["dense, adapted"]["recall@1"]}
    return {"searches": rows, **result}


def fitted(
    args: argparse.Namespace,
    development: Development,
    retriever: Retriever,
    weighted: Retriever,
    cache: SqliteCache | None,
    place: Path,
    result: dict[str, Any],
) -> dict[str, Retriever]:
    """Searches with what was fine-tuned on the training part, by their names; fills `result` with how that went."""
    from retrieval.adaptation.examples import training_examples
    from retrieval.adaptation.training import TrainingOptions, adapt_embedder, adapt_reranker
    from tasks.work.adapt import pools_of

    section, sides = AdaptConfig(epochs=args.epochs), development.sides
    assert retriever.embed is not None
    assert weighted.embedder is not None
    examples = training_examples(
        some(sides.train, args.train),
        sides.held_out,
        development.chunks,
        sides.of_chunk,
        weighted.search,
        retriever.embed,
        negatives=section.negatives,
        max_likeness=section.max_likeness,
        seed=0,
    )
    options = TrainingOptions(section.epochs, section.batch, section.rate, 0)
    pools = pools_of(sides.validation, weighted)
    searches: dict[str, Retriever] = {}
    for role in args.adapt:
        began = time.perf_counter()
        (place / f"{role}-training").mkdir()
        source = resolve(DEFAULT_EMBEDDER if role == "embedder" else DEFAULT_RERANKER).folder
        train = adapt_embedder if role == "embedder" else adapt_reranker
        rows = examples.examples if role == "embedder" else examples.examples[: section.reranker_questions]
        figures = train(source, rows, pools, place / role, place / f"{role}-training", options)
        result[f"{role}_training"] = {**figures, "questions": len(rows), "seconds": time.perf_counter() - began}
        print(f"  fitted {role}: {result[f'{role}_training']}", flush=True)
        if role == "embedder":
            model = Embedder.load(place / role, precision=weighted.embedder.info.precision)
            (place / "adapted").mkdir()
            other = weighted.with_embedder(indexed(development.chunks, model, place / "adapted", cache), model)
            searches |= {"dense, adapted": other.in_mode("dense"), "hybrid, adapted": other}
        else:
            searches["hybrid, adapted reranker"] = weighted.with_reranker(Reranker.load(place / role))
    return searches


def indexed(chunks: list[Chunk], embedder: Embedder, place: Path, cache: SqliteCache | None) -> Any:
    vectors = embedder.encode([passage_text(chunk) for chunk in chunks], cache=cache)
    build_index(vectors, [chunk.id for chunk in chunks], place, embedder=embedder.info.to_dict())
    return open_index(place, expect_embedder=embedder.info.digest)


def figures_of(ranks: list[float], seconds: float) -> dict[str, float]:
    count = len(ranks)
    return {
        "recall@1": round(sum(value == 1 for value in ranks) / count, 4),
        f"any-hit@{PASSAGES}": round(sum(value >= 1 / PASSAGES for value in ranks) / count, 4),
        "MRR": round(sum(ranks) / count, 4),
        "seconds_per_question": round(seconds, 3),
    }


def covidqa(data: Path, embedder: Path) -> Development:
    """Half of the papers, cut as a run cuts them; questions are placed by their answers' text."""
    folder = data / "covidqa_half"
    papers = [row for row in rows_of(folder / "corpus.jsonl") if unit_draw(0, row["id"]) < 0.5]
    documents = [
        Document(row["id"], row["id"], row["title"], row["text"], "text/plain", text_sha256(row["text"]))
        for row in papers
    ]
    chunks = chunk_documents(documents, embedder / "tokenizer.json", options=ChunkOptions(max_tokens=128))
    own = {row["id"] for row in papers}
    rows = [
        {"question": row["question"], "answer": row["answers"][0], "document": row["gold_doc_ids"][0]}
        for row in rows_of(folder / "questions.jsonl")
        if row["gold_doc_ids"][0] in own
    ]
    questions = import_questions(rows, chunks, documents=documents).questions
    return development_of(chunks, [q for q in questions if q.gold_chunk_ids])


def squad(data: Path) -> Development:
    """The paragraphs of the development articles, each one passage."""
    folder = data / "squad_v1_dev"
    rows = list(rows_of(folder / "corpus.jsonl"))
    articles = sorted({row["id"].split("#")[0] for row in rows}, key=lambda article: digest("article", "0", article))
    own = {*articles[:SQUAD_ARTICLES]}
    chunks = {}
    for row in rows:
        article, _, ordinal = row["id"].partition("#")
        if article in own:
            chunks[row["id"]] = Chunk(
                id=digest(row["id"]), document_id=digest(article), ordinal=int(ordinal), text=row["text"], start=0,
                end=len(row["text"]), tokens=0, sha256=text_sha256(row["text"]), source=f"{article}.md",
                title=row["title"],
            )  # fmt: skip
    questions = [
        Question(
            row["id"], row["question"], row["answers"][0], (chunks[row["gold_doc_ids"][0]].id,),
            (chunks[row["gold_doc_ids"][0]].document_id,), answers=tuple(row["answers"]),
        )
        for row in rows_of(folder / "questions.jsonl")
        if row["gold_doc_ids"][0] in chunks
    ]  # fmt: skip
    return development_of(list(chunks.values()), questions)


def development_of(chunks: list[Chunk], questions: list[Question]) -> Development:
    splits = split_by_document(chunks, questions, options=SIDES, seed=0)
    sides = sides_of(questions, chunks, splits, AdaptConfig().judged, 0)
    if len(sides.validation) < LEAST_QUESTIONS:
        print(f"only {len(sides.validation)} validation questions: nothing is chosen by them")
    check = [q for q in questions if sides.of_chunk[q.gold_chunk_ids[0]] == "test"]
    return Development(chunks, sides, check)


def some(questions: list[Question], count: int) -> list[Question]:
    return questions if len(questions) <= count else random.Random(0).sample(questions, count)


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").rstrip("\n").split("\n"):
        yield json.loads(line)


if __name__ == "__main__":
    sys.exit(main())

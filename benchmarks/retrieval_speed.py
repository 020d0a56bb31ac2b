"""How fast chunks are embedded beside stock SentenceTransformer.encode, and how fast indexes build and answer.

    python benchmarks/retrieval_speed.py --quick
    python benchmarks/retrieval_speed.py --json > speed.json

Embedding: both sides embed the same passages in this one process, turn about, and the best round of each counts, so
that a busy machine slows both; on a very busy one `--threads 1` and the figures by CPU time are the fair ones.
Indexes: vectors in loose clusters like those of real text (each a blur of one of many centres), queries likewise;
recall is against exact search. The last line with --json is one object. Exits 1 where vectors are not those of
stock encode, an index finds too little, or mapping it changes what it finds.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import faiss
import numpy as np
import torch
from goals import Goals, finish

from data.nouns import digest
from retrieval.embedding.calibration import sample_texts
from retrieval.embedding.embedder import Embedder
from retrieval.index.faiss_index import build_index, open_index
from retrieval.index.kinds import Kind
from tasks.inputs.models import resolve

NEEDS = "sentence-transformers/all-MiniLM-L6-v2"
KEYS = """
    embedding/times_stock embedding/times_stock_by_cpu_time embedding/chunks_per_second embedding/mean_tokens
    index/*/build_s index/*/single_ms index/*/recall_at_10 peak_memory_mb"""
GOALS: Goals = {
    "embedding/lowest_cosine_to_stock": (">=", 0.999),
    "embedding/times_stock_by_cpu_time": (">=", 0.7),  # wide: 3.9 with AMX, about 1 in float32, and machines are busy
    "index/*/recall_at_10": (">=", 0.95),
    "index/*/mapped_same": ("==", True),
}
DIM, K = 384, 10
PLANS: dict[int, tuple[Kind, ...]] = {
    10_000: ("flat",),
    100_000: ("flat", "ivf_flat", "ivf_sq8"),
    1_000_000: ("ivf_flat", "ivf_sq8"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="64 passages in two rounds, 10,000 vectors")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object with the figures")
    parser.add_argument("--embedder", default="sentence-transformers/all-MiniLM-L6-v2", help="Hub id or folder")
    parser.add_argument("--threads", type=int, help="threads of torch; all by default")
    parser.add_argument("--passages", type=int, default=2048, help="to embed (2048)")
    parser.add_argument("--skip-embedding", action="store_true")
    parser.add_argument("--sizes", type=int, nargs="*", help="vectors in the indexes; none given = no index")
    args = parser.parse_args()
    figures: dict = {}
    if args.threads:
        torch.set_num_threads(args.threads)
    if not args.skip_embedding:
        passages, rounds = (64, 2) if args.quick else (args.passages, 3)
        figures["embedding"] = embedding_speed(resolve(args.embedder).folder, passages, rounds)
    sizes = args.sizes if args.sizes is not None else [10_000] if args.quick else list(PLANS)
    figures["index"] = [row for size in sizes for row in index_speed(size)]
    figures["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"peak memory {figures['peak_memory_mb']} MB")
    measured = {path: goal for path, goal in GOALS.items() if figures.get(path.split("/")[0])}
    return finish(figures, measured, args.json)


def embedding_speed(folder: Path, count: int, rounds: int) -> dict:
    """Chunks a second of the pipeline's embedder (calibrated precision, and float32) and of stock encode."""
    from sentence_transformers import SentenceTransformer

    texts = sample_texts(count, characters=450)
    stock = SentenceTransformer(str(folder), local_files_only=True)
    ours = Embedder.load(folder)
    runs: dict[str, Callable[[], np.ndarray]] = {
        "stock float32": lambda: stock.encode(texts, normalize_embeddings=True, show_progress_bar=False),
        f"ours {ours.info.precision}": lambda: ours.encode(texts),
    }
    if ours.info.precision != "float32":
        full = Embedder.load(folder, precision="float32")
        runs["ours float32"] = lambda: full.encode(texts)
    wall: dict[str, float] = {}
    cpu: dict[str, float] = {}
    vectors: dict[str, np.ndarray] = {}
    for _ in range(rounds):
        for name, encode in runs.items():
            begin, begin_cpu = time.perf_counter(), time.process_time()
            vectors[name] = encode()
            wall[name] = max(wall.get(name, 0.0), count / (time.perf_counter() - begin))
            cpu[name] = max(cpu.get(name, 0.0), count / (time.process_time() - begin_cpu))
    chosen = f"ours {ours.info.precision}"
    found = {
        "passages": count,
        "mean_tokens": round(float(ours.embed(texts[:64]).tokens.mean()), 1),
        "device": ours.info.device,
        "threads": torch.get_num_threads(),
        "chunks_per_second": {name: round(value, 1) for name, value in wall.items()},
        "chunks_per_cpu_second": {name: round(value, 1) for name, value in cpu.items()},
        "times_stock": round(wall[chosen] / wall["stock float32"], 2),
        "times_stock_by_cpu_time": round(cpu[chosen] / cpu["stock float32"], 2),
        "lowest_cosine_to_stock": round(float((vectors[chosen] * vectors["stock float32"]).sum(axis=1).min()), 5),
    }
    print("embedding " + ", ".join(f"{key} {value}" for key, value in found.items()), flush=True)
    return found


def index_speed(size: int) -> list[dict]:
    """Build, save, open, map and search at one size, for each kind that makes sense there."""
    rng = np.random.default_rng(0)
    centres = unit(rng.standard_normal((max(50, size // 100), DIM), dtype=np.float32))
    vectors = blurred(centres, size, rng)
    queries = blurred(centres, 1000, rng)
    ids = [digest("benchmark", str(i)) for i in range(size)]
    _, truth = faiss.knn(queries[:200], vectors, K, metric=faiss.METRIC_INNER_PRODUCT)
    rows = []
    for kind in PLANS.get(size, ("flat", "ivf_flat")):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            build = seconds(partial(build_index, vectors, ids, folder, embedder={"digest": "x"}, kind=kind))
            begin = time.perf_counter()
            index = open_index(folder, expect_embedder="x")
            opening = time.perf_counter() - begin
            hits = index.search(queries[:200], K)
            wanted = [{ids[i] for i in row} for row in truth]
            recall = float(np.mean([len(w & {h.chunk_id for h in found}) / K for w, found in zip(wanted, hits)]))
            single = min(seconds(partial(index.search, queries[i : i + 1], K)) for i in range(20))
            batch = seconds(partial(index.search, queries, K)) / len(queries)
            del index
            mapped = open_index(folder, expect_embedder="x", mmap=True)
            same = mapped.search(queries[:200], K) == hits
            settings = mapped.manifest["settings"]
            rows.append(
                {
                    "vectors": size,
                    "kind": kind,
                    "build_s": round(build, 2),
                    "open_checked_s": round(opening, 2),
                    "file_mb": round((folder / "index.faiss").stat().st_size / 1e6, 1),
                    "single_ms": round(single * 1e3, 2),
                    "batch_ms_per_query": round(batch * 1e3, 3),
                    "recall_at_10": round(recall, 4),
                    "nprobe": settings.get("nprobe"),
                    "mapped_same": same,
                }
            )
            print("index " + ", ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    return rows


def blurred(centres: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """float32 [count, dim] unit vectors, each near a random centre; made in blocks to save memory."""
    out = np.empty((count, DIM), dtype=np.float32)
    for begin in range(0, count, 65_536):
        part = out[begin : begin + 65_536]
        noise = unit(rng.standard_normal(part.shape, dtype=np.float32))
        part[:] = unit(centres[rng.integers(0, len(centres), len(part))] + 0.9 * noise)
    return out


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length one."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def seconds(action: Callable[[], object]) -> float:
    """How long the action takes."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


if __name__ == "__main__":
    sys.exit(main())

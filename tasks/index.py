"""Stage `index`: vectors into a FAISS index whose manifest is checked before it is ever loaded."""

from __future__ import annotations

from typing import Literal

from data.nouns import Chunk, read_jsonl
from tasks.build.section import Section, setting
from tasks.build.stage import Bench, Outcome, Stage
from tasks.store.store import Manifest, read_json


class IndexConfig(Section):
    """How vectors are indexed."""

    kind: Literal["auto", "flat", "ivf_flat", "ivf_sq8"] = setting(
        "auto", "flat is exact; the others approximate; auto takes flat up to 300,000 vectors"
    )
    target_recall: float = setting(0.97, "Recall@10 against exact search that the ivf kinds must reach", gt=0, le=1)


def build(bench: Bench, config: IndexConfig, embed: Manifest, chunk: Manifest) -> Outcome:
    """Writes index.faiss and index.json."""
    import numpy as np

    from retrieval.index.faiss_index import build_index

    vectors = np.load(embed.path("vectors.npy"), allow_pickle=False)
    ids = [c.id for c in read_jsonl(chunk.path("chunks.jsonl"), Chunk)]
    embedder = read_json(embed.path("embedder.json"))
    made = build_index(vectors, ids, bench.out, embedder=embedder, kind=config.kind, target_recall=config.target_recall)
    return Outcome(f"{len(ids)} vectors → FAISS index ({made['kind']})", {"vectors": len(ids), "kind": made["kind"]})


STAGE = Stage("index", IndexConfig, build, inputs=("embed", "chunk"))

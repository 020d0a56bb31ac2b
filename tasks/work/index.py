"""The work of `index`: vectors into a FAISS index whose manifest is checked before it is ever loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.nouns import Chunk, read_jsonl
from data.text.counts import counted
from tasks.runtime.folders import StageFiles, read_json
from tasks.work.bench import Bench, Outcome

if TYPE_CHECKING:
    from tasks.index import IndexConfig


def build(bench: Bench, config: IndexConfig, embed: StageFiles, chunk: StageFiles) -> Outcome:
    """Writes index.faiss and index.json."""
    import numpy as np

    from retrieval.index.faiss_index import build_index

    vectors = np.load(embed.path("vectors.npy"), allow_pickle=False)
    ids = [c.id for c in read_jsonl(chunk.path("chunks.jsonl"), Chunk)]
    embedder = read_json(embed.path("embedder.json"))
    made = build_index(vectors, ids, bench.out, embedder=embedder, kind=config.kind, target_recall=config.target_recall)
    return Outcome(
        f"{counted(len(ids), 'vector')} → FAISS index ({made['kind']})", {"vectors": len(ids), "kind": made["kind"]}
    )

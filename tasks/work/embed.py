"""The work of `embed`: chunks into unit vectors, the durable artefact that any index can be rebuilt from."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from data.nouns import Chunk, read_jsonl
from data.text.counts import counted
from tasks.runtime.adapted import adapted
from tasks.runtime.embedder import load_embedder
from tasks.runtime.folders import ModelFolder, StageFiles, write_json
from tasks.work.bench import Bench, Outcome

if TYPE_CHECKING:
    from retrieval.embedding.embedder import Embedder
    from tasks.embed import EmbedConfig

log = logging.getLogger("raft.tasks")


def build(
    bench: Bench,
    config: EmbedConfig,
    chunk: StageFiles,
    adapt: StageFiles | None = None,
    *,
    embedder: ModelFolder,
) -> Outcome:
    """Writes vectors.npy (float32 [chunks, dim], in the order of chunks.jsonl) and embedder.json.

    Args:
        adapt: where it kept an embedder that was fitted to the domain, that one embeds.
    """
    import numpy as np

    from retrieval.embedding.languages import advice
    from retrieval.search import passage_text

    embedder = adapted(adapt, "embedder") or embedder
    chunks = list(read_jsonl(chunk.path("chunks.jsonl"), Chunk))
    if words := advice(embedder.name, embedder.folder, [c.text for c in chunks]):
        log.warning("%s", words)
    model = load_embedder(embedder, device=config.device, precision=config.precision, calibration=bench.calibration)
    texts = [passage_text(c) for c in chunks]
    spread = _spread(bench, config, model, texts)
    done = model.embed(texts, cache=bench.cache, progress=bench.progress)
    computed, reused = done.computed + spread, done.reused - spread
    np.save(bench.out / "vectors.npy", done.vectors, allow_pickle=False)
    info = model.info.to_dict()
    device = info.pop("device")
    write_json(bench.out / "embedder.json", info)
    return Outcome(
        f"{counted(len(chunks), 'chunk')} → {counted(len(done.vectors), 'vector')} of {model.info.dim} "
        f"({computed} computed, {reused} reused, {done.truncated} cut) in {model.info.precision} on {device}",
        {
            "chunks": len(chunks),
            "vectors": len(done.vectors),
            "computed": computed,
            "reused": reused,
            "truncated": done.truncated,
            "dim": model.info.dim,
            "precision": model.info.precision,
            "device": device,
        },
        machine={"device": device},
    )


def _spread(bench: Bench, config: EmbedConfig, model: Embedder, texts: Sequence[str]) -> int:
    """Embeds on several processes or a cluster what the cache lacks, where that is configured; how many texts."""
    if config.workers == 1 and config.cluster is None:
        return 0
    from retrieval.embedding.shards import dask_executor, embed_shards, local_pool, threads_each

    address = config.cluster
    if address is not None:
        return embed_shards(model, texts, lambda: dask_executor(address), cache=bench.cache, progress=bench.progress)
    return embed_shards(
        model,
        texts,
        lambda: local_pool(config.workers),
        cache=bench.cache,
        progress=bench.progress,
        threads=threads_each(config.workers),
    )

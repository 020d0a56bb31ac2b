"""Stage `embed`: chunks into unit vectors, the durable artefact that any index can be rebuilt from."""

from __future__ import annotations

from typing import Literal

from data.nouns import Chunk, read_jsonl
from tasks.models import ModelFiles
from tasks.section import Section, setting
from tasks.stage import Bench, Outcome, Stage
from tasks.store import Manifest, write_json


class EmbedConfig(Section):
    """How chunks become vectors."""

    device: str = setting("auto", "auto, cpu, cuda or cuda:N", result=False)
    precision: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "Precision of the transformer; auto measures once what is faster and equal in rank on this machine"
    )


def build(bench: Bench, config: EmbedConfig, chunk: Manifest, embedder: ModelFiles) -> Outcome:
    """Writes vectors.npy (float32 [chunks, dim], in the order of chunks.jsonl) and embedder.json."""
    import numpy as np

    from retrieval.embedding import Embedder
    from retrieval.search import passage_text

    chunks = list(read_jsonl(chunk.path("chunks.jsonl"), Chunk))
    model = Embedder.load(
        embedder.folder, device=config.device, precision=config.precision, calibration=calibration_file()
    )
    done = model.embed([passage_text(c) for c in chunks], cache=bench.cache, progress=bench.progress)
    np.save(bench.out / "vectors.npy", done.vectors, allow_pickle=False)
    info = model.info.to_dict()
    device = info.pop("device")
    write_json(bench.out / "embedder.json", info)
    return Outcome(
        f"{len(chunks)} chunks → {len(done.vectors)} vectors of {model.info.dim} "
        f"({done.computed} computed, {done.reused} reused, {done.truncated} cut) in {model.info.precision} on {device}",
        {
            "chunks": len(chunks),
            "vectors": len(done.vectors),
            "computed": done.computed,
            "reused": done.reused,
            "truncated": done.truncated,
            "dim": model.info.dim,
            "precision": model.info.precision,
            "device": device,
        },
    )


def calibration_file():
    """Where the choice of precision for a model and this hardware is remembered."""
    from tasks.models import cache_folder

    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "embedding_precision.json"


STAGE = Stage(
    "embed",
    EmbedConfig,
    build,
    inputs=("chunk",),
    models=("embedder",),
    packages=("sentence-transformers", "torch", "transformers", "tokenizers"),
)

"""A store with a whole chain, written by hand in milliseconds: two documents, their chunks, questions, records and an
adapter of made-up bytes. What the manifests say is consistent, as if the stages had run."""

import json

from tasks.build.keys import key_of
from tasks.store.manifest import Manifest
from tasks.store.store import Store

TEXTS = {"alder.md": "Alder has a stone mill.", "birch.md": "Birch has an iron bridge."}
STAGES = ("ingest", "chunk", "embed", "index", "questions", "records", "train", "export", "evaluate")
INPUTS = {
    "chunk": ("ingest",),
    "embed": ("chunk",),
    "index": ("embed", "chunk"),
    "questions": ("ingest", "chunk", "index"),
    "records": ("questions", "chunk", "index"),
    "train": ("records",),
    "export": ("train", "records", "index", "chunk"),
    "evaluate": ("export", "train", "records", "index", "chunk"),
}
MODELS = {"embedder": "e" * 64, "base": "b" * 64}


def write_chain(store: Store, texts: dict[str, str] = TEXTS, seed: int = 0) -> dict[str, Manifest]:
    """Publishes all stages for the documents `{source: text}`; every document is in training but the last."""
    store.prepare()
    built: dict[str, Manifest] = {}
    for stage in STAGES:
        publish(store, stage, built, files_of(stage, texts, seed, built), seed)
    return built


def publish(store: Store, stage: str, built: dict[str, Manifest], files: dict[str, str], seed: int) -> None:
    parents = {name: built[name] for name in INPUTS.get(stage, ())}
    digests = {name: m.digest for name, m in parents.items()} or {"corpus": "c" * 63 + str(seed)}
    ingredients = {
        "stage": stage,
        "version": "1",
        "inputs": digests,
        "config": {"knob": 1},
        "models": MODELS if stage in ("records", "evaluate") else {},
        "seed": seed,
        "code": {},
        "packages": {},
    }
    key = key_of(ingredients)
    with store.publish(stage, key) as (out, manifest):
        for name, text in files.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_text(text)
        manifest.ingredients = ingredients
        manifest.lineage = {name: m.link for name, m in parents.items()}
        manifest.summary = f"{len(files)} files"
    built[stage] = manifest


def files_of(stage: str, texts: dict[str, str], seed: int, built: dict[str, Manifest]) -> dict[str, str]:
    sources = sorted(texts)
    if stage == "ingest":
        rows = [{"id": f"doc-{s}", "source": s, "title": s, "text": texts[s], "sha256": "0" * 64} for s in sources]
        for row in rows:
            row["media_type"] = "text/markdown"
        return {"documents.jsonl": jsonl(rows), "report.json": json.dumps({"counts": {}, "duplicates": []})}
    if stage == "chunk":
        rows = [chunk_row(s, texts[s]) for s in sources]
        return {"chunks.jsonl": jsonl(rows)}
    if stage == "questions":
        rows = [
            {
                "id": f"q-{s}",
                "question": f"What has {s}?",
                "answer": "something",
                "gold_chunk_ids": [chunk_id(s, texts[s])],
                "document_ids": [f"doc-{s}"],
            }
            for s in sources
        ]
        return {"questions.jsonl": jsonl(rows), "dropped.jsonl": "", "report.json": "{}"}
    if stage == "records":
        *training, held_out = sources
        return {
            "train.jsonl": jsonl([record_row(s, texts, sources) for s in training]),
            "validation.jsonl": "",
            "test.jsonl": jsonl([record_row(held_out, texts, sources)]),
            "contract.json": "{}",
            "README.md": "---\nconfigs:\n- config_name: alpaca\n---\n\nRAFT records.\n",
            "card.md": "# Records\n",
        }
    if stage == "export":
        lineage = {name: m.digest for name, m in built.items()}
        contract = {"base_model": "tiny/base", "base_digest": "b" * 64, "base_source": "folder", "lineage": lineage}
        return {"adapter/adapter_model.safetensors": f"weights {seed}", "adapter/raft.json": json.dumps(contract)}
    if stage == "evaluate":
        headline = {"base": 0.2, "other": 0.6, "difference": 0.4, "low": 0.3, "high": 0.5, "n": 40, "verdict": "better"}
        summary = {"headline": headline, "headline_metric": "f1", "headline_setting": "retrieved"}
        return {"metrics.json": json.dumps({"summary": summary, "retrieval": {"recall@5": 0.9, "any_hit@5": 0.9}})}
    return {f"{stage}.bin": f"{stage} of {', '.join(texts[s] for s in sources)} {seed}"}


def record_row(source: str, texts: dict[str, str], sources: list[str]) -> dict:
    others = [chunk_id(s, texts[s]) for s in sources if s != source]
    metadata = {
        "record_id": f"r-{source}",
        "question_id": f"q-{source}",
        "oracle_ids": [chunk_id(source, texts[source])],
        "distractor_ids": others[-1:],
    }
    return {"instruction": f"What has {source}?", "input": "[1] …", "output": "something", "metadata": metadata}


def chunk_id(source: str, text: str) -> str:
    return f"chunk-{source}-{len(text)}"


def chunk_row(source: str, text: str) -> dict:
    return {
        "id": chunk_id(source, text),
        "document_id": f"doc-{source}",
        "ordinal": 0,
        "text": text,
        "start": 0,
        "end": len(text),
        "tokens": 5,
        "sha256": "0" * 64,
        "source": source,
        "title": source,
    }


def jsonl(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)

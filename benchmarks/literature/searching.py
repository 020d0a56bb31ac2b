"""The retriever of a set: as it comes, with a cross-encoder, or fitted to the training part by the stage `adapt`.

What is fitted has seen questions and passages of the training part alone, whichever part is asked; a sixth of that
part's documents decides, as validation, what is kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.nouns import Chunk, Document, Hit, Question, Search, digest, write_jsonl
from data.questions.importing import import_questions
from data.records.candidates import is_unanswerable
from data.records.split_sides import FrozenSplits
from literature.parts import Part, ordered, unit_of
from literature.protocols import Protocol
from retrieval.embedding.embedder import Embedder
from retrieval.index.faiss_index import Index, build_index, open_index
from retrieval.rerank import Reranker
from retrieval.search import Retriever, passage_text
from tasks.adapt import AdaptConfig
from tasks.inputs.models import ModelFiles, compile_cache
from tasks.retrieval import RetrievalConfig
from tasks.runtime.folders import read_json
from tasks.splits import SplitsConfig
from tasks.store.itemcache import SqliteCache
from tasks.store.places import calibration_file
from tasks.work import adapt
from tasks.work.bench import Bench

VALIDATION = 6  # one in so many documents of the training part
MOST_QUESTIONS = 3000  # that the retriever is fitted to


@dataclass(frozen=True)
class Models:
    """What searches: the embedder, unless words alone do, and the cross-encoder where the protocol wants one."""

    embedder: ModelFiles | None = None
    reranker: ModelFiles | None = None


@dataclass(frozen=True)
class Folder:
    """A folder read as the result of an earlier stage (`tasks.runtime.folders.StageFiles`)."""

    folder: Path
    stage: str = ""
    digest: str = ""
    files: tuple[()] = ()
    metrics: dict[str, Any] = field(default_factory=dict)
    ingredients: dict[str, Any] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        return self.folder / name


def search_of(protocol: Protocol, retriever: Retriever) -> Search:
    """The search by a question's own words, without those in which the protocol asks it of models."""
    prefix = protocol.wording.partition("{}")[0]

    def search(queries: Sequence[str], k: int) -> list[list[Hit]]:
        return retriever.search([query.removeprefix(prefix) for query in queries], k)

    return search


def make_retriever(
    chunks: Sequence[Chunk], protocol: Protocol, work: Path, cache: SqliteCache, models: Models
) -> Retriever:
    """The protocol's retriever before anything is fitted; the index lies in `work`."""
    if protocol.mode == "lexical":
        plain, precision = Retriever(None, None, chunks, mode="lexical"), "float32"
    else:
        assert models.embedder is not None
        embedder = Embedder.load(models.embedder.folder, calibration=calibration_file())
        index, precision = _indexed(chunks, embedder, work / "index", cache), embedder.info.precision
        plain = Retriever(index, embedder, chunks, mode=protocol.mode, query_cache=cache)
    if not protocol.rerank:
        return plain
    assert models.reranker is not None
    return plain.with_reranker(Reranker.load(models.reranker.folder, precision=precision))


def adapted(
    retriever: Retriever,
    protocol: Protocol,
    rows: Sequence[Mapping[str, Any]],
    part_of: Mapping[str, Part],
    units: Mapping[str, Part],
    documents: Sequence[Document],
    work: Path,
    cache: SqliteCache,
    models: Models,
    *,
    most_questions: int = MOST_QUESTIONS,
    say: Callable[[str], None] = print,
) -> tuple[Retriever, dict[str, Any]]:
    """The retriever with what the stage `adapt` fitted and kept, and the stage's report.

    Args:
        rows: the questions of the set in their own words. units: part of each article, paper or document.
        most_questions: of the training part, drawn by hash.

    Raises:
        RaftError: the training part has too few questions, or they are about too few documents.
    """
    chunks = list(retriever.chunks.values())
    plain = retriever.in_mode(retriever.mode, reranked=False).search
    order = sorted(rows, key=lambda row: digest("draw", str(protocol.seed), str(row["id"])))
    train = [row for row in order if part_of[str(row["id"])] == "train" and row.get("answerable", True)]
    asked = import_questions(train[:most_questions], chunks, plain, documents=documents).questions
    held_out = [
        Question(digest("held out", str(row["id"])), row["question"], "", (), ())
        for row in rows
        if part_of[str(row["id"])] != "train"
    ]
    questions = [*(q for q in asked if not is_unanswerable(q)), *held_out]
    config = AdaptConfig(embedder="embedder" in protocol.adapt, reranker="reranker" in protocol.adapt)
    assert models.embedder is not None
    names = [models.embedder.digest, models.reranker.digest if models.reranker and protocol.rerank else ""]
    key = [protocol.mode, protocol.adapt, protocol.seed, config.model_dump(), names, [q.to_dict() for q in questions]]
    place = work / f"adapt-{digest(json.dumps(key, sort_keys=True))}"
    if not (place / "done.json").exists():
        inputs = place / "inputs"
        inputs.mkdir(parents=True, exist_ok=True)
        write_jsonl(inputs / "questions.jsonl", questions)
        write_jsonl(inputs / "chunks.jsonl", chunks)
        sides = FrozenSplits(documents=_sides(protocol, documents, units))
        sides.write(inputs / "splits.json")
        report = _stage(place, config, protocol, work, cache, models, say)
        (place / "done.json").write_text(json.dumps(report), encoding="utf-8")
    return _with_kept(retriever, place / "out", chunks, cache), read_json(place / "done.json")


def _stage(
    place: Path,
    config: AdaptConfig,
    protocol: Protocol,
    work: Path,
    cache: SqliteCache,
    models: Models,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Runs the work of the stage over the inputs in `place`, into `place/out`."""
    inputs = place / "inputs"
    for name in ("out", "scratch"):
        (place / name).mkdir(exist_ok=True)
    bench = Bench(
        out=place / "out",
        scratch=place / "scratch",
        cache=cache,
        progress=lambda done, total, what: say(f"{what}: {done} of {total}"),
        seed=protocol.seed,
        lineage={},
        run_child=_no_child,
        calibration=calibration_file(),
        compiled=compile_cache(),
    )
    embedder, reranker = models.embedder, models.reranker if protocol.rerank else None
    assert embedder is not None
    outcome = adapt.build(
        bench,
        config,
        Folder(inputs),
        Folder(inputs),
        Folder(work / "index"),
        embedder=embedder,
        retrieval=RetrievalConfig(mode=protocol.mode, rerank=reranker and reranker.name),
        splits=SplitsConfig(frozen_splits=str(inputs / "splits.json"), validation=0.0, test=0.0),
        reranker=reranker,
    )
    return {"steps": list(outcome.metrics["steps"]), "questions": outcome.metrics["questions"]}


def _sides(protocol: Protocol, documents: Sequence[Document], units: Mapping[str, Part]) -> dict[str, str]:
    """Document id -> side. Of known documents none is held out but those that decide."""
    of = {d.id: "train" if protocol.known_documents else units.get(unit_of(d.source), "train") for d in documents}
    unit = {d.id: unit_of(d.source) for d in documents}
    training = {u for d, u in unit.items() if of[d] == "train" and u in units}
    deciding = set(ordered("adapt", training)[: max(1, round(len(training) / VALIDATION))])
    return {d: "validation" if unit[d] in deciding else "train" if of[d] == "train" else "test" for d in of}


def _with_kept(retriever: Retriever, out: Path, chunks: Sequence[Chunk], cache: SqliteCache) -> Retriever:
    choice = read_json(out / "retriever.json")
    before = retriever.embedder
    if "embedder" in choice and before is not None:
        embedder = Embedder.load(out / "embedder", precision=before.info.precision)
        retriever = retriever.with_embedder(_indexed(chunks, embedder, out.parent / "index", cache), embedder)
    if "reranker" in choice and isinstance(retriever.reranker, Reranker):
        retriever = retriever.with_reranker(Reranker.load(out / "reranker", precision=retriever.reranker.precision))
    return retriever


def _indexed(chunks: Sequence[Chunk], embedder: Embedder, folder: Path, cache: SqliteCache) -> Index:
    vectors = embedder.encode([passage_text(c) for c in chunks], cache=cache)
    folder.mkdir(exist_ok=True)
    build_index(vectors, [c.id for c in chunks], folder, embedder=embedder.info.to_dict())
    return open_index(folder, expect_embedder=embedder.info.digest)


def _no_child(*arguments: Any, **settings: Any) -> None:
    raise RuntimeError("the stage adapt starts no process")

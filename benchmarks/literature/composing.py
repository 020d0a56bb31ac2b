"""What a protocol trains and searches with: records of both sides, and the retriever over a set's passages."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.nouns import Chunk, Document
from data.prompting.contract import load_template
from data.questions.importing import import_questions
from data.records.compose import RecordOptions, RecordSet, compose_records, measured_p
from data.records.splits import FrozenSplits, SplitOptions, split_by_document
from jora_engine.files.tokenizer import Tokenizer
from literature.parts import Part, unit_of
from literature.protocols import Protocol
from retrieval.embedding.embedder import Embedder
from retrieval.index.faiss_index import build_index, open_index
from retrieval.mining import mine_distractors
from retrieval.search import Retriever, passage_text
from tasks.inputs.models import ModelFiles, resolve
from tasks.store.itemcache import SqliteCache
from tasks.store.places import calibration_file

EMBEDDER = "sentence-transformers/all-MiniLM-L6-v2"


def compose(
    protocol: Protocol,
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    units: Mapping[str, Part],
    chunks: Sequence[Chunk],
    documents: Sequence[Document],
    retriever: Retriever,
    base: ModelFiles,
    *,
    distractors: int | None = None,
) -> RecordSet:
    """Records of both sides. What a question outside the part that trains names, and the rest of its article or paper,
    is held out, whichever part is asked: `units` says which part each is of.

    Args:
        distractors: beside the oracles; None = as many as there is room for beside the most oracles of a question.
    """
    asked = import_questions([*rows["train"], *rows["test"]], chunks, retriever.search, documents=documents).questions
    if not protocol.reasoning:
        asked = [dataclasses.replace(question, reasoning="") for question in asked]
    unit = {d.id: unit_of(d.source) for d in documents}
    previous = {d: "train" if units[u] == "train" else "test" for d, u in unit.items() if u in units}
    splits = split_by_document(
        chunks,
        asked,
        options=SplitOptions(validation=0.0, test=0.3),
        seed=protocol.seed,
        previous=FrozenSplits(documents=previous),
        together=unit,
    )
    mined = mine_distractors(asked, chunks, retriever.search, count=2 * protocol.passages, seed=protocol.seed)
    learnt = [q for q in asked if splits.of[q.document_ids[0]] == "train"]
    p_oracle = measured_p(learnt, passages=protocol.passages) if protocol.p_oracle is None else protocol.p_oracle
    gold = max(len(q.gold_chunk_ids) for q in learnt)
    tokenizer = Tokenizer.load(base.folder)
    return compose_records(
        asked,
        chunks,
        mined,
        options=RecordOptions(
            distractors=protocol.passages - gold if distractors is None else distractors,
            min_distractors=protocol.min_distractors,
            order=protocol.order,
            p_oracle=p_oracle,
            absent=protocol.absent,
            max_tokens=protocol.max_tokens,
        ),
        count_tokens=lambda text: len(tokenizer.encode(text, add_special_tokens=False)),
        seed=protocol.seed,
        splits=splits,
        template=load_template(protocol.template),
    )


def make_retriever(chunks: Sequence[Chunk], mode: str, work: Path, cache: SqliteCache) -> Retriever:
    if mode == "lexical":
        return Retriever(None, None, chunks, mode="lexical")
    embedder = Embedder.load(resolve(EMBEDDER).folder, calibration=calibration_file())
    vectors = embedder.encode([passage_text(c) for c in chunks], cache=cache)
    folder = work / "index"
    folder.mkdir(exist_ok=True)
    build_index(vectors, [c.id for c in chunks], folder, embedder=embedder.info.to_dict())
    index = open_index(folder, expect_embedder=embedder.info.digest)
    return Retriever(index, embedder, chunks, mode="dense" if mode == "dense" else "hybrid", query_cache=cache)

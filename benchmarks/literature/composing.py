"""Questions of a set into records: imported, their passages mined, composed and split by the pipeline's own code."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from data.nouns import Chunk, Document, Question
from data.prompting.contract import load_template
from data.questions.importing import import_questions
from data.records.compose import RecordOptions, RecordSet, compose_records, measured_p
from data.records.splits import FrozenSplits, SplitOptions, Splits, split_by_document
from jora_engine.files.tokenizer import Tokenizer
from literature.parts import Part, unit_of
from literature.protocols import Protocol
from literature.searching import search_of
from retrieval.mining import mine_distractors
from retrieval.search import Retriever
from tasks.inputs.models import ModelFiles

Rows = Sequence[Mapping[str, Any]]


def compose(
    protocol: Protocol,
    rows: Mapping[str, Rows],
    units: Mapping[str, Part],
    chunks: Sequence[Chunk],
    documents: Sequence[Document],
    retriever: Retriever,
    base: ModelFiles,
) -> RecordSet:
    """Records of both sides. What a question outside the part that trains names, and the rest of its article or paper,
    is held out, whichever part is asked: `units` says which part each is of. With `known_documents` questions are held
    out, and no document is.
    """
    others = [*rows["test"], *rows.get("unplaced", ())]
    questions = questions_of(protocol, [*rows["train"], *others], chunks, documents, retriever)
    search = search_of(protocol, retriever)
    mined = mine_distractors(questions, chunks, search, count=2 * protocol.passages, seed=protocol.seed)
    trains = {str(row["id"]) for row in rows["train"]}
    if protocol.known_documents:
        return _by_question(protocol, questions, trains, chunks, mined, base)
    unit = {d.id: unit_of(d.source) for d in documents}
    previous = {d: "train" if units[u] == "train" else "test" for d, u in unit.items() if u in units}
    # a question that names no document has one by the search
    previous |= {d: "test" for q in questions if q.metadata["row_id"] not in trains for d in q.document_ids}
    splits = split_by_document(
        chunks,
        questions,
        options=SplitOptions(validation=0.0, test=0.3),
        seed=protocol.seed,
        previous=FrozenSplits(documents=previous),
        together=unit,
    )
    learnt = [q for q in questions if splits.of[q.document_ids[0]] == "train"]
    return _compose(protocol, questions, splits, chunks, mined, base, options_of(protocol, learnt))


def questions_of(
    protocol: Protocol, rows: Rows, chunks: Sequence[Chunk], documents: Sequence[Document], retriever: Retriever
) -> list[Question]:
    """The rows with their gold chunks; their difficulty is a rank of the search that serves, reranked or not, while
    chunks are found by the first search, whose scores say what is near."""
    plain = search_of(protocol, retriever.in_mode(retriever.mode, reranked=False))
    questions = import_questions(rows, chunks, plain, documents=documents).questions
    if not protocol.reasoning:
        questions = [dataclasses.replace(question, reasoning="") for question in questions]
    if retriever.reranker is None:
        return questions
    rankings = search_of(protocol, retriever)([q.question for q in questions], retriever.rerank_depth)
    ranks = [
        min((hit.rank for hit in hits if hit.chunk_id in question.gold_chunk_ids), default=None)
        for question, hits in zip(questions, rankings, strict=True)
    ]
    return [dataclasses.replace(question, difficulty=rank) for question, rank in zip(questions, ranks, strict=True)]


def options_of(protocol: Protocol, learnt: Sequence[Question]) -> RecordOptions:
    """How the records are made; P and the most oracles of a record are those of the questions that are learnt from."""
    gold = max(len(q.gold_chunk_ids) for q in learnt)
    room = max(0, protocol.passages - gold)
    distractors = room if protocol.distractors is None else protocol.distractors
    least = protocol.min_distractors
    return RecordOptions(
        distractors=distractors,
        min_distractors=None if least is None else min(least, distractors),
        order=protocol.order,
        p_oracle=measured_p(learnt, passages=protocol.passages) if protocol.p_oracle is None else protocol.p_oracle,
        absent=protocol.absent,
        max_tokens=protocol.max_tokens,
    )


def _by_question(
    protocol: Protocol,
    questions: Sequence[Question],
    trains: set[str],
    chunks: Sequence[Chunk],
    mined: Mapping[str, Sequence[Any]],
    base: ModelFiles,
) -> RecordSet:
    """Records where the documents are known: the questions asked are composed apart, and none of their wordings is
    trained on."""
    every = Splits({chunk.document_id: "train" for chunk in chunks}, report={"level": "question"})
    exam = [q for q in questions if q.metadata["row_id"] not in trains]
    wordings = {wording_of(q.question) for q in exam}
    learnt = [q for q in questions if q.metadata["row_id"] in trains and wording_of(q.question) not in wordings]
    options = options_of(protocol, learnt)
    train = _compose(protocol, learnt, every, chunks, mined, base, options)
    test = _compose(protocol, exam, every, chunks, mined, base, dataclasses.replace(options, p_oracle=1.0))
    dropped = dict(Counter(row.reason for row in [*train.dropped, *test.dropped]))
    report = {**train.report, "dropped": dropped}
    return RecordSet(train.train, [], test.train, [*train.dropped, *test.dropped], report)


def wording_of(question: str) -> str:
    """The words of a question, whatever the white space and case."""
    return " ".join(question.split()).casefold()


def _compose(
    protocol: Protocol,
    questions: Sequence[Question],
    splits: Splits,
    chunks: Sequence[Chunk],
    mined: Mapping[str, Sequence[Any]],
    base: ModelFiles,
    options: RecordOptions,
) -> RecordSet:
    tokenizer = Tokenizer.load(base.folder)
    return compose_records(
        questions,
        chunks,
        mined,
        options=options,
        count_tokens=lambda text: len(tokenizer.encode(text, add_special_tokens=False)),
        seed=protocol.seed,
        splits=splits,
        template=load_template(protocol.template),
    )

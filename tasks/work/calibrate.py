"""The work of `calibrate`: the adapter answers validation questions, and the threshold follows from its citations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.nouns import Record, read_jsonl
from data.prompting.contract import with_quote_weight
from raft_errors import BadInput
from tasks.runtime.exam import answer_and_score, citation_score_of, contexts, depth_for, make_answerer
from tasks.runtime.folders import ModelFolder, StageFiles, read_json, write_json
from tasks.runtime.retriever import open_retriever
from tasks.work.bench import Bench, Outcome

if TYPE_CHECKING:
    from tasks.ask import AskConfig
    from tasks.calibrate import CalibrateConfig
    from tasks.retrieval import RetrievalConfig

MAX_TOKENS = 256  # of an answer, as `raft ask` and the server have it


def build(
    bench: Bench,
    config: CalibrateConfig,
    train: StageFiles,
    records: StageFiles,
    index: StageFiles,
    chunk: StageFiles,
    adapt: StageFiles | None = None,
    *,
    embedder: ModelFolder,
    base: ModelFolder,
    retrieval: RetrievalConfig,
    ask: AskConfig,
    reranker: ModelFolder | None = None,
) -> Outcome:
    """Writes citing.json: the threshold, what it came to, and how the answers were written.

    Raises:
        BadInput: the template asks for no quotes, the questions are about too few documents, or no threshold keeps the
            level; it says how many documents are needed.
    """
    from data.evaluation.citing import calibrate, cites_rightly, least_documents, too_few

    assert ask.citation_error is not None
    contract = with_quote_weight(read_json(records.path("contract.json")), ask.quote_weight)
    if contract["citation"] == "unquoted":
        raise BadInput(
            f"ask.citation_error is set, and the template {contract['template']!r} asks for no quotes",
            expected="answers that cite",
            do="take another template (records.template), or leave ask.citation_error out",
        )
    sample = list(read_jsonl(records.path("validation.jsonl"), Record))[: config.questions]
    documents = len({next(iter(r.metadata["document_ids"]), r.metadata["question_id"]) for r in sample})
    if documents < (least := least_documents(ask.citation_error)):
        raise too_few(documents, least, ask.citation_error)
    models = {"embedder": embedder, "reranker": reranker}
    retriever = open_retriever(retrieval, index, chunk, models, adapt=adapt, queries=bench.cache)
    depth = depth_for(("retrieved",), contract["passages"])
    hits = retriever.search([r.metadata["question"] for r in sample], depth)
    shown = contexts(sample, hits, retriever.chunks, contract, ("retrieved",), bench.seed)
    settings = {
        **{"dtype": "bfloat16", "max_new_tokens": MAX_TOKENS},
        **{"batch_size": config.batch_size, "copy_quotes": ask.copy_quotes},
    }
    adapter = make_answerer(
        *(base, train.path("adapter"), f"{base.digest}+{train.digest}", settings, contract),
        reranked=retriever.reranker is not None,
    )
    rows, _ = answer_and_score("adapter", adapter, shown, contract, bench.cache, bench.progress)
    limit = calibrate(
        [citation_score_of(record, row) for (_, record), row in zip(shown, rows, strict=True)],
        [cites_rightly(row["quotes"]) for row in rows],
        [row["group"] for row in rows],
        ask.citation_error,
    )
    write_json(bench.out / "citing.json", {**limit.to_dict(), "copy_quotes": ask.copy_quotes})
    return Outcome(
        f"{limit.coverage:.0%} of the questions answered, {limit.error:.1%} of these cite wrongly (expected at most "
        f"{limit.expected_error:.1%}), on {limit.questions} validation questions about {limit.documents} documents",
        limit.to_dict(),
    )

"""The work of `gate`: the candidate against the promoted version and the base, on the fresh and the frozen test set.

All of them answer the same questions over the same passages; `data.evaluation.promotion` decides, and its reasons are
written down. It promotes nothing: that is up to the registry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.evaluation.promotion import Check, Decision, Rival, decide, general_check
from data.nouns import Chunk, Record, read_jsonl, write_jsonl
from raft_errors import BadInput
from tasks.runtime.folders import ModelFolder, StageFiles, read_json, write_json
from tasks.runtime.retriever import open_retriever
from tasks.work.bench import Bench, Outcome

if TYPE_CHECKING:
    from tasks.gate import GateConfig
    from tasks.retrieval import RetrievalConfig

CANDIDATE = "candidate"


def build(
    bench: Bench,
    config: GateConfig,
    export: StageFiles,
    train: StageFiles,
    records: StageFiles,
    index: StageFiles,
    chunk: StageFiles,
    evaluate: StageFiles,
    promoted_export: StageFiles | None = None,
    promoted_train: StageFiles | None = None,
    promoted_records: StageFiles | None = None,
    frozen: StageFiles | None = None,
    adapt: StageFiles | None = None,
    *,
    embedder: ModelFolder,
    base: ModelFolder,
    retrieval: RetrievalConfig,
    reranker: ModelFolder | None = None,
) -> Outcome:
    """Writes decision.json, decision.md, comparisons.json and rows.jsonl.

    Args:
        promoted_export, promoted_train, promoted_records: of the version in use, where there is one.
        frozen: the records whose test set was frozen when the first version was made.
    """
    from data.evaluation.comparison import summarise
    from jora_engine.adapters.peft_folder import precision_of
    from tasks.runtime.exam import answer_and_score, contexts, contract_of_export, depth_for, make_answerer

    contract = contract_of_export(records, export)
    settings = evaluate.ingredients["config"]
    general = read_json(evaluate.path("metrics.json")).get("general") or {}
    notes = [general_check(general, config.rule)]
    adapters: dict[str, tuple[Path | None, str]] = {
        "base": (None, base.digest),
        CANDIDATE: (export.path("adapter"), f"{base.digest}+{train.digest}"),
    }
    rivals: list[Rival] = ["base"]
    if promoted_export is not None and promoted_train is not None:
        if obstacle := _obstacle(promoted_export, export, contract):
            notes.append(Check("comparable", False, "hold", f"{obstacle}, so the two cannot be compared"))
        else:
            adapters["promoted"] = (promoted_export.path("adapter"), f"{base.digest}+{promoted_train.digest}")
            rivals.insert(0, "promoted")
    retriever = open_retriever(
        retrieval,
        index,
        chunk,
        {"embedder": embedder, "reranker": reranker},
        adapt=adapt,
        queries=bench.cache,
    )
    test = list(read_jsonl(records.path("test.jsonl"), Record))[: settings["limit"]]
    hits = retriever.search([r.metadata["question"] for r in test], depth_for(("retrieved",), contract["passages"]))
    fresh = contexts(test, hits, retriever.chunks, contract, ("retrieved",), bench.seed)
    old: list[Record] = []
    left_out: Counter[str] = Counter()
    if frozen is not None:
        old, left_out = usable(frozen, retriever.chunks, _training_documents(records), contract)
    questions = [("fresh", record) for _, record in fresh] + [("frozen", record) for record in old]
    rows: list[dict[str, Any]] = []
    for name, (adapter, digest) in adapters.items():
        held = precision_of(adapter or export.path("adapter"))  # the base as it would be served with the candidate
        reranked = retriever.reranker is not None
        who = make_answerer(base, adapter, digest, settings, contract, held, reranked=reranked)
        rows += answer_and_score(name, who, questions, contract, bench.cache, bench.progress)[0]
    if promoted_records is not None:
        _mark_corpus(rows, _documents(promoted_records))
    comparisons = {
        rival: summarise(rows, base=rival, other=CANDIDATE, samples=settings["samples"], seed=bench.seed)["settings"]
        for rival in rivals
    }
    decision = decide(comparisons, config.rule, notes=notes)
    _write(bench.out, decision, comparisons, rows)
    return Outcome(
        f"{decision.verdict}: {decision.reason}",
        {
            "verdict": decision.verdict,
            "reason": decision.reason,
            "fresh_questions": len(fresh),
            "frozen_questions": f"{len(old)}{_in_words(left_out)}",
            "rivals": rivals,
            "failed": [c.name for c in decision.checks if not c.passed],
        },
    )


def _obstacle(promoted: StageFiles, candidate: StageFiles, contract: dict[str, Any]) -> str:
    """Why the promoted version cannot answer the candidate's questions; "" if it can."""
    from tasks.runtime.contenders import check_serving

    try:
        check_serving(promoted.path("adapter"), contract, candidate.path("adapter"))
    except BadInput as error:
        return error.what
    return ""


def _in_words(left_out: Counter[str]) -> str:
    return f" ({', '.join(f'{n} {why}' for why, n in left_out.items())})" if left_out else ""


def _mark_corpus(rows: list[dict[str, Any]], documents: set[str]) -> None:
    """Adds a slice that tells questions about documents of the promoted version from those about new ones."""
    for row in rows if documents else ():
        row["slices"]["corpus"] = "known to the promoted version" if row["group"] in documents else "new"


def _write(folder: Path, decision: Decision, comparisons: dict[Rival, Any], rows: list[dict[str, Any]]) -> None:
    write_json(folder / "decision.json", decision.to_dict())
    write_json(folder / "comparisons.json", comparisons)
    write_jsonl(folder / "rows.jsonl", rows)
    (folder / "decision.md").write_text(as_markdown(decision), encoding="utf-8", newline="\n")


def usable(
    frozen: StageFiles, chunks: dict[str, Chunk], training_documents: set[str], contract: dict[str, Any]
) -> tuple[list[Record], Counter[str]]:
    """The frozen test records that can still be asked, and the number of the others by reason."""
    records, left_out = [], Counter[str]()
    earlier = read_json(frozen.path("contract.json"))
    documents = {c.document_id for c in chunks.values()}
    same_prompt = earlier["template_version"] == contract["template_version"]
    for record in read_jsonl(frozen.path("test.jsonl"), Record):
        meta = record.metadata
        if not same_prompt:
            left_out["of another prompt template"] += 1
        elif any(p["document_id"] not in documents for p in meta["passages"]):
            left_out["with passages of deleted documents"] += 1
        elif any(c not in chunks for c in meta["oracle_ids"]):
            left_out["whose answers' passages were edited"] += 1
        elif training_documents.intersection(meta["document_ids"]) and meta["documents"] == "unseen":
            left_out["on documents that are trained on now"] += 1
        else:
            records.append(record)
    return records, left_out


def _training_documents(records: StageFiles) -> set[str]:
    return {d for r in read_jsonl(records.path("train.jsonl"), Record) for d in r.metadata["document_ids"]}


def _documents(records: StageFiles) -> set[str]:
    """Documents that a version's questions were about, in any split."""
    rows: Iterable[Record] = (
        r for split in ("train", "validation", "test") for r in read_jsonl(records.path(f"{split}.jsonl"), Record)
    )
    return {d for r in rows for d in r.metadata["document_ids"]}


def as_markdown(decision: Decision) -> str:
    """The decision for a reader."""
    lines = [f"# {decision.verdict}", "", decision.reason, "", "| check | | why |", "|---|---|---|"]
    lines += [f"| {c.name} | {'passed' if c.passed else c.otherwise} | {c.why} |" for c in decision.checks]
    return "\n".join(lines) + "\n"

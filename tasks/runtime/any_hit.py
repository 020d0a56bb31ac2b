"""How many test questions have an oracle among their passages (any-hit), in an earlier index and in the present one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from data.nouns import Record, read_jsonl
from tasks.runtime.exam import retrieval_figures
from tasks.runtime.folders import ModelFolder, StageFiles, read_json
from tasks.runtime.retriever import open_retriever

if TYPE_CHECKING:
    from retrieval.search import Retriever
    from tasks.retrieval import RetrievalConfig


def any_hit_then_and_now(
    then: Mapping[str, StageFiles],
    now: Mapping[str, StageFiles],
    config: RetrievalConfig,
    models: Mapping[str, ModelFolder],
) -> tuple[float, float] | None:
    """Shares of the earlier version's test questions with an oracle among the passages shown: in its index and now.

    Only questions whose oracles are still in the corpus count; None if there are none.

    Args:
        then, now: manifests of `records`, `index` and `chunk`, and those of an adapted retriever where there is one.
        models: by role, as `open_retriever` takes them.
    """
    config = config.model_copy(update={"store": None})  # a team's store holds one corpus; this compares two
    present = _open(config, now, models)
    test = [
        r
        for r in read_jsonl(then["records"].path("test.jsonl"), Record)
        if r.metadata["oracle_ids"] and all(c in present.chunks for c in r.metadata["oracle_ids"])
    ]
    if not test:
        return None
    passages = read_json(then["records"].path("contract.json"))["passages"]
    earlier = _open(config, then, models)
    return _any_hit(earlier, test, passages), _any_hit(present, test, passages)


def _open(config: RetrievalConfig, built: Mapping[str, StageFiles], models: Mapping[str, ModelFolder]) -> Retriever:
    index = built.get("index_adapted", built["index"])
    return open_retriever(config, index, built["chunk"], models, adapt=built.get("adapt"))


def _any_hit(retriever: Retriever, test: Sequence[Record], passages: int) -> float:
    hits = retriever.search([r.metadata["question"] for r in test], passages)
    return retrieval_figures(test, hits, passages)[f"any_hit@{passages}"]

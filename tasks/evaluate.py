"""Stage `evaluate`: base with retrieval against adapter with retrieval, on documents that were not trained on."""

from __future__ import annotations

from typing import Literal

from tasks.build.section import Section, setting
from tasks.build.stage import Stage
from tasks.work.evaluate import build

PROBED = 40
"""Questions that the base is asked before a training (`raft advise`), where nobody says otherwise."""

Setting = Literal[
    "records",
    "retrieved",
    "oracle_only",
    "oracle_with_2",
    "oracle_with_4",
    "oracle_with_8",
    "distractors_only",
    "closed_book",
]


class EvaluateConfig(Section):
    """How the adapter is measured."""

    settings: tuple[Setting, ...] = setting(
        ("retrieved",),
        "Which passages are shown: as retrieved, of the record, the oracle alone or among distractors, only those, "
        "none at all",
        min_length=1,
    )
    earlier: tuple[str, ...] = setting(
        (),
        "Earlier adapters (PEFT folders, or exports) to answer the same questions in the same pass",
        path=True,
        result="content",
    )
    general: int = setting(
        40,
        "Instructions outside the domain that show what was forgotten; 0 = none",
        unit="instructions",
        ge=0,
        le=40,
    )
    judge: Literal["none", "local", "openai"] = setting(
        "none",
        "A teacher that says of each reply whether it is right, beside the other metrics: the base itself, or any "
        "OpenAI-compatible endpoint",
        from_outside=False,
    )
    judge_model: str = setting("gpt-4o-mini", "Model name at the judge's endpoint")
    judge_url: str | None = setting(
        None, "Address of the judge's endpoint, e.g. http://127.0.0.1:8000/v1", result=False
    )
    judge_key_variable: str = setting("OPENAI_API_KEY", "Environment variable that holds the judge's key", result=False)
    judge_tokens: int = setting(
        8, "Ceiling of a verdict; a judge that thinks wants 1000 and more", unit="tokens", ge=4, le=131072
    )
    limit: int | None = setting(None, "Test records at most, in order; null = all", ge=1)
    max_new_tokens: int = setting(160, "Longest answer", unit="tokens", ge=8, le=8192)
    copy_quotes: bool = setting(
        False,
        "Hold quotes to the words of the passages while they are written; only for a service that does so too "
        "(`raft ask --copy-quotes`, data.prompting.copying)",
    )
    batch_size: int = setting(16, "Prompts answered side by side", unit="prompts", ge=1, le=512)
    dtype: Literal["bfloat16", "float32"] = setting("bfloat16", "Precision of the models")
    samples: int = setting(10_000, "Bootstrap samples behind an interval", ge=100, le=1_000_000)


STAGE = Stage(
    "evaluate",
    EvaluateConfig,
    build,
    help="Compare base and adapter on held-out documents.",
    models=("embedder", "base"),
    models_if_set=("reranker",),
    shared=("retrieval", "gate"),  # the verdict goes by the gate's rule
    seeded=True,
)

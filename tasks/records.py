"""Stage `records`: questions into RAFT records with mined distractors, split by document before anything else."""

from __future__ import annotations

from typing import Annotated, Literal

import annotated_types
from pydantic import model_validator

from tasks.build.section import setting
from tasks.build.stage import Stage
from tasks.splits import SplitsConfig
from tasks.work.records import build


class RecordsConfig(SplitsConfig):
    """How records are composed and split."""

    distractors: int = setting(3, "Distractor passages beside the oracle", unit="passages", ge=0, le=50)
    min_distractors: int | None = setting(
        None, "Draw their number for each question from this to distractors; null = always as many", ge=0, le=50
    )
    p_oracle: Annotated[float, annotated_types.Ge(0), annotated_types.Le(1)] | Literal["measured"] = setting(
        0.8,
        "Share of answerable questions whose oracle is shown; measured = the share for which the retriever finds one "
        "(any-hit; use it with your own questions, or with questions.round_trip_k 0)",
    )
    absent: Literal["answer", "refuse", "mix"] = setting("refuse", "What a record without oracle teaches")
    refuse_share: float = setting(0.5, "Under mix: share of the records without oracle that refuse", ge=0, le=1)
    max_tokens: int = setting(
        1024, "Ceiling for instruction, passages and output; an oracle is never cut", unit="tokens", ge=64, le=131072
    )
    overhead_tokens: int | None = setting(
        None, "What the chat template adds; null = as measured on the base's", unit="tokens", ge=0, le=4096
    )
    seen_test: float = setting(
        0.0, "Share of training passages whose questions go to the test, to tell memory from reading", ge=0, le=0.5
    )
    template: str = setting(
        "quoted",
        "Prompt template: quoted, numbered, raft (the paper's tags), direct (no quotes), in the language of the corpus "
        "where there is a translation (quoted-en, quoted-de say which), or a folder of your own",
        path="or name",
        result="content",
    )
    order: Literal["hashed", "retrieved"] = setting(
        "hashed",
        "Order of the passages: hashed = the oracle at any place; retrieved = as the retriever ranks them, which "
        "teaches how far its first hits can be trusted",
    )
    arrangements: int = setting(
        1, "Training records a question gives, each with its passages in another order", unit="records", ge=1, le=16
    )
    formats: tuple[Literal["chat", "parquet"], ...] = setting(
        ("chat", "parquet"), "Layouts written beside the Alpaca files, for other trainers"
    )
    random_share: float = setting(0.2, "Share of the distractors drawn at random instead of mined", ge=0, le=1)
    first_rank: int = setting(1, "First rank from which distractors are mined", ge=1, le=1000)
    last_rank: int = setting(50, "Last rank from which distractors are mined", ge=1, le=10000)
    relative_margin: float | None = setting(
        None, "Mine only hits that score at most this share of the oracle's score, e.g. 0.95; null = any", gt=0, le=1
    )

    @model_validator(mode="after")
    def _agree(self) -> RecordsConfig:
        if self.min_distractors is not None and self.min_distractors > self.distractors:
            raise ValueError(f"records.min_distractors ({self.min_distractors}) is above records.distractors")
        return self


STAGE = Stage(
    "records",
    RecordsConfig,
    build,
    help="Compose the training records.",
    models=("embedder", "base"),
    models_if_set=("reranker",),
    shared=("retrieval",),
    seeded=True,
    cache="questions",  # the vectors of its questions
    # what the stages after this one do not read: another card or layout trains nothing anew
    describing=(
        *("card.md", "card.html", "card.json", "preflight.json", "preflight.txt", "splits.json", "dropped.jsonl"),
        *("dataset_info.json", "axolotl.yaml", "README.md"),
        *(f"{split}.{form}" for split in ("train", "validation", "test") for form in ("chat.jsonl", "parquet")),
    ),
)

"""Stage `records`: questions into RAFT records with mined distractors, split by document before anything else."""

from __future__ import annotations

from typing import Literal

from tasks.section import Section, setting


class RecordsConfig(Section):
    """How records are composed and split."""

    distractors: int = setting(3, "Distractor passages beside the oracle", unit="passages", ge=0, le=50)
    p_oracle: float = setting(0.8, "Share of answerable questions whose oracle is shown", ge=0, le=1)
    absent: Literal["answer", "refuse", "mix"] = setting("refuse", "What a record without oracle teaches")
    refuse_share: float = setting(0.5, "Under mix: share of the records without oracle that refuse", ge=0, le=1)
    max_tokens: int = setting(
        1024, "Ceiling for instruction, passages and output; an oracle is never cut", unit="tokens", ge=64, le=131072
    )
    validation: float = setting(0.1, "Share of the documents for validation", ge=0, lt=1)
    test: float = setting(0.2, "Share of the documents for the test", ge=0, lt=1)
    near_duplicate: float = setting(0.8, "Texts this alike (Jaccard of word 5-grams) stay in one split", gt=0, le=1)

"""The part of the section `records` that decides the sides of the corpus, for the stages that share it."""

from __future__ import annotations

from tasks.build.section import Section, setting


class SplitsConfig(Section):
    """Which share of the documents is held out, and what stays together."""

    validation: float = setting(0.1, "Share of the documents for validation", ge=0, lt=1)
    test: float = setting(0.2, "Share of the documents for the test", ge=0, lt=1)
    near_duplicate: float = setting(0.8, "Texts this alike (Jaccard of word 5-grams) stay in one split", gt=0, le=1)
    frozen_splits: str | None = setting(
        None,
        "splits.json of an earlier records stage: its documents keep their side, so the test stays the test",
        path=True,
        result="content",
    )

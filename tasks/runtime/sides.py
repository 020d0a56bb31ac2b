"""The sides of the corpus, decided once and read alike by every stage that must not look at the test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data.nouns import Chunk, ItemCache, Question

if TYPE_CHECKING:
    from data.records.split_sides import Splits
    from tasks.splits import SplitsConfig


def split_corpus(
    questions: Sequence[Question], chunks: Sequence[Chunk], config: SplitsConfig, seed: int, cache: ItemCache
) -> Splits:
    """The side of each document, as `data.records.splits` decides it; those of an earlier run where the section names
    one. The same questions, chunks, settings and seed give the same sides, whoever asks.
    """
    from data.records.splits import FrozenSplits, SplitOptions, split_by_document

    return split_by_document(
        chunks,
        questions,
        options=SplitOptions(validation=config.validation, test=config.test, near_duplicate=config.near_duplicate),
        seed=seed,
        previous=FrozenSplits.read(Path(config.frozen_splits)) if config.frozen_splits else None,
        cache=cache,
    )

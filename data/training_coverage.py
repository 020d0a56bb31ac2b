"""How many of its records a training saw, in words: one that was cut short must not read like a whole one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def seen_share(training: Mapping[str, Any]) -> float | None:
    """Share of the records that fit a row which were in at least one step; None where that was not written down.

    Args:
        training: the figures of a training (`training.json`).
    """
    seen, usable = training.get("records_seen"), training.get("records", 0) - training.get("records_too_long", 0)
    return None if seen is None or usable < 1 else seen / usable


def unseen_records(training: Mapping[str, Any]) -> str:
    """A clause about the records that were in no step, and why; "" where all were seen or nobody knows."""
    share = seen_share(training)
    if share is None or share >= 1:
        return ""
    usable = training["records"] - training["records_too_long"]
    cut = training["steps"] < training["steps_of_all_epochs"]
    why = "train.max_steps" if cut else "it was stopped early, train.early_stopping_patience"
    return (
        f"only {training['records_seen']} of {usable} records were seen, in {training['steps_taken']} of "
        f"{training['steps_of_all_epochs']} steps ({why})"
    )

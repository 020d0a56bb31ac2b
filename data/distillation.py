"""What a distillation after a training came to, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data.text.counts import counted


def distillation_words(training: Mapping[str, Any]) -> str:
    """A clause about the steps, both figures before and after, and whether the adapter was kept; "" for no step.

    Args:
        training: the figures of a training (`training.json`).
    """
    if not (steps := training.get("distil_steps")):
        return ""
    kept = "kept" if training["distil_kept"] else "dropped"
    figures = {name: [training[f"distil_{name}_{when}"] for when in ("before", "after")] for name in ("loss", "kl")}
    if any(None in pair for pair in figures.values()):
        return f"{counted(steps, 'step')} of distillation: it diverged, {kept}"
    loss, divergence = (f"{before:.4f} → {after:.4f}" for before, after in figures.values())
    return (
        f"{counted(steps, 'step')} of distillation: validation loss {loss}, divergence from the base in full "
        f"{divergence}, {kept}"
    )

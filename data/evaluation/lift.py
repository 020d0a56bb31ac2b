"""Which base is worth adapting: what one evaluation says of a base on a domain, and what several say together.

After LoRA Land (arXiv 2405.00732), which trained ten bases on 31 tasks by one recipe and compared each with itself
before. Figures and intervals are those of `data.evaluation.comparison`; nothing is resampled in another way here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.evaluation.advice import MOSTLY
from data.evaluation.comparison import HEADLINE, summarise

BEFORE_F1 = ("accuracy",)
"""Metrics that say more than token F1 of a task whose questions they are defined for."""


@dataclass(frozen=True)
class Lift:
    """A base before and after its training, over the same passages.

    Attributes:
        metric: of the task, a key of `data.evaluation.scoring.METRICS`.
        zero_shot, tuned: mean scores, 0 to 1.
        figures: `difference` (tuned less zero-shot), its interval (`low`, `high`, `level`), `n` questions, `verdict`.
    """

    metric: str
    zero_shot: float
    tuned: float
    figures: Mapping[str, Any]

    @property
    def gained(self) -> bool | None:
        """Whether training paid: the interval lies above zero. None where there are too few questions to say."""
        return {"better": True, "worse": False, "no clear difference": False}.get(self.figures["verdict"])

    @property
    def flag(self) -> str:
        """`worse` where the tuned base is clearly worse than before, `lower` where it scores less and may be, or ""."""
        if self.figures["verdict"] == "worse":
            return "worse"
        return "lower" if self.figures["difference"] < 0 else ""


def lift_of(summary: Mapping[str, Any]) -> Lift | None:
    """The lift in the metric of the task, from what `summarise` says; None where no answer could be compared.

    The metric is accuracy where most questions are answered by yes, no or maybe (LoRA Land scores such tasks so), else
    the headline, token F1.
    """
    setting = summary["settings"].get(summary["headline_setting"], {})
    headline = summary.get("headline")
    if not headline:
        return None
    for metric in BEFORE_F1:
        own = setting.get("differences", {}).get(metric)
        if own and own["n"] >= MOSTLY * setting["differences"][HEADLINE]["n"]:
            return Lift(metric, own["base"], own["other"], own)
    return Lift(summary["headline_metric"], headline["base"], headline["other"], headline)


def lift_between(
    rows: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]], *, samples: int = 10_000, seed: int = 0
) -> Lift | None:
    """How far one tuned base (`others`) is ahead of another (`rows`) on the questions that both were asked.

    Args:
        rows, others: of their evaluations. Only the adapters' count, paired by question: the passages shown may differ,
            since each base counts tokens by its own tokenizer.
    """
    both = [
        {**row, "condition": condition, "record_id": row["question_id"]}
        for condition, side in (("base", rows), ("adapter", others))
        for row in side
        if row["condition"] == "adapter"
    ]
    return lift_of(summarise(both, samples=samples, seed=seed)) if both else None


def hit_rate(cells: Sequence[tuple[bool | None, bool | None]]) -> dict[str, int]:
    """How often the forecast came true.

    Args:
        cells: for each base and domain whether a gain was forecast, and whether there was one; None where not known.
    Returns:
        `decided` cells with both, `hits` among them, and `gained`: what somebody would hit who always forecast a gain.
    """
    decided = [(forecast, gained) for forecast, gained in cells if forecast is not None and gained is not None]
    return {
        "decided": len(decided),
        "hits": sum(forecast == gained for forecast, gained in decided),
        "gained": sum(gained for _, gained in decided),
    }

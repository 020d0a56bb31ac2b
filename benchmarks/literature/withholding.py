"""What it costs to give only answers whose citation is sure enough (`ask.citation_error`), and whether that holds.

The threshold is the pipeline's (`data.evaluation.citing`). On the development part each article, paper or chapter is
judged by a threshold from the others; on the test part by one from development.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from data.evaluation.citing import calibrate, cites_rightly, outcome
from data.nouns import Record
from raft_errors import BadInput
from tasks.runtime.exam import citation_score_of

LEVEL = 0.1
Answered = Sequence[tuple[Record, Mapping[str, Any]]]
"""Questions as they were shown, with their scored answers."""


def withheld_figures(answered: Answered, calibration: Answered = (), level: float = LEVEL) -> dict[str, Any]:
    """`coverage` and `citation_error` of the answers given, documents counting alike; None where nothing can be said,
    and then `why`.

    Args:
        calibration: answers on other documents; without them each document is judged by the others.
    """
    groups = [row["group"] for _, row in answered]
    if not any(row["quotes"] for _, row in answered):
        return {"coverage": None, "citation_error": None, "why": "no answer quotes"}
    given: list[float | None] = [None] * len(answered)
    why = ""
    folds = sorted(set(groups)) if not calibration else [None]
    for fold in folds:
        own = [place for place, group in enumerate(groups) if fold in (None, group)]
        others = calibration or [pair for pair, group in zip(answered, groups, strict=True) if group != fold]
        try:
            threshold = _calibrated(others, level)
        except BadInput as refusal:  # then no answer is given, as `raft run` would refuse the setting
            why = why or refusal.what
            continue
        for place in own:
            score = citation_score_of(*answered[place])
            given[place] = 1.0 if score is not None and score >= threshold else None
    result = outcome(given, [cites_rightly(row["quotes"]) for _, row in answered], groups, 1.0)
    figures = {"coverage": result["coverage"], "citation_error": result["error"]}
    return figures | {"level": level, "documents": result["documents"]} | ({"why": why} if why else {})


def _calibrated(answered: Answered, level: float) -> float:
    rows = [row for _, row in answered]
    scores = [citation_score_of(record, row) for record, row in answered]
    right = [cites_rightly(row["quotes"]) for row in rows]
    return calibrate(scores, right, [row["group"] for row in rows], level).threshold

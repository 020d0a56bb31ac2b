"""Answers that are only given where their citation is sure enough: the threshold that keeps wrong citations rare.

Conformal risk control (Angelopoulos et al., arXiv 2208.02814) over documents: questions about one document are not
exchangeable, documents are, so each document counts once, however many questions it has. What is controlled is the
share of the answers given whose citation is wrong. That share falls with the threshold on the whole, but not at every
step, so the paper's guarantee for monotone losses is one for many documents here; its term for a finite number is kept:
the next document is counted as if all its answers were given and cited wrongly.

That alone keeps the level on average, and single sets of further documents often miss it. So there is a margin
for chance as well, of these documents and of as many further ones (`MARGIN`).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.text.counts import counted
from raft_errors import BadInput

MARGIN = 1.96 * math.sqrt(2)
"""Standard errors by which the mean over documents stays below the level: the difference between two means of as many
documents has sqrt(2) of them. 1.96 would be 97.5 % for a threshold fixed before; of one chosen among many nine in ten
remain (`tests/data/evaluation/test_citing.py`)."""


@dataclass(frozen=True)
class Calibration:
    """A threshold and what it came to on the questions it was chosen on; shares 0 to 1, documents counting alike.

    Attributes:
        level: the share of the answers given that may cite wrongly.
        threshold: the lowest score of an answer that is given.
        coverage: share of the questions whose answer is given.
        error: share of the answers given that cite wrongly; expected_error: with one more document, all of whose
            answers are given and cited wrongly.
    """

    level: float
    threshold: float
    documents: int
    questions: int
    coverage: float
    error: float
    expected_error: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def citing_score(quotes: Sequence[Mapping[str, Any]], scores: Sequence[float]) -> float | None:
    """How sure a citation is: the retriever's score of the passage cited (the worst of several), less that of the best
    passage that is not. None where no quote stands word for word in the passage it cites.

    Args:
        quotes: what `check_quotes` says of the answer's quotes; scores: of the passages shown, by place.
    """
    if not quotes or not all(quote["verbatim"] for quote in quotes):
        return None
    cited = {quote["passage"] for quote in quotes}
    others = [score for place, score in enumerate(scores, 1) if place not in cited]
    rival = max(others) if others else min(scores) if len(scores) > 1 else 0.0
    return float(min(scores[place - 1] for place in cited) - rival)


def cites_rightly(quotes: Sequence[Mapping[str, Any]]) -> bool:
    """Whether every quote stands word for word in the passage it cites, and that passage is an oracle."""
    return bool(quotes) and all(quote["verbatim"] and quote["oracle"] for quote in quotes)


def least_documents(level: float) -> int:
    """Documents below which no threshold can be shown to keep the level, even if every citation is right."""
    return math.ceil(round(1 / level - 1, 9))


def calibrate(
    scores: Sequence[float | None], right: Sequence[bool], documents: Sequence[Hashable], level: float
) -> Calibration:
    """The lowest threshold that keeps the level on average and, nine times in ten, on as many further documents.

    With w and g the shares of a document's questions that are answered with a wrong citation, and at all, and W and G
    their sums over documents: (W + 1) / (G + 1) <= level, and w - level * g is on average at least `MARGIN` standard
    errors below 0.

    Args:
        scores: of the answers, [n]; None where none is given whatever the threshold. right: whether each cites rightly.

    Raises:
        BadInput: too few documents, or citations too often wrong; it says how many documents would be needed.
    """
    if not 0 < level < 1:
        raise BadInput(f"citations: the level is {level}", expected="a share between 0 and 1, such as 0.1")
    if not len(scores) == len(right) == len(documents):
        raise BadInput(f"citations: {len(scores)} scores, {len(right)} judgements, {len(documents)} documents")
    names, counts = np.unique(np.array([str(document) for document in documents]), return_counts=True)
    least = least_documents(level)
    if len(names) < least:
        raise too_few(len(names), least, level)
    size = dict(zip(names.tolist(), counts.tolist(), strict=True))
    given = [place for place, score in enumerate(scores) if score is not None]
    values = np.array([scores[place] for place in given], dtype=np.float64)
    groups = np.searchsorted(names, np.array([str(documents[place]) for place in given], dtype=names.dtype))
    weights = np.array([1 / size[str(documents[place])] for place in given])
    wrong = np.array([not right[place] for place in given], dtype=bool)
    thresholds, answered, mistaken, squares = _sums(values, groups, weights, wrong, level)
    expected = (mistaken + 1) / (answered + 1)
    excess = (mistaken - level * answered) / len(names)
    deviation = np.sqrt(np.maximum(squares / len(names) - excess**2, 0) * len(names) / max(len(names) - 1, 1))
    likely = excess + MARGIN * deviation / math.sqrt(len(names))
    fitting = np.flatnonzero((expected <= level + 1e-12) & (likely <= 1e-12))
    if not fitting.size:
        raise _too_often_wrong(len(names), level, answered, mistaken, deviation)
    place = int(fitting[-1])  # thresholds fall: the last one gives most answers
    return Calibration(
        level=level,
        threshold=float(thresholds[place]),
        documents=len(names),
        questions=len(scores),
        coverage=round(float(answered[place]) / len(names), 4),
        error=round(float(mistaken[place] / answered[place]), 4),
        expected_error=round(float(expected[place]), 4),
    )


def outcome(
    scores: Sequence[float | None], right: Sequence[bool], documents: Sequence[Hashable], threshold: float
) -> dict[str, Any]:
    """What a threshold comes to on other questions, as `Calibration` has it: documents, questions, coverage, and error,
    which is None where no answer is given."""
    size: dict[Hashable, int] = {}
    for document in documents:
        size[document] = size.get(document, 0) + 1
    answered = mistaken = 0.0
    for score, good, document in zip(scores, right, documents, strict=True):
        if score is not None and score >= threshold:
            answered += 1 / size[document]
            mistaken += 0.0 if good else 1 / size[document]
    return {
        "documents": len(size),
        "questions": len(scores),
        "coverage": round(answered / len(size), 4) if size else 0.0,
        "error": round(mistaken / answered, 4) if answered else None,
    }


def too_few(documents: int, least: int, level: float) -> BadInput:
    """The error for validation questions about too few documents."""
    return BadInput(
        f"Citations cannot be held to {level:.0%} wrong with validation questions about "
        f"{counted(documents, 'document')}",
        expected=f"questions about at least {counted(least, 'document')} (questions about one document count as one)",
        do="raise records.validation, ask about more documents, or raise ask.citation_error",
    )


def _sums(
    values: NDArray[np.float64],
    groups: NDArray[np.intp],
    weights: NDArray[np.float64],
    wrong: NDArray[np.bool_],
    level: float,
) -> tuple[NDArray[np.float64], ...]:
    """Each score as a threshold, falling; the sums of the weights of the answers, and of the wrong ones, that it lets
    through; and the sum over documents (`groups`) of the square of what a document adds to W - level * G."""
    order = np.argsort(-values, kind="stable")
    values, groups, weights, wrong = values[order], groups[order], weights[order], wrong[order]
    steps = weights * (wrong - level)
    before = np.zeros_like(steps)  # what the document had added up to each answer
    for group in np.unique(groups):
        own = groups == group
        before[own] = np.cumsum(steps[own]) - steps[own]
    squares = np.cumsum(steps * (2 * before + steps))
    last = np.flatnonzero(np.append(values[1:] != values[:-1], True)) if values.size else np.array([], dtype=int)
    return values[last], np.cumsum(weights)[last], np.cumsum(weights * wrong)[last], squares[last]


def _too_often_wrong(
    documents: int,
    level: float,
    answered: NDArray[np.float64],
    mistaken: NDArray[np.float64],
    deviation: NDArray[np.float64],
) -> BadInput:
    about = counted(documents, "document")
    words = f"No threshold keeps wrong citations to {level:.0%} on validation questions about {about}"
    spare = level * answered - mistaken  # what W may still grow by
    if not spare.size or spare.max() <= 0:
        return BadInput(
            f"{words}: at every threshold more than that are wrong",
            do="raise ask.citation_error, or improve retrieval first (raft advise)",
        )
    kept = np.flatnonzero(spare > 0)
    each = spare[kept] / documents
    numbers = np.ceil(np.maximum((1 - level) / each, (MARGIN * deviation[kept] / each) ** 2) - 1e-9)
    place = int(numbers.argmin())
    best = kept[place]
    needed = int(numbers[place])
    share, error = answered[best] / documents, mistaken[best] / answered[best]
    return BadInput(
        f"{words}: at best {share:.0%} are answered, {error:.0%} of them cited wrongly, which so few cannot show",
        expected=f"about {counted(needed, 'document')}, if all are like these",
        do="raise records.validation, ask about more documents, or raise ask.citation_error",
    )

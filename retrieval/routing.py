"""Which of several domains a question belongs to, by the vectors of questions alone (LoraRetriever, arXiv 2402.09997).

A domain is known by its training questions: the middle of their vectors, as LoraRetriever has it, and the questions
themselves, since a domain of many subjects has a middle that is near to nothing; and by a threshold that nearly all of
its own held-out questions pass. What passes no domain's threshold belongs to none, which LoraRetriever does not have.
Pure arithmetic: who embeds, and what follows from the answer, is decided elsewhere.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

import numpy as np

MISS = 0.01
NEAREST = 3
"""Training questions beside which a question is held, on three real domains' held-out questions no worse than one or
five; the middle alone sends one in twenty of them elsewhere, with the nearest one in twenty-five."""


@dataclass(frozen=True)
class Profile:
    """What the questions of a domain look like.

    Attributes:
        centre: float32 [dim] of length 1.
        examples: float32 [training, dim], unit vectors of the training questions.
        threshold: score that a question must reach to belong here.
        held_out: questions that the threshold was chosen on.
    """

    centre: np.ndarray
    examples: np.ndarray
    threshold: float
    held_out: int

    def scores(self, vectors: np.ndarray) -> np.ndarray:
        """How near each unit vector `[n, dim]` is, float32 [n] in [-1, 1]: the mean of its cosine to the centre and of
        that to its `NEAREST` examples."""
        given = np.asarray(vectors, np.float32)
        return (given @ self.centre + _nearest(given @ self.examples.T)) / 2

    def to_bytes(self) -> bytes:
        """For a cache."""
        out = io.BytesIO()
        numbers = np.array([self.threshold, self.held_out], np.float64)
        np.savez(out, centre=self.centre, examples=self.examples, numbers=numbers)
        return out.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Profile:
        """What `to_bytes` wrote."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            threshold, held_out = arrays["numbers"].tolist()
            return cls(arrays["centre"], arrays["examples"], threshold, int(held_out))


def make_profile(training: np.ndarray, held_out: np.ndarray, *, miss: float = MISS) -> Profile:
    """The profile of a domain.

    Args:
        training: unit vectors [n, dim] of its training questions, at least one.
        held_out: unit vectors [m, dim] of questions that were not trained on; the threshold is chosen on them. Where
            there are none, each training question is held against the others.
        miss: share of the held-out questions that may fall below the threshold.
    """
    vectors = np.asarray(training, np.float32)
    profile = Profile(_unit(vectors.mean(axis=0)), vectors, -1.0, len(held_out))
    own = profile.scores(held_out) if len(held_out) else _left_out(vectors)
    return replace(profile, threshold=float(np.sort(own)[int(miss * len(own))]))


def _nearest(cosines: np.ndarray) -> np.ndarray:
    """The mean of the `NEAREST` largest of each row, or of all where there are fewer."""
    count = min(NEAREST, cosines.shape[1])
    return np.sort(cosines, axis=1)[:, -count:].mean(axis=1)


def _left_out(vectors: np.ndarray) -> np.ndarray:
    """What each vector scores in a profile of the others; a single one in its own."""
    if len(vectors) == 1:
        return np.ones(1, np.float32)
    others = _unit(vectors.sum(axis=0) - vectors)
    cosines = vectors @ vectors.T
    cosines = cosines[~np.eye(len(vectors), dtype=bool)].reshape(len(vectors), -1)
    return (np.einsum("nd,nd->n", vectors, others) + _nearest(cosines)) / 2


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)


def quantised(shares: list[float], steps: int) -> list[float]:
    """Shares that add up to 1, as multiples of 1 / steps that add up to 1: the largest remainders are rounded up, so
    that alike questions get the very same weights."""
    total = sum(shares)
    exact = [share / total * steps for share in shares]
    whole = [int(share) for share in exact]
    by_rest = sorted(range(len(shares)), key=lambda n: (whole[n] - exact[n], n))
    for number in by_rest[: steps - sum(whole)]:
        whole[number] += 1
    return [share / steps for share in whole]

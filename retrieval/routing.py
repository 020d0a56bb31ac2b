"""Which of several domains a question belongs to, by the vectors of questions alone (LoraRetriever, arXiv 2402.09997).

A domain is known by its training questions: the middle of their vectors, and a threshold that nearly all of its own
held-out questions pass. What passes no domain's threshold belongs to none, which LoraRetriever does not have. Pure
arithmetic: who embeds, and what follows from the answer, is decided elsewhere.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

import numpy as np

MISS = 0.02


@dataclass(frozen=True)
class Profile:
    """What the questions of a domain look like.

    Attributes:
        centre: float32 [dim] of length 1.
        threshold: cosine that a question must reach to belong here.
        training, held_out: questions that it was made from.
    """

    centre: np.ndarray
    threshold: float
    training: int
    held_out: int

    def scores(self, vectors: np.ndarray) -> np.ndarray:
        """Cosine of each unit vector `[n, dim]` to the centre, float32 [n]."""
        return np.asarray(vectors, np.float32) @ self.centre

    def to_bytes(self) -> bytes:
        """For a cache."""
        out = io.BytesIO()
        counts = np.array([self.training, self.held_out])
        np.savez(out, centre=self.centre, threshold=np.float64(self.threshold), counts=counts)
        return out.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Profile:
        """What `to_bytes` wrote."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            training, held_out = arrays["counts"].tolist()
            return cls(arrays["centre"], float(arrays["threshold"]), training, held_out)


def make_profile(training: np.ndarray, held_out: np.ndarray, *, miss: float = MISS) -> Profile:
    """The profile of a domain.

    Several middles, or the nearest training questions in their place, were no better on three real domains.

    Args:
        training: unit vectors [n, dim] of its training questions, at least one.
        held_out: unit vectors [m, dim] of questions that were not trained on; the threshold is chosen on them. Where
            there are none, each training question is held against the others.
        miss: share of the held-out questions that may fall below the threshold.
    """
    vectors = np.asarray(training, np.float32)
    profile = Profile(_unit(vectors.mean(axis=0)), -1.0, len(training), len(held_out))
    own = profile.scores(held_out) if len(held_out) else _left_out(vectors)
    return replace(profile, threshold=float(np.sort(own)[int(miss * len(own))]))


def _left_out(vectors: np.ndarray) -> np.ndarray:
    """Cosine of each vector to the middle of the others; of a single one to itself."""
    if len(vectors) == 1:
        return np.ones(1, np.float32)
    others = _unit(vectors.sum(axis=0) - vectors)
    return np.einsum("nd,nd->n", vectors, others)


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

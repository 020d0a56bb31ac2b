"""Chooses fp32 or bf16 for an embedder by a short measurement, and remembers the choice in a JSON file.

bfloat16 is chosen only where the hardware has units for it, it is clearly faster here, and it ranks like float32. A
remembered choice is used again, so that a second run gives the same bytes even if the machine is busier.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

log = logging.getLogger("raft.retrieval")

MIN_SPEEDUP = 1.2  # below this the gain is within the noise of a busy machine
MIN_COSINE = 0.999  # measured for MiniLM: .9999; a broken bf16 path falls far below
MIN_RANK_AGREEMENT = 0.95
_ROUNDS = 2
_NEIGHBOURS = 5


@dataclass(frozen=True)
class Calibration:
    """The decision and what it rests on.

    Attributes:
        precision: `float32` or `bfloat16`.
        speedup: float32 time / bfloat16 time, best of a few interleaved rounds.
        min_cosine: lowest cosine between the two vectors of one text.
        rank_agreement: mean share of each text's nearest neighbours that both precisions name.
        reason: one sentence for a reader.
    """

    precision: str
    speedup: float
    min_cosine: float
    rank_agreement: float
    reason: str


def compare(full: Callable[[], np.ndarray], half: Callable[[], np.ndarray]) -> Calibration:
    """Times two encoders of the same texts, interleaved, and decides. Each returns float32 [n, dim], L2-normalised."""
    times: dict[str, list[float]] = {"full": [], "half": []}
    vectors: dict[str, np.ndarray] = {}
    for _ in range(_ROUNDS):  # the first round is also the warm-up; the best of the rounds counts
        for name, encode in (("full", full), ("half", half)):
            begin = time.perf_counter()
            vectors[name] = encode()
            times[name].append(time.perf_counter() - begin)
    first, second = vectors["full"], vectors["half"]
    speedup = min(times["full"]) / max(min(times["half"]), 1e-9)
    cosine = float((first * second).sum(axis=1).min()) if np.isfinite(second).all() else -1.0
    agreement = rank_agreement(first, second) if cosine > -1 else 0.0
    if speedup < MIN_SPEEDUP:
        choice, reason = "float32", f"bfloat16 is only {speedup:.2f} times as fast here"
    elif cosine < MIN_COSINE or agreement < MIN_RANK_AGREEMENT:
        choice, reason = "float32", f"bfloat16 ranks differently (cosine {cosine:.4f}, agreement {agreement:.2f})"
    else:
        choice, reason = "bfloat16", f"{speedup:.1f} times as fast, rank agreement {agreement:.2f}"
    return Calibration(choice, round(speedup, 2), round(cosine, 6), round(agreement, 4), reason)


def rank_agreement(first: np.ndarray, second: np.ndarray) -> float:
    """Mean share of the nearest neighbours among the rows that both sets of vectors [n, dim] name, in [0, 1]."""
    count = min(_NEIGHBOURS, len(first) - 1)
    if count < 1:
        return 1.0
    near = []
    for vectors in (first, second):
        scores = vectors @ vectors.T
        np.fill_diagonal(scores, -np.inf)
        near.append(np.argsort(-scores, axis=1, kind="stable")[:, :count])
    return float(np.mean([len(set(a) & set(b)) / count for a, b in zip(*near)]))


def read_decision(path: Path | None, key: str) -> Calibration | None:
    """The remembered decision for this model and hardware, or None."""
    entry = _entries(path).get(key)
    try:
        return Calibration(**entry) if entry else None
    except TypeError:
        return None


def write_decision(path: Path | None, key: str, decision: Calibration) -> None:
    """Adds the decision to the file, which is replaced atomically; without a path nothing is remembered."""
    if path is None:
        return
    entries = {**_entries(path), key: asdict(decision)}
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:  # a full or read-only disk: the next run measures again
        log.warning("Calibration file %s cannot be written (%s); the choice is not remembered", path, error.strerror)


def _entries(path: Path | None) -> dict[str, dict]:
    if path is None or not path.is_file():
        return {}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return entries if isinstance(entries, dict) else {}
    except (ValueError, OSError) as error:
        log.warning("Calibration file %s cannot be read (%s); the precision is measured again", path, error)
        return {}


def sample_texts(count: int = 64, characters: int = 400) -> list[str]:
    """Passages of the Python language reference that ships inside every CPython: real prose that is always at hand."""
    from pydoc_data.topics import topics

    prose = "\n".join(topics[name] for name in sorted(topics))
    step = max(1, (len(prose) - characters) // count)
    return [prose[i * step : i * step + characters] for i in range(count)]

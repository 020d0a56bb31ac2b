"""Which FAISS index for how many vectors, and how widely an approximate one must search to be trusted.

Exact search needs no tuning; an IVF index gets the smallest nprobe whose measured recall against exact search reaches
the target, because FAISS's own default of 1 finds little more than half.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import faiss
import numpy as np

from raft_errors import BadInput

log = logging.getLogger("raft.retrieval")

Kind = Literal["flat", "ivf_flat", "ivf_sq8"]
EXACT_LIMIT = 300_000  # vectors up to which exact search is fast enough to build data with
SMALL_MEMORY_LIMIT = 2_000_000  # beyond it one byte per dimension instead of four
_PROBE_QUERIES = 200
_PROBE_K = 10
_BLOCK = 65_536


@dataclass(frozen=True)
class NewIndex:
    """A filled index, its kind, and the settings chosen or measured for it, which go into its manifest."""

    index: Any
    kind: Kind
    settings: dict[str, Any] = field(default_factory=dict)


def resolve_kind(kind: str, count: int) -> Kind:
    """`auto` becomes flat, ivf_flat or ivf_sq8 by the number of vectors."""
    if kind == "auto":
        return "flat" if count <= EXACT_LIMIT else "ivf_flat" if count <= SMALL_MEMORY_LIMIT else "ivf_sq8"
    if kind not in get_args(Kind):
        raise BadInput(f"Index kind {kind!r} is unknown", expected="auto, flat, ivf_flat or ivf_sq8", do="use auto")
    return kind  # type: ignore[return-value]


def make_index(vectors: np.ndarray, ids: np.ndarray, kind: Kind, *, target_recall: float) -> NewIndex:
    """A tuned index of vectors float32 [n, dim] under ids int64 [n], trained first if its kind needs it."""
    dim = vectors.shape[1]
    if kind == "flat":
        index: Any = faiss.index_factory(dim, "IDMap2,Flat", faiss.METRIC_INNER_PRODUCT)
        _add(index, vectors, ids)
        return NewIndex(index, kind)
    lists = max(1, min(int(4 * math.sqrt(len(ids))), len(ids) // 39 or 1))  # FAISS asks for 39 training rows per list
    tail = "Flat" if kind == "ivf_flat" else "SQ8"
    index = faiss.index_factory(dim, f"IVF{lists},{tail}", faiss.METRIC_INNER_PRODUCT)
    rng = np.random.default_rng(0)
    sample = np.sort(rng.choice(len(ids), size=min(len(ids), lists * 64), replace=False))
    index.train(vectors[sample])
    _add(index, vectors, ids)
    nprobe, recall = choose_nprobe(index, vectors, ids, lists, target_recall)
    index.nprobe = nprobe
    settings = {"lists": lists, "nprobe": nprobe, "recall_at_10": round(recall, 4), "target_recall": target_recall}
    log.info("IVF index: %d lists, nprobe %d, recall@10 %.3f against exact search", lists, nprobe, recall)
    if recall < target_recall:
        log.warning("Recall %.3f is below the target %.3f with every list probed", recall, target_recall)
    return NewIndex(index, kind, settings)


def _add(index: Any, vectors: np.ndarray, ids: np.ndarray) -> None:
    """Adds in the order of the ids, so that equal contents give equal files; block by block, to copy little."""
    order = np.argsort(ids, kind="stable")
    for begin in range(0, len(order), _BLOCK):
        rows = order[begin : begin + _BLOCK]
        index.add_with_ids(np.ascontiguousarray(vectors[rows]), ids[rows])


def choose_nprobe(
    index: Any, vectors: np.ndarray, ids: np.ndarray, lists: int, target_recall: float
) -> tuple[int, float]:
    """(smallest power-of-two nprobe that reaches the target, its recall@10 against exact search).

    The probes are stored vectors with a little noise, since a stored vector itself is found too easily.
    """
    rng = np.random.default_rng(1)
    rows = rng.choice(len(ids), size=min(_PROBE_QUERIES, len(ids)), replace=False)
    noise = rng.standard_normal((len(rows), vectors.shape[1])).astype(np.float32)
    probes = vectors[rows] + noise / np.linalg.norm(noise, axis=1, keepdims=True) * 0.5
    probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    k = min(_PROBE_K, len(ids))
    _, places = faiss.knn(probes, vectors, k, metric=faiss.METRIC_INNER_PRODUCT)
    truth = ids[places]
    nprobe = 1
    while True:
        index.nprobe = nprobe
        _, nearest = index.search(probes, k)
        recall = float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(truth, nearest)]))
        if recall >= target_recall or nprobe >= lists:
            return nprobe, recall
        nprobe = min(nprobe * 2, lists)

"""Near-duplicates among documents: MinHash finds candidates, the exact Jaccard similarity of shingles decides.

Shingles are three words in a row, lower-case. Of very long texts a fixed sample of shingles stands for all.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np

_WORD = re.compile(r"\w+")
_SHINGLE = 3
_PERMUTATIONS = 128
_SAMPLE = 20_000
_FEWEST = 8
"""Texts with fewer shingles are too short to be called near-duplicates: one number may be all their meaning."""


def find_near_duplicates(texts: Sequence[str], threshold: float = 0.8) -> dict[int, tuple[int, float]]:
    """For the index of each near-duplicate, the earlier text that it resembles most and their similarity (0 to 1)."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=max(0.1, threshold - 0.1), num_perm=_PERMUTATIONS)
    shingles: dict[int, np.ndarray] = {}
    near: dict[int, tuple[int, float]] = {}
    for number, text in enumerate(texts):
        own = _shingles(text)
        if len(own) < _FEWEST:
            continue
        sketch = MinHash(num_perm=_PERMUTATIONS, seed=1, hashfunc=int)
        sketch.update_batch(own.tolist())
        found = [(jaccard(own, shingles[other]), -other) for other in index.query(sketch)]
        if found and max(found)[0] >= threshold:
            similarity, other = max(found)
            near[number] = (-other, round(similarity, 4))
        else:  # only the first of a group is compared with
            shingles[number] = own
            index.insert(number, sketch)
    return near


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """Similarity of two sorted arrays of distinct hashes."""
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / (len(one) + len(other) - common)


def _shingles(text: str) -> np.ndarray:
    """Sorted distinct 32-bit hashes of the shingles, the smallest `_SAMPLE` of them."""
    words = _WORD.findall(text.lower())
    hashes = {zlib.crc32(" ".join(words[i : i + _SHINGLE]).encode()) for i in range(len(words) - _SHINGLE + 1)}
    return np.sort(np.fromiter(hashes, np.uint32, len(hashes)))[:_SAMPLE]

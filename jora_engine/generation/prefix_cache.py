"""Keys and values of prompt chunks that were computed before, bounded in bytes, exact.

A chunk's key stands for everything that decides its numbers: weights, adapter, tenant, all tokens before it, its own
tokens, and the sizes at which the chunks were computed. A hit therefore repeats the very arrays of the cold run, and
what one tenant asked never answers, or hurries, another.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import jax

from jora_engine.model.kv_cache import Stretch


def chunk_key(
    parent: str,
    tokens: Sequence[int],
    *,
    padded: int,
    weights: str,
    adapter: str | None,
    tenant: str,
    length: int | None,
) -> str:
    """The key of a chunk.

    Args:
        parent: key of the chunk before it, empty for the first.
        padded: tokens of the program that computes it.
        weights: stands for the base, the engine and its dtype.
        adapter: digest of the adapter's bytes; None for the base.
        length: of the whole prompt where the angles go by it, else None.
    """
    fields = {
        "weights": weights,
        "adapter": adapter,
        "tenant": tenant,
        "parent": parent,
        "tokens": [int(token) for token in tokens],
        "padded": padded,
        "length": length,
    }
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


class PrefixCache:
    """Chunks by key, the least recently used dropped first.

    Attributes:
        bytes: what the chunks hold.
        asked, hits: tokens looked up, and those that were there.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = self.asked = self.hits = 0
        self._chunks: OrderedDict[str, tuple[list[Stretch], int, str | None]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._chunks)

    def get(self, key: str, tokens: int) -> list[Stretch] | None:
        """Each layer's keys and values of a chunk of so many tokens, if they are here."""
        self.asked += tokens
        entry = self._chunks.get(key)
        if entry is None:
            return None
        self._chunks.move_to_end(key)
        self.hits += tokens
        return entry[0]

    def put(self, key: str, chunk: list[Stretch], adapter: str | None) -> None:
        """Keeps a chunk if it fits at all; older ones make room."""
        size = sum(x.nbytes for x in jax.tree.leaves(chunk))
        if size > self.max_bytes or key in self._chunks:
            return
        self._chunks[key] = chunk, size, adapter
        self.bytes += size
        while self.bytes > self.max_bytes:
            self._drop(next(iter(self._chunks)))

    def forget(self, adapter: str | None = None) -> None:
        """Drops all chunks, or those of an adapter by its digest."""
        for key in [k for k, (_, _, of) in self._chunks.items() if adapter is None or of == adapter]:
            self._drop(key)

    def _drop(self, key: str) -> None:
        self.bytes -= self._chunks.pop(key)[1]

    def figures(self) -> dict[str, Any]:
        """For people and metrics."""
        return {"chunks": len(self), "bytes": self.bytes, "asked_tokens": self.asked, "hit_tokens": self.hits}

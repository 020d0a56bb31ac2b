"""Work on single texts, done once: the result is kept in an item cache for as long as text and function stay the same.

For work that depends on one text alone and whose result is JSON. It does not know what the work is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from data.nouns import ItemCache, text_sha256


def memoise(cache: ItemCache | None, what: str, texts: Sequence[str], make: Callable[[str], Any]) -> list[Any]:
    """`[make(text) for text in texts]`, each text once; new results go into the cache in one commit.

    Args:
        what: names the function, its version and everything else that its results depend on.
        make: returns JSON values (tuples come back as lists).
    """
    keys = [text_sha256(f"{what}\0{text}") for text in texts]
    known = {key: json.loads(raw) for key, raw in (cache.get_many(keys) if cache is not None else {}).items()}
    fresh: dict[str, bytes] = {}
    for key, text in zip(keys, texts, strict=True):
        if key not in known:
            fresh[key] = json.dumps(make(text)).encode()
            known[key] = json.loads(fresh[key])
    if fresh and cache is not None:
        cache.put_many(fresh)
    return [known[key] for key in keys]


class Memo:
    """The same for texts that come one by one: `memo(text)`; `save` puts new results into the cache."""

    def __init__(self, cache: ItemCache | None, what: str, make: Callable[[str], Any]) -> None:
        self._cache, self._what, self._make = cache, what, make
        self._known: dict[str, Any] = {}
        self._fresh: dict[str, bytes] = {}

    def __call__(self, text: str) -> Any:
        key = text_sha256(f"{self._what}\0{text}")
        if key not in self._known:
            kept = self._cache.get_many([key]).get(key) if self._cache is not None else None
            if kept is None:
                kept = self._fresh[key] = json.dumps(self._make(text)).encode()
            self._known[key] = json.loads(kept)
        return self._known[key]

    def save(self) -> None:
        if self._fresh and self._cache is not None:
            self._cache.put_many(self._fresh)
        self._fresh = {}

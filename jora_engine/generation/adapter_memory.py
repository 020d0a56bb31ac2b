"""Adapters by name on their way from disk to the device: read and checked once, then kept in memory up to a bound.

An adapter is registered, in memory, or in a slot: three sets with three limits. One that cannot be used is refused by
name with its reason, which is remembered, and the others are not touched by it. A mixture of registered ones is an
adapter like the others, and goes with its parts.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jora_engine.adapters.peft_folder import factor_views, not_finite
from jora_engine.config.architecture import ModelConfig
from jora_engine.files.tensor_files import all_finite
from jora_engine.generation.adapter_layout import PreparedAdapter, layout_for
from jora_engine.generation.adapter_mixture import mixed
from raft_errors import BadInput, RaftError


def prepare_adapter(
    folder: Path, config: ModelConfig, dtype: str, base_digest: str | None = None, precision: str | None = None
) -> PreparedAdapter:
    """Reads and checks a PEFT folder.

    Raises:
        BadInput: see `factor_views`; or a value is not finite in `dtype`.
    """
    views, lora_config = factor_views(folder, config, base_digest, precision)
    layout, rank = layout_for(config, lora_config.rank, views), lora_config.rank
    packed, scale = layout.empty(dtype), np.float32(lora_config.scale)
    for name, (a, b) in layout.factors(packed).items():
        # factor by factor from the file: stacked first, they would go through memory twice
        for layer, factor in views[name]["a"].items():
            a[layer, :rank] = factor.astype(np.float32, copy=False)
        for layer, factor in views[name]["b"].items():
            # cast before it is turned: numpy casts what lies in order several times faster
            b[layer, :rank] = (factor.astype(np.float32, copy=False) * scale).astype(packed.dtype).T
    if not all_finite(packed):
        raise not_finite(folder, views, config, dtype)
    digest = hashlib.sha256(f"{lora_config.rank} {layout} {dtype}".encode())
    digest.update(packed.view(np.uint8).data)
    return PreparedAdapter(digest.hexdigest(), lora_config.rank, layout, packed)


def unknown_adapter(name: str) -> BadInput:
    """The error for a name that means nothing."""
    return BadInput(f"no adapter {name!r}", expected="the name of a registered adapter")


class AdapterMemory:
    """The adapters that requests may name. Safe to use from several threads.

    Args:
        mixed_rank: largest rank of a mixture; None = `max_rank`. It must not be above what the slots are made for, or a
            mixture makes them anew.
        base_digest, precision: of the base that is served and how it is held; an adapter of another is refused.

    Attributes:
        broken: reason by name of those that could not be used.
        asked, hits: how often an adapter was wanted, and was in memory.
    """

    def __init__(
        self,
        config: ModelConfig,
        dtype: str,
        *,
        max_bytes: int = 1 << 30,
        max_rank: int = 64,
        mixed_rank: int | None = None,
        base_digest: str | None = None,
        precision: str | None = None,
    ) -> None:
        self.max_bytes, self.max_rank, self.mixed_rank = max_bytes, max_rank, mixed_rank
        self.broken: dict[str, BadInput] = {}
        self.asked = self.hits = 0
        self._config, self._dtype, self._base = config, dtype, (base_digest, precision)
        self._folders: dict[str, Path] = {}
        self._mixtures: dict[str, tuple[tuple[str, float], ...]] = {}
        self._ready: OrderedDict[str, PreparedAdapter] = OrderedDict()
        self._digests: dict[str, str] = {}  # of all that were read and are registered, in memory or not
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """All that are registered, broken ones included and mixtures not."""
        with self._lock:
            return list(self._folders)

    def register(self, name: str, folder: Path) -> None:
        """Makes a name mean a folder, from the next request on; nothing is read yet. An old reason is forgotten."""
        with self._lock:
            self._folders[name] = folder
            for old in (name, *self._with(name)):
                self.broken.pop(old, None)
                self._ready.pop(old, None)

    def compose(self, weights: Mapping[str, float]) -> str:
        """Makes a name mean registered adapters added up with these weights (`adapter_mixture.mixed`).

        Returns:
            The name, the same for the same parts and weights; it is forgotten with any of its parts.

        Raises:
            BadInput: a part is unknown, or a weight is not above 0.
        """
        parts = tuple(sorted((name, float(weight)) for name, weight in weights.items()))
        if not parts or not all(math.isfinite(weight) and weight > 0 for _, weight in parts):
            raise BadInput("a mixture of adapters needs parts", expected="weights above 0", do="correct the weights")
        name = f"mix {json.dumps(parts)}"
        with self._lock:
            for part, _ in parts:
                if part not in self._folders:
                    raise unknown_adapter(part)
            self._mixtures[name] = parts
        return name

    def _with(self, name: str) -> list[str]:
        return [mixture for mixture, parts in self._mixtures.items() if name in dict(parts)]

    def remove(self, name: str) -> set[str]:
        """Forgets a name and the mixtures that hold it, and frees their memory; rows that use them keep their slot.

        Returns:
            The digests of what was read under these names last.
        """
        with self._lock:
            gone = [name, *self._with(name)]
            for one in gone:
                for of in (self._folders, self._mixtures, self._ready, self.broken):
                    of.pop(one, None)
            return {self._digests.pop(one) for one in gone if one in self._digests}

    def ranks(self) -> list[int]:
        """Of the adapters in memory, the smallest first."""
        with self._lock:
            return sorted(adapter.rank for name, adapter in self._ready.items() if name in self._folders)

    def refuse(self, name: str, error: BadInput) -> None:
        """Remembers a registered adapter as broken, for this reason."""
        with self._lock:
            if name in self._folders:
                self.broken[name] = error
                self._ready.pop(name, None)

    def registered(self, name: str) -> bool:
        """Whether the name means an adapter or a mixture, broken or not."""
        with self._lock:
            return name in self._folders or name in self._mixtures

    def digests(self) -> set[str]:
        """Of all registered adapters that were read, in memory or not."""
        with self._lock:
            return set(self._digests.values())

    def get(self, name: str) -> PreparedAdapter:
        """The adapter of a name, from memory or from disk.

        Raises:
            BadInput: unknown, or broken (again without reading it).
        """
        with self._lock:
            self.asked += 1
            if name in self._ready:
                self.hits += 1
                self._ready.move_to_end(name)
                return self._ready[name]
            if name in self.broken:
                raise self.broken[name]
            parts = self._mixtures.get(name)
            if parts is None and name not in self._folders:
                raise unknown_adapter(name)
            folder = self._folders.get(name)
        if parts is not None:
            return self._keep(name, self._mixed(parts), self._mixtures, parts)
        assert folder is not None
        try:
            adapter = self._read(name, folder)
        except BadInput as error:
            with self._lock:
                if self._folders.get(name) == folder:
                    self.broken[name] = error
            raise
        return self._keep(name, adapter, self._folders, folder)

    def _keep(self, name: str, adapter: PreparedAdapter, of: Mapping[str, Any], meaning: Any) -> PreparedAdapter:
        """The adapter, put into memory if its name still means what was read."""
        with self._lock:
            if of.get(name) == meaning:
                self._ready[name] = adapter
                self._digests[name] = adapter.digest
                while sum(one.bytes for one in self._ready.values()) > self.max_bytes and len(self._ready) > 1:
                    self._ready.popitem(last=False)
        return adapter

    def _mixed(self, parts: tuple[tuple[str, float], ...]) -> PreparedAdapter:
        adapters = [(self.get(part), weight) for part, weight in parts]
        ranks = [adapter.rank for adapter, _ in adapters]
        limit = self.max_rank if self.mixed_rank is None else self.mixed_rank
        if sum(ranks) > limit:
            raise BadInput(
                f"adapters of the ranks {' + '.join(map(str, ranks))} have rank {sum(ranks)} together, which is above "
                f"the limit of {limit}",
                expected=f"parts of at most {limit} in all",
                do="mix fewer adapters, or raise the limit, at the cost of memory and time for every request",
            )
        return mixed(adapters, self._config)

    def _read(self, name: str, folder: Path) -> PreparedAdapter:
        try:
            adapter = prepare_adapter(folder, self._config, self._dtype, *self._base)
        except (RaftError, OSError, ValueError) as error:
            told = error if isinstance(error, RaftError) else RaftError(str(error))
            raise BadInput(
                f"adapter {name!r} cannot be used: {told.what}", expected=told.expected, do=told.do
            ) from error
        if adapter.rank > self.max_rank:
            raise BadInput(
                f"adapter {name!r} has rank {adapter.rank}, which is above the limit of {self.max_rank}",
                expected=f"a rank of at most {self.max_rank}",
                do="raise the limit, at the cost of memory and time for every request",
            )
        return adapter

    def figures(self) -> dict[str, Any]:
        """For people and metrics."""
        with self._lock:
            ready = [one.bytes for one in self._ready.values()]
            return {
                "registered": len(self._folders),
                "mixtures": len(self._mixtures),
                "in_memory": len(ready),
                "bytes": sum(ready),
                "broken": sorted(self.broken),
                "asked": self.asked,
                "hits": self.hits,
            }

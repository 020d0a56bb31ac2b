"""Adapters by name on their way from disk to the device: read and checked once, then kept in memory up to a bound.

An adapter is registered, in memory, or in a slot: three sets with three limits. One that cannot be used is refused by
name with its reason, which is remembered, and the others are not touched by it.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jora_engine.adapters.peft_folder import read_factors
from jora_engine.config.architecture import ModelConfig
from jora_engine.generation.adapter_layout import Layout, layout_for
from raft_errors import BadInput, RaftError


@dataclass(frozen=True)
class PreparedAdapter:
    """An adapter as the device takes it.

    Attributes:
        digest: hex sha256 over rank, layout and numbers: all that its answers depend on.
        rank: without padding.
        packed: `[layers, numbers]` of `layout` in the model's dtype, the scale in B.
    """

    digest: str
    rank: int
    layout: Layout
    packed: np.ndarray

    @property
    def bytes(self) -> int:
        return self.packed.nbytes

    @property
    def adds(self) -> bool:
        """Whether it can change anything: A and B of some module are not 0."""
        return any(a.any() and b.any() for a, b in self.layout.factors(self.packed).values())

    def in_layout(self, layout: Layout) -> np.ndarray:
        """`packed` for a layout with room for more; the array itself where the layouts are one."""
        if layout == self.layout:
            return self.packed
        packed = np.zeros((layout.layers, layout.numbers), self.packed.dtype)
        places = layout.factors(packed)
        for name, factors in self.layout.factors(self.packed).items():
            for place, factor in zip(places[name], factors, strict=True):
                place[:, : self.layout.rank] = factor
        return packed


def prepare_adapter(
    folder: Path, config: ModelConfig, dtype: str, base_digest: str | None = None, precision: str | None = None
) -> PreparedAdapter:
    """Reads and checks a PEFT folder.

    Raises:
        BadInput: see `read_factors`.
    """
    lora, lora_config = read_factors(folder, config, base_digest, precision)
    layout = layout_for(config, lora_config.rank, lora)
    packed, scale = layout.empty(dtype), np.float32(lora_config.scale)
    for name, (a, b) in layout.factors(packed).items():
        a[:, : lora_config.rank] = lora[name]["a"]
        # cast before it is turned: numpy casts what lies in order several times faster
        b[:, : lora_config.rank] = (lora[name]["b"] * scale).astype(packed.dtype).transpose(0, 2, 1)
    digest = hashlib.sha256(f"{lora_config.rank} {layout} {dtype}".encode())
    digest.update(packed.view(np.uint8).data)
    return PreparedAdapter(digest.hexdigest(), lora_config.rank, layout, packed)


def unknown_adapter(name: str) -> BadInput:
    """The error for a name that means nothing."""
    return BadInput(f"no adapter {name!r}", expected="the name of a registered adapter")


class AdapterMemory:
    """The adapters that requests may name. Safe to use from several threads.

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
        base_digest: str | None = None,
        precision: str | None = None,
    ) -> None:
        """Args:
        base_digest, precision: of the base that is served and how it is held; an adapter of another is refused.
        """
        self.max_bytes, self.max_rank = max_bytes, max_rank
        self.broken: dict[str, BadInput] = {}
        self.asked = self.hits = 0
        self._config, self._dtype, self._base = config, dtype, (base_digest, precision)
        self._folders: dict[str, Path] = {}
        self._ready: OrderedDict[str, PreparedAdapter] = OrderedDict()
        self._digests: dict[str, str] = {}  # of all that were read and are registered, in memory or not
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """All that are registered, broken ones included."""
        with self._lock:
            return list(self._folders)

    def register(self, name: str, folder: Path) -> None:
        """Makes a name mean a folder, from the next request on; nothing is read yet. An old reason is forgotten."""
        with self._lock:
            self._folders[name] = folder
            self.broken.pop(name, None)
            self._ready.pop(name, None)

    def remove(self, name: str) -> str | None:
        """Forgets a name and frees its memory; rows that use the adapter keep it in their slot.

        Returns:
            The digest of what was read under that name last.
        """
        with self._lock:
            for of in (self._folders, self._ready, self.broken):
                of.pop(name, None)
            return self._digests.pop(name, None)

    def refuse(self, name: str, error: BadInput) -> None:
        """Remembers a registered adapter as broken, for this reason."""
        with self._lock:
            if name in self._folders:
                self.broken[name] = error
                self._ready.pop(name, None)

    def registered(self, name: str) -> bool:
        """Whether the name means an adapter, broken or not."""
        with self._lock:
            return name in self._folders

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
            if name not in self._folders:
                raise unknown_adapter(name)
            folder = self._folders[name]
        try:
            adapter = self._read(name, folder)
        except BadInput as error:
            with self._lock:
                if self._folders.get(name) == folder:
                    self.broken[name] = error
            raise
        with self._lock:
            if self._folders.get(name) == folder:
                self._ready[name] = adapter
                self._digests[name] = adapter.digest
                while sum(one.bytes for one in self._ready.values()) > self.max_bytes and len(self._ready) > 1:
                    self._ready.popitem(last=False)
        return adapter

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
                "in_memory": len(ready),
                "bytes": sum(ready),
                "broken": sorted(self.broken),
                "asked": self.asked,
                "hits": self.hits,
            }

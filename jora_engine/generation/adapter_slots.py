"""The adapters on the device: one stack with a slot for each, written in place, so that no adapter compiles anything.

Slot 0 is the base: its factors are zeros and add exactly nothing. There are at least as many other slots as rows, so no
row ever waits for one, and a slot that a row uses is never given to another adapter. The rank is that of the largest
adapter so far, padded with zeros; a larger one makes the stack anew, with new programs.
"""

from __future__ import annotations

import functools
from collections import Counter, OrderedDict
from typing import Any

import jax
import numpy as np
from jax import lax

from jora_engine.config.architecture import ModelConfig
from jora_engine.config.parameters import linear_layers
from jora_engine.generation.adapter_layout import Layout, PreparedAdapter, layout_for
from jora_engine.model.lora import Slotted
from jora_engine.model.ops_cpu import from_bits, to_bits


@functools.partial(jax.jit, static_argnames="layout", donate_argnums=0)
def _put(
    layers: list[dict[str, Slotted]], slot: jax.Array, packed: jax.Array, layout: Layout
) -> list[dict[str, Slotted]]:
    """The layers' stacks with one slot replaced by `packed` `[layers, numbers]`. One program: a call for each layer
    would have the engine wait as often for threads that prepare the next adapters."""
    put = lambda old, one: from_bits(lax.dynamic_update_slice_in_dim(to_bits(old), to_bits(one), slot, 0))  # noqa: E731
    return [jax.tree.map(put, layer, layout.slotted(own[None])) for layer, own in zip(layers, packed, strict=True)]


class AdapterSlots:
    """Which adapter is in which slot, and who uses it.

    Attributes:
        layers: for each decoder layer its groups' `Slotted`; empty until the first adapter comes.
        layout: of what fits into a slot; None until the first adapter comes.
        users: rows by slot.
        asked, hits: how often an adapter was wanted, and was in a slot.
    """

    def __init__(self, config: ModelConfig, dtype: str, rows: int) -> None:
        self.count = rows + 1
        self.layout: Layout | None = None
        self.users: Counter[int] = Counter()
        self.asked = self.hits = 0
        self.layers: list[dict[str, Slotted]] = [{} for _ in range(config.num_layers)]
        self._config, self._dtype = config, dtype
        self._held: OrderedDict[int, PreparedAdapter] = OrderedDict()  # by slot, least recently used first

    @property
    def rank(self) -> int:
        """Of the slots, padded."""
        return self.layout.rank if self.layout else 0

    @property
    def has_room(self) -> bool:
        """Whether an adapter can be put into a slot: one is empty, or nobody uses what is in it."""
        return len(self._held) < self.count - 1 or any(not self.users[slot] for slot in self._held)

    def reserve(self, rank: int, modules: frozenset[str] | None = None) -> None:
        """Makes room for adapters of a rank on these modules (all linear layers by default), ahead of the first."""
        self._grow(rank, frozenset(linear_layers(self._config)) if modules is None else modules)

    def acquire(self, adapter: PreparedAdapter | None) -> int:
        """The slot that holds an adapter, used by one row more; 0 for the base. To be given back by `release`."""
        if adapter is None:
            self.users[0] += 1
            return 0
        slot = next((s for s, held in self._held.items() if held.digest == adapter.digest), None)
        self.asked += 1
        self.hits += slot is not None
        if slot is None:
            self._grow(adapter.rank, adapter.layout.names)
            slot = self._free_slot()
            self._write(slot, adapter)
            self._held[slot] = adapter  # which it does not hold where that failed
        self._held.move_to_end(slot)
        self.users[slot] += 1
        return slot

    def warm(self) -> None:
        """Compiles what writes a slot, by writing the zeros of slot 0 again."""
        if self.layout:
            self._write(0, None)

    def release(self, slot: int) -> None:
        """One row less uses a slot; the adapter stays in it until another needs the place."""
        if self.users[slot] <= 0:
            raise AssertionError(f"slot {slot} is released more often than it was acquired")
        self.users[slot] -= 1

    def evict(self, digest: str) -> None:
        """Frees the slot of an adapter that no row uses, for one that will not come again."""
        for slot in [s for s, held in self._held.items() if held.digest == digest and not self.users[s]]:
            del self._held[slot]

    def digests(self) -> dict[int, str]:
        """What each slot holds."""
        return {slot: held.digest for slot, held in self._held.items()}

    def _free_slot(self) -> int:
        """An empty slot, or the one least recently used that nobody uses."""
        empty = next((slot for slot in range(1, self.count) if slot not in self._held), None)
        if empty is not None:
            return empty
        idle = next(slot for slot in self._held if not self.users[slot])  # there are as many slots as rows
        del self._held[idle]
        return idle

    def _write(self, slot: int, adapter: PreparedAdapter | None) -> None:
        assert self.layout
        self.layers = _put(self.layers, np.int32(slot), self._packed(adapter), layout=self.layout)

    def _packed(self, adapter: PreparedAdapter | None) -> np.ndarray:
        """`[layers, numbers]` for the device; zeros for none."""
        assert self.layout
        return adapter.in_layout(self.layout) if adapter else self.layout.empty(self._dtype)

    def _grow(self, rank: int, modules: frozenset[str]) -> None:
        """Makes the stack anew where it is too small; what is in it keeps its slot."""
        names = modules | (self.layout.names if self.layout else frozenset())
        layout = layout_for(self._config, max(self.rank, rank), names)
        if layout == self.layout:
            return
        self.layout = layout
        stack = np.stack([self._packed(self._held.get(slot)) for slot in range(self.count)], axis=1)
        self.layers = jax.device_put([layout.slotted(layer) for layer in stack], jax.devices()[0])

    def figures(self) -> dict[str, Any]:
        """For people and metrics; from any thread."""
        held = list(self._held)  # the engine's thread may change it meanwhile
        used = sum(1 for slot in held if self.users[slot])
        sizes = {"slots": self.count - 1, "held": len(held), "used": used, "rank": self.rank}
        return {**sizes, "asked": self.asked, "hits": self.hits}

"""How an adapter's factors lie in one array, in host memory as the device takes it: layer by layer, within a layer by
groups of linear layers that share their input, of each group A of all its modules and then each B.

One array is one transfer into a slot, however many modules there are, and it is made when an adapter is read.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from jora_engine.config.architecture import ModelConfig
from jora_engine.config.parameters import linear_layers
from jora_engine.files.tensor_files import dtype_named
from jora_engine.model.lora import Slotted

RANK_STEP = 8
"""Ranks are padded to a multiple: a product over all slots then cuts each slot's sum at the same places."""

GROUPS = (("q", "k", "v"), ("qkv",), ("o",), ("gate", "up"), ("gate_up",), ("down",))
"""Linear layers that share their input, as the decoder calls them."""


@dataclass(frozen=True)
class Layout:
    """Where each factor is.

    Attributes:
        rank: that there is room for; `padded_rank` of an adapter's.
        layers: decoder layers.
        modules: (name, in, out) of the linear layers with an adapter, in the order of `GROUPS`.
    """

    rank: int
    layers: int
    modules: tuple[tuple[str, int, int], ...]

    @functools.cached_property
    def names(self) -> frozenset[str]:
        return frozenset(name for name, _, _ in self.modules)

    @property
    def numbers(self) -> int:
        """Of one layer."""
        return sum(self.rank * (width + out) for _, width, out in self.modules)

    def empty(self, dtype: str) -> np.ndarray:
        """`[layers, numbers]` of zeros, which add exactly nothing."""
        return np.zeros((self.layers, self.numbers), dtype_named(dtype))

    def factors(self, packed: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """By module, views of A `[layers, rank, in]` and B `[layers, rank, out]` in `[layers, numbers]`."""
        out: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for _, names, a, b in self._places(packed):
            out |= {name: (a[:, number], one) for number, (name, one) in enumerate(zip(names, b, strict=True))}
        return out

    def slotted(self, packed: Any) -> dict[str, Slotted]:
        """The groups of one layer as the decoder takes them, of `[slots, numbers]`."""
        return {"+".join(group): Slotted(a, tuple(b), None, names) for group, names, a, b in self._places(packed)}

    def _places(self, packed: Any) -> list[tuple[tuple[str, ...], tuple[str, ...], Any, list[Any]]]:
        """(group, its names, A `[n, modules, rank, in]`, each B `[n, rank, out]`) of `[n, numbers]`."""
        sizes, count, at = {name: rest for name, *rest in self.modules}, packed.shape[0], 0
        places: list[tuple[tuple[str, ...], tuple[str, ...], Any, list[Any]]] = []

        def take(*shape: int) -> Any:
            nonlocal at
            at += (size := int(np.prod(shape)))
            return packed[:, at - size : at].reshape(count, *shape)

        for group in GROUPS:
            names = tuple(name for name in group if name in sizes)
            if names:
                a = take(len(names), self.rank, sizes[names[0]][0])
                places.append((group, names, a, [take(self.rank, sizes[name][1]) for name in names]))
        return places


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
    packed: np.ndarray = field(compare=False)  # the digest stands for it

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


def layout_for(config: ModelConfig, rank: int, names: Collection[str]) -> Layout:
    """The layout of adapters of up to that rank on these linear layers."""
    linear = linear_layers(config)
    modules = tuple((n, linear[n].shape[1], linear[n].shape[0]) for group in GROUPS for n in group if n in names)
    return Layout(padded_rank(rank), config.num_layers, modules)


def padded_rank(rank: int) -> int:
    return -(-rank // RANK_STEP) * RANK_STEP


def as_bits(packed: np.ndarray) -> np.ndarray:
    """As the device holds it: bfloat16 as bits on a CPU (`ops_cpu.to_bits`)."""
    on_cpu = jax.default_backend() == "cpu"
    return packed.view(np.uint16) if on_cpu and packed.dtype == dtype_named("bfloat16") else packed

"""Where arrays live: a mesh of (data, fsdp, tensor, context), one table from logical to mesh axes, and its fall-backs.

The base is cut over fsdp and tensor, the adapter along tensor only (cut over fsdp it would make XLA move activations),
rows over data and fsdp, the sequence over context. A logical axis that a mesh axis does not divide stays whole, and
`Placement.notes` says so. Nothing here computes; the model asks a `Placement` to pin its arrays.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jora_engine.config.architecture import ModelConfig
from jora_engine.config.parameters import linear_layers, parameters_by_name
from jora_engine.model.quantised import by_array, is_packed
from raft_errors import BadInput

AXES = ("data", "fsdp", "tensor", "context")

RULES: dict[str, str] = {"vocab": "tensor", "heads": "tensor", "kv_heads": "tensor", "ffn": "tensor", "embed": "fsdp"}
"""Logical axis of a parameter -> mesh axis. Rows (`batch`) go over data and fsdp, `seq` over context."""


def place(model: ModelConfig, shape: Sequence[int] | str = "auto") -> Placement | None:
    """A placement on all devices; None where there is one device and nothing to place.

    `auto` cuts the base over all devices (fsdp), but for the cores of one CPU, which share its memory: rows only.
    """
    if shape == "auto" and jax.device_count() == 1:
        return None
    if shape == "auto" and jax.default_backend() == "cpu":
        shape = (jax.device_count(), 1, 1, 1)
    return Placement(make_mesh(shape), model)


def usable_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_cores(rows: int) -> None:
    """Makes JAX treat CPU cores as devices, as many as divide the `rows` of a micro batch, unless JAX has started.

    XLA:CPU runs loops (attention, the layers) on one thread; a device a core keeps all cores busy. In a process that
    has computed with JAX before, its devices stay as they are.
    """
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", math.gcd(usable_cores(), rows))


def make_mesh(shape: Sequence[int] | str = "auto", devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over `devices` (all by default) with sizes for (data, fsdp, tensor, context).

    Args:
        shape: one size an axis, one of them may be -1 (whatever is left); `auto` puts all devices on fsdp.

    Raises:
        BadInput: the sizes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = [1, len(devices), 1, 1] if isinstance(shape, str) else list(shape)
    if sizes.count(-1) == 1:
        known = math.prod(s for s in sizes if s != -1)
        sizes[sizes.index(-1)] = max(1, len(devices) // known) if known > 0 else 0
    if len(sizes) != len(AXES) or min(sizes) < 1 or math.prod(sizes) != len(devices):
        raise BadInput(
            f"the mesh {dict(zip(AXES, sizes))} does not fit {len(devices)} devices",
            expected="sizes for data, fsdp, tensor and context that multiply to the number of devices",
            do="correct train.mesh, or leave it at auto",
        )
    return Mesh(np.asarray(devices).reshape(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def with_shardings(tree: Any, shardings: Any) -> Any:
    """A tree of arrays or shapes as `jax.ShapeDtypeStruct` with those shardings."""
    return jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), tree, shardings)


@dataclass(frozen=True)
class Placement:
    """A model on a mesh. Hashable, so it can be a static argument of `jax.jit`."""

    mesh: Mesh
    model: ModelConfig

    def size(self, axis: str) -> int:
        return int(self.mesh.shape[axis])

    @property
    def rows(self) -> int:
        """Rows of a micro batch must be a multiple of this."""
        return self.size("data") * self.size("fsdp")

    @property
    def notes(self) -> tuple[str, ...]:
        """Axes that stay whole because the mesh does not divide them, in words."""
        sizes = {"vocab": self.model.vocab_size, "ffn": self.model.intermediate_size, "embed": self.model.hidden_size}
        told = [
            f"{axis} ({size}) is not divisible by {RULES[axis]} ({self.size(RULES[axis])}): kept whole"
            for axis, size in sizes.items()
            if size % self.size(RULES[axis])
        ]
        if not self.heads_cut and self.size("tensor") > 1:
            told.append(
                f"{self.model.num_heads} heads and {self.model.num_kv_heads} KV heads are not divisible by tensor"
                f" ({self.size('tensor')}): attention is kept whole"
            )
        return tuple(told)

    @property
    def heads_cut(self) -> bool:
        """Whether attention is cut along tensor: query and KV heads must divide, so that groups stay together."""
        cut = self.size("tensor")
        return self.model.num_heads % cut == 0 and self.model.num_kv_heads % cut == 0

    def _axis(self, logical: str | None, *, keep_fsdp: bool = True) -> str | None:
        if logical is None or (logical == "embed" and not keep_fsdp):
            return None
        if logical in ("heads", "kv_heads"):
            return "tensor" if self.heads_cut else None
        sizes = {"vocab": self.model.vocab_size, "ffn": self.model.intermediate_size, "embed": self.model.hidden_size}
        return RULES[logical] if sizes[logical] % self.size(RULES[logical]) == 0 else None

    def spec(self, name: str, *, stacked: bool = False, keep_fsdp: bool = True) -> PartitionSpec:
        """Of a base parameter, by its leaf name; `stacked` where the layer axis is in front."""
        axes = [self._axis(axis, keep_fsdp=keep_fsdp) for axis in parameters_by_name(self.model)[name].axes]
        return PartitionSpec(*([None] * stacked), *axes)

    def named(self, spec: PartitionSpec) -> NamedSharding:
        return NamedSharding(self.mesh, spec)

    def params(self, tree: Any) -> Any:
        """Shardings for a parameter tree (of arrays or shapes)."""
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: self._of_leaf(path[-1].key, leaf, stacked=path[0].key == "layers"),
            tree,
            is_leaf=is_packed,
        )

    def _of_leaf(self, name: str, leaf: Any, *, stacked: bool = False, keep_fsdp: bool = True) -> Any:
        """The sharding of a base parameter, or of each array of a packed one: cut where the weight is cut, but for a
        dimension of blocks that the mesh does not divide, which stays whole."""
        spec = self.spec(name, stacked=stacked, keep_fsdp=keep_fsdp)
        if not is_packed(leaf):
            return self.named(spec)

        def place(array: Any, axes: tuple[int | None, ...]) -> NamedSharding:
            cut: list[str | None] = [None] * stacked
            for size, axis in zip(array.shape[stacked:], axes, strict=True):
                mesh_axis = None if axis is None else spec[stacked + axis]
                cut.append(mesh_axis if mesh_axis is None or size % self.size(mesh_axis) == 0 else None)
            return self.named(PartitionSpec(*cut))

        return by_array(leaf, place)

    def adapters(self, tree: Any) -> Any:
        """Shardings for a tree that holds adapters: A along its input if that is cut over tensor, B along its output.

        Leaves that are no adapter's (an optimiser's step count) are whole on every device.
        """

        linear = linear_layers(self.model)

        def place(path: Any, _: Any) -> NamedSharding:
            name, part = ([None, None] + [getattr(step, "key", None) for step in path])[-2:]
            if name not in linear:
                return self.named(PartitionSpec())
            out, into = (self._axis(axis, keep_fsdp=False) for axis in linear[name].axes)
            return self.named(PartitionSpec(None, None, into) if part == "a" else PartitionSpec(None, out, None))

        return jax.tree_util.tree_map_with_path(place, tree)

    def batch(self, tree: Any) -> Any:
        """Shardings for a batch: rows over data and fsdp, every other axis whole (`activations` cuts the sequence)."""
        return jax.tree.map(lambda _: self.named(PartitionSpec(("data", "fsdp"))), tree)

    # ---- inside a compiled function

    def gathered(self, layer: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """One layer's base weights with the fsdp cut undone: one all-gather a weight, in the layer that needs it."""
        if self.size("fsdp") == 1:
            return layer
        return {
            name: jax.lax.with_sharding_constraint(w, self._of_leaf(name, w, keep_fsdp=False))
            for name, w in layer.items()
        }

    def activations(self, x: jax.Array) -> jax.Array:
        """`[batch, seq, ...]`: rows over data and fsdp, sequence over context."""
        return jax.lax.with_sharding_constraint(x, self.named(PartitionSpec(("data", "fsdp"), "context")))

    def on_rows(self, function: Any) -> Any:
        """`function` of arrays `[batch, seq, ...]` and of weights with one or two axes, on each device's rows."""
        local = PartitionSpec(("data", "fsdp"), "context")

        def run(*arrays: jax.Array) -> jax.Array:
            specs = tuple(local if x.ndim > 2 else PartitionSpec() for x in arrays)
            return jax.shard_map(function, mesh=self.mesh, in_specs=specs, out_specs=local, check_vma=False)(*arrays)

        return run

    def attend(self, function: Any) -> Any:
        """`function(q, k, v, segments, positions, offset)` on each device's rows, heads and part of the sequence.

        Queries stay where they are; keys and values of the whole sequence are gathered over context.
        """
        heads = "tensor" if self.heads_cut else None
        local = PartitionSpec(("data", "fsdp"), "context", heads)
        rows = PartitionSpec(("data", "fsdp"))

        def shard(q, k, v, segments, positions):
            offset = jax.lax.axis_index("context") * q.shape[1]
            if self.size("context") > 1:
                k, v = (jax.lax.all_gather(x, "context", axis=1, tiled=True) for x in (k, v))
            return function(q, k, v, segments, positions, offset)

        return jax.shard_map(
            shard, mesh=self.mesh, in_specs=(local, local, local, rows, rows), out_specs=local, check_vma=False
        )

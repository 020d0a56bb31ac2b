"""Which weights of a model folder are held in fewer bits under a precision, and each of them, one at a time.

`int8` and `nf4` pack what the parameter table calls quantisable, from the folder's own numbers; embeddings, norms and
the head stay as they are. `as_stored` keeps what the folder holds packed already.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from jora_engine.config.architecture import ModelConfig
from jora_engine.config.parameters import Parameter, parameters
from jora_engine.files.quantiser import pack
from jora_engine.model.quantised import Packed, is_packed, packed_shape
from raft_errors import BadInput


class Tensors(Protocol):
    """A folder's tensors under Hugging Face names, as `tensor_files.TensorFolder` gives them."""

    @property
    def path(self) -> Path: ...

    def read(self, name: str, index: tuple[slice, ...] | None = None) -> np.ndarray: ...


class StoredTensors(Tensors, Protocol):
    """Those of a folder that holds some of them packed."""

    def stored_shape(self, parameter: Parameter, layers: int) -> Packed | None:
        """The shape of a parameter of all layers as it is stored, None where that is plain."""
        ...

    def stored(self, parameter: Parameter, layer: int) -> Packed:
        """One layer's, as numpy arrays."""
        ...


def packed_shapes(tensors: Tensors | None, config: ModelConfig, precision: str) -> dict[str, Packed]:
    """By leaf, the shapes of the weights that are packed, all layers stacked; empty for `bfloat16`.

    Args:
        tensors: the folder's; None will do but for `as_stored`.

    Raises:
        BadInput: `as_stored` of a folder whose weights are all plain.
    """
    if precision == "bfloat16":
        return {}
    names = [p for p in parameters(config) if p.per_layer and p.quantisable]
    if precision != "as_stored":
        return {p.name: packed_shape(precision, p.shape, config.num_layers) for p in names}
    of = getattr(tensors, "stored_shape", lambda parameter, layers: None)
    shapes = {p.name: shape for p in names if (shape := of(p, config.num_layers)) is not None}
    if not shapes:
        assert tensors
        raise BadInput(
            f"{tensors.path} holds its weights in full, so train.base_precision as_stored means nothing for it",
            expected="a folder with model.gguf, or one that bitsandbytes saved in NF4",
            do="set train.base_precision to bfloat16, int8 or nf4",
        )
    return shapes


def packed_weight(tensors: Any, parameter: Parameter, layer: int, precision: str) -> Packed:
    """One layer's weight as `packed_shapes` says, in numpy arrays."""
    if precision == "as_stored":
        return tensors.stored(parameter, layer)
    return pack(tensors.read(parameter.hf_name(layer)), precision)


def dense_weight(weight: Packed) -> np.ndarray:
    """The numbers that a packed weight stands for, float32 `[out, in]`."""
    return np.asarray(_dense(jax.tree.map(np.asarray, weight)))


@jax.jit
def _dense(weight: Packed) -> jax.Array:
    return weight.dense("float32")


def dense_reader(
    tensors: Any, config: ModelConfig, precision: str, names: dict[str, tuple[Parameter, int | None]]
) -> Callable[[str], np.ndarray]:
    """`read(name)`: a tensor as stored or, where it is packed under `precision`, the numbers that it then stands for.

    Args:
        names: `weights.hf_tensors`.
    """
    packed = packed_shapes(tensors, config, precision)

    def read(name: str) -> np.ndarray:
        parameter, layer = names[name]
        if layer is None or parameter.name not in packed:
            return tensors.read(name)
        return dense_weight(packed_weight(tensors, parameter, layer, precision))

    return read


def load_packed(
    tensors: Any, parameter: Parameter, shape: Packed, shardings: Packed, precision: str, put: Callable[..., jax.Array]
) -> Packed:
    """A parameter of all layers on its devices, packed one layer at a time.

    Args:
        shape: from `packed_shapes`; `shardings`: a tree like it, which never cuts the axis of the layers.
        put: `put(buffer, part, at)`, a buffer with one layer's part in its place; given up to it.
    """
    arrays, tree = jax.tree.flatten(shape)
    where = jax.tree.leaves(shardings)
    slices = [s.addressable_devices_indices_map(array.shape) for s, array in zip(where, arrays, strict=True)]
    buffers: list[dict[Any, jax.Array]] = [{} for _ in arrays]
    for layer in range(arrays[0].shape[0]):
        parts = packed_weight(tensors, parameter, layer, precision)
        for number, part in enumerate(jax.tree.leaves(parts)):
            for device, index in slices[number].items():
                own = np.asarray(part)[index[1:]]
                if layer == 0:
                    empty = np.zeros((arrays[number].shape[0], *own.shape), own.dtype)
                    buffers[number][device] = jax.device_put(empty, device)
                buffers[number][device] = put(
                    buffers[number][device], jax.device_put(own, device), jax.device_put(np.int32(layer), device)
                )
    whole = [
        jax.make_array_from_single_device_arrays(array.shape, sharding, list(buffer.values()))
        for array, sharding, buffer in zip(arrays, where, buffers, strict=True)
    ]
    return jax.tree.unflatten(tree, whole)


__all__ = ["dense_reader", "dense_weight", "is_packed", "load_packed", "packed_shapes", "packed_weight"]

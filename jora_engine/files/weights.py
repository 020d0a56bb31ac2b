"""Reads a Hugging Face model folder into the parameter tree, each device taking only its own slice.

What a folder must hold follows from `config.parameters`; what is missing, unknown or misshaped is refused by name.
Layers are stacked on the first axis; no more than one layer's slice of one leaf is ever held outside its device.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jora_engine.config.architecture import ModelConfig
from jora_engine.config.parameters import EMBED, HEAD, Parameter, parameters, parameters_by_name
from jora_engine.files.packed_weights import load_packed, packed_shapes
from jora_engine.files.prequantised import require_readable
from jora_engine.files.tensor_files import dtype_named, read_json
from jora_engine.files.tensor_sources import open_tensors, weight_files
from jora_engine.model.parameters import param_shapes
from jora_engine.model.quantised import Packed, is_packed
from raft_errors import BadInput

_IGNORED = ("rotary_emb.inv_freq", "attn.masked_bias", "attn.bias")  # buffers that old checkpoints carry


def hf_tensors(config: ModelConfig) -> dict[str, tuple[Parameter, int | None]]:
    """Hugging Face name -> (parameter, layer or None), in the order of the network."""
    out: dict[str, tuple[Parameter, int | None]] = {}
    for per_layer, group in itertools.groupby(parameters(config), key=lambda p: p.per_layer):
        members = list(group)
        for layer in range(config.num_layers) if per_layer else (None,):
            out |= {p.hf_name(layer): (p, layer) for p in members}
    return out


def read_model_config(folder: Path) -> ModelConfig:
    """`ModelConfig` of a Hugging Face folder; end-of-turn ids of generation_config.json are added."""
    raw = read_json(folder / "config.json")
    if (folder / "adapter_config.json").exists():
        raise BadInput(
            f"{folder} holds adapter_config.json beside config.json",
            expected="a model alone: transformers reads such a folder as an adapter on the base that it names",
            do="remove adapter_config.json where these weights hold the adapter already, else merge it with PEFT",
        )
    if (folder / "generation_config.json").exists():
        stops = read_json(folder / "generation_config.json").get("eos_token_id")
        ids = [i for value in (stops, raw.get("eos_token_id")) for i in (value if isinstance(value, list) else [value])]
        raw["eos_token_id"] = list(dict.fromkeys(i for i in ids if i is not None)) or None
    if settings := raw.pop("quantization_config", None):
        require_readable(settings)
    return ModelConfig.from_hf(raw)


def check_tensors(tensors: Any, config: ModelConfig) -> None:
    """Compares names, shapes and types of a checkpoint with what `config` calls for and what is read here.

    Raises:
        BadInput: the first difference.
    """
    wanted = hf_tensors(config)
    names = [n for n in tensors.names() if not n.endswith(_IGNORED)]
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise BadInput(
            f"{tensors.path}: tensor {missing[0]} is missing ({len(missing)} missing in all)",
            expected=f"the weights of a {config.family} model with {config.num_layers} layers",
            do="download the model again, or give the config.json that belongs to it",
        )
    tied_head = config.tie_embeddings and HEAD in tensors
    unknown = [n for n in names if n not in wanted and not (tied_head and n == HEAD)]
    if unknown:
        raise BadInput(
            f"{tensors.file_of(unknown[0])}: tensor {unknown[0]} is not part of a {config.family} model "
            f"({len(unknown)} unknown in all)",
            expected="plain weights of the architecture that config.json names",
            do="give the base model itself, without adapters or quantisation",
        )
    for name, (parameter, _) in wanted.items():
        if tensors.shape(name) != parameter.shape:
            raise BadInput(
                f"{tensors.file_of(name)}: {name} has shape {list(tensors.shape(name))}",
                expected=f"{list(parameter.shape)} by config.json",
                do="give the config.json that belongs to these weights",
            )
        tensors.dtype(name)  # refuses a type that is not read
    if tied_head:
        _check_tied(tensors)


def _check_tied(tensors: Any) -> None:
    embed, head = EMBED, HEAD
    if tensors.shape(head) != tensors.shape(embed) or not np.array_equal(tensors.read(head), tensors.read(embed)):
        raise BadInput(
            f"{tensors.file_of(head)}: {head} differs from {embed} although config.json ties them",
            expected="equal tensors, or tie_word_embeddings false",
            do="correct config.json",
        )


def packed_leaves(folder: Path, config: ModelConfig, precision: str) -> dict[str, Packed]:
    """`packed_weights.packed_shapes` of a folder, whose weights are looked at only where they decide it.

    Raises:
        BadInput: `as_stored`, and the folder's tensors are not those of `config`, or none of them is packed.
    """
    if precision != "as_stored":
        return packed_shapes(None, config, precision)
    tensors = open_tensors(folder, config)
    check_tensors(tensors, config)
    return packed_shapes(tensors, config, precision)


def load_params(
    folder: Path,
    config: ModelConfig,
    dtype: str = "bfloat16",
    shardings: dict[str, Any] | None = None,
    *,
    bits: bool = False,
    precision: str = "bfloat16",
) -> dict[str, Any]:
    """The parameter tree of a model folder, cast to `dtype`, or packed as `precision` says (`packed_weights`).

    Args:
        bits: hold the layers' bfloat16 numbers as uint16, which `decoder.forward` takes too: XLA:CPU slices bfloat16
            out of a stack by way of a float32 copy of the whole stack.
        shardings: a tree like the result with a `jax.sharding.Sharding` per leaf; None puts all on the first device.

    Raises:
        BadInput: a tensor or shard is missing, unknown, misshaped, truncated, or holds NaN or infinite values.
    """
    tensors = open_tensors(folder, config)
    check_tensors(tensors, config)
    kind = dtype_named(dtype)
    shapes = param_shapes(config, dtype, bits=bits, packed=packed_shapes(tensors, config, precision))
    if shardings is None:
        single = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shardings = jax.tree.map(lambda _: single, shapes)

    def read(name: str, index: tuple[slice, ...]) -> np.ndarray:
        return tensors.read(name, index).astype(kind, copy=False)

    def load(path: tuple[Any, ...], spec: Any, sharding: Any) -> Any:
        parameter = parameters_by_name(config)[path[-1].key]
        if is_packed(spec):
            return load_packed(tensors, parameter, spec, sharding, precision, _put)
        if not parameter.per_layer:
            return jax.make_array_from_callback(spec.shape, sharding, functools.partial(read, parameter.hf_name()))
        pieces = []
        for device, index in sharding.addressable_devices_indices_map(spec.shape).items():
            assert index is not None
            layers = range(*index[0].indices(config.num_layers))
            names = [parameter.hf_name(layer) for layer in layers]
            slices = (read(name, index[1:]).view(spec.dtype) for name in names)
            pieces.append(_stack(device, slices, len(names)))
        return jax.make_array_from_single_device_arrays(spec.shape, sharding, pieces)

    return jax.tree_util.tree_map_with_path(load, shapes, shardings, is_leaf=is_packed)


def _stack(device: Any, slices: Iterator[np.ndarray], count: int) -> jax.Array:
    """Stacks host slices on the device one by one, so that the host never holds more than one."""
    buffer = None
    for at, part in enumerate(slices):
        if buffer is None:
            buffer = jax.device_put(jnp.zeros((count, *part.shape), part.dtype), device)
        buffer = _put(buffer, jax.device_put(part, device), jax.device_put(np.int32(at), device))
    assert buffer is not None
    return buffer


@functools.partial(jax.jit, donate_argnums=0)
def _put(buffer: jax.Array, part: jax.Array, at: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(buffer, part, at, 0)


def model_digest(folder: Path) -> str:
    """Hex sha256 over config.json and the files of weights of a model folder, names included.

    Reads every byte: callers keep the result beside their own records, never inside the folder.
    """
    total = hashlib.sha256()
    for file in [folder / "config.json", *weight_files(folder)]:
        with file.open("rb") as data:
            total.update(f"{file.name}\0{hashlib.file_digest(data, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()

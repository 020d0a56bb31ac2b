"""Reads a Hugging Face model folder into the parameter tree, each device taking only its own slice.

Holds the one table of names that links the tree to Hugging Face checkpoints, and the shapes every leaf must have.
Layers are stacked on the first axis; no more than one layer's slice of one leaf is ever held outside its device.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jora_engine.config.architecture import ModelConfig
from jora_engine.config.lora import MODULE_PATHS
from jora_engine.files.tensor_files import TensorFolder, dtype_named, read_json
from raft_errors import BadInput

Leaf = tuple[str, ...]

TOP_NAMES = {"embed": "model.embed_tokens.weight", "final_norm": "model.norm.weight", "head": "lm_head.weight"}
LAYER_NAMES = {
    "input_norm": "input_layernorm.weight",
    "post_norm": "post_attention_layernorm.weight",
    **{name: f"{path}.weight" for name, path in MODULE_PATHS.items()},
    **{f"{name}_bias": f"{MODULE_PATHS[name]}.bias" for name in "qkv"},
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
}
"""Leaf of `params["layers"]` -> name after `model.layers.{i}.` in a Hugging Face checkpoint."""

_IGNORED = ("rotary_emb.inv_freq", "attn.masked_bias", "attn.bias")  # buffers that old checkpoints carry


def param_shapes(config: ModelConfig, dtype: str = "bfloat16", *, bits: bool = False) -> dict[str, Any]:
    """The parameter tree as `jax.ShapeDtypeStruct`, without data; with `bits`, layers as `load_params` holds them."""
    kind = dtype_named(dtype)
    held = _held_as(kind, bits)
    d, layers = config.hidden_size, config.num_layers
    linear = config.linear_shapes()
    shapes: dict[str, tuple[int, ...]] = {"input_norm": (d,), "post_norm": (d,), **linear}
    if config.qkv_bias:
        shapes |= {f"{name}_bias": linear[name][:1] for name in "qkv"}
    if config.qk_norm:
        shapes |= {"q_norm": (config.head_dim,), "k_norm": (config.head_dim,)}
    tree: dict[str, Any] = {
        "embed": jax.ShapeDtypeStruct((config.vocab_size, d), kind),
        "final_norm": jax.ShapeDtypeStruct((d,), kind),
        "layers": {name: jax.ShapeDtypeStruct((layers, *shape), held) for name, shape in shapes.items()},
    }
    if not config.tie_embeddings:
        tree["head"] = jax.ShapeDtypeStruct((config.vocab_size, d), kind)
    return tree


def _held_as(kind: np.dtype, bits: bool) -> np.dtype:
    return np.dtype(np.uint16) if bits and kind == dtype_named("bfloat16") else kind


def parameter_total(config: ModelConfig) -> int:
    """Numbers in the base model; a tied head counts once."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(param_shapes(config)))


def hf_tensors(config: ModelConfig) -> dict[str, tuple[Leaf, int | None, tuple[int, ...]]]:
    """Hugging Face name -> (leaf of the tree, layer or None, shape), in the order of the network."""
    tree = param_shapes(config)
    out: dict[str, tuple[Leaf, int | None, tuple[int, ...]]] = {
        TOP_NAMES["embed"]: (("embed",), None, tree["embed"].shape)
    }
    for layer in range(config.num_layers):
        for name, leaf in tree["layers"].items():
            out[f"model.layers.{layer}.{LAYER_NAMES[name]}"] = (("layers", name), layer, leaf.shape[1:])
    for name in ("final_norm", "head"):
        if name in tree:
            out[TOP_NAMES[name]] = ((name,), None, tree[name].shape)
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
    return ModelConfig.from_hf(raw)


def check_tensors(tensors: TensorFolder, config: ModelConfig) -> None:
    """Compares names and shapes of a checkpoint with what `config` calls for; the first difference is a `BadInput`."""
    wanted = hf_tensors(config)
    names = [n for n in tensors.names() if not n.endswith(_IGNORED)]
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise BadInput(
            f"{tensors.path}: tensor {missing[0]} is missing ({len(missing)} missing in all)",
            expected=f"the weights of a {config.family} model with {config.num_layers} layers",
            do="download the model again, or give the config.json that belongs to it",
        )
    tied_head = config.tie_embeddings and TOP_NAMES["head"] in tensors
    unknown = [n for n in names if n not in wanted and not (tied_head and n == TOP_NAMES["head"])]
    if unknown:
        raise BadInput(
            f"{tensors.file_of(unknown[0])}: tensor {unknown[0]} is not part of a {config.family} model "
            f"({len(unknown)} unknown in all)",
            expected="plain weights of the architecture that config.json names",
            do="give the base model itself, without adapters or quantisation",
        )
    for name, (_, _, shape) in wanted.items():
        if tensors.shape(name) != shape:
            raise BadInput(
                f"{tensors.file_of(name)}: {name} has shape {list(tensors.shape(name))}",
                expected=f"{list(shape)} by config.json",
                do="give the config.json that belongs to these weights",
            )
    if tied_head:
        _check_tied(tensors)


def _check_tied(tensors: TensorFolder) -> None:
    embed, head = TOP_NAMES["embed"], TOP_NAMES["head"]
    if tensors.shape(head) != tensors.shape(embed) or not np.array_equal(tensors.read(head), tensors.read(embed)):
        raise BadInput(
            f"{tensors.file_of(head)}: {head} differs from {embed} although config.json ties them",
            expected="equal tensors, or tie_word_embeddings false",
            do="correct config.json",
        )


def load_params(
    folder: Path,
    config: ModelConfig,
    dtype: str = "bfloat16",
    shardings: dict[str, Any] | None = None,
    *,
    bits: bool = False,
) -> dict[str, Any]:
    """The parameter tree of a model folder, cast to `dtype`.

    Args:
        bits: hold the layers' bfloat16 numbers as uint16, which `decoder.forward` takes too: XLA:CPU slices bfloat16
            out of a stack by way of a float32 copy of the whole stack.
        shardings: a tree like the result with a `jax.sharding.Sharding` per leaf; None puts all on the first device.

    Raises:
        BadInput: a tensor or shard is missing, unknown, misshaped, truncated, or holds NaN or infinite values.
    """
    tensors = TensorFolder(folder)
    check_tensors(tensors, config)
    kind = dtype_named(dtype)
    shapes = param_shapes(config, dtype, bits=bits)
    if shardings is None:
        single = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shardings = jax.tree.map(lambda _: single, shapes)

    def read(name: str, index: tuple[slice, ...]) -> np.ndarray:
        return tensors.read(name, index).astype(kind, copy=False)

    def load(path: tuple[Any, ...], spec: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding) -> jax.Array:
        keys = [p.key for p in path]
        if keys[0] != "layers":
            return jax.make_array_from_callback(spec.shape, sharding, functools.partial(read, TOP_NAMES[keys[0]]))
        pieces = []
        for device, index in sharding.addressable_devices_indices_map(spec.shape).items():
            assert index is not None
            layers = range(*index[0].indices(config.num_layers))
            names = [f"model.layers.{i}.{LAYER_NAMES[keys[1]]}" for i in layers]
            slices = (read(name, index[1:]).view(spec.dtype) for name in names)
            pieces.append(_stack(device, slices, len(names)))
        return jax.make_array_from_single_device_arrays(spec.shape, sharding, pieces)

    return jax.tree_util.tree_map_with_path(load, shapes, shardings)


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
    """Hex sha256 over config.json and the safetensors files of a model folder, names included.

    Reads every byte: callers keep the result beside their own records, never inside the folder.
    """
    total = hashlib.sha256()
    for file in [folder / "config.json", *TensorFolder(folder).files]:
        with file.open("rb") as data:
            total.update(f"{file.name}\0{hashlib.file_digest(data, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()

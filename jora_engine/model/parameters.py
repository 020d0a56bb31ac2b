"""The base's parameters as a tree of arrays or of shapes, as `config.parameters` declares them.

Top-level leaves stand beside `layers`, whose leaves hold all layers stacked on axis 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jora_engine.config.architecture import ModelConfig
from jora_engine.config.parameters import Parameter, parameters
from jora_engine.model.quantised import is_packed, untrained_packed

Params = dict[str, Any]


def param_shapes(
    config: ModelConfig, dtype: str = "bfloat16", *, bits: bool = False, packed: Mapping[str, Any] | None = None
) -> Params:
    """The parameter tree as `jax.ShapeDtypeStruct`, without data; with `bits`, layers as `load_params` holds them.

    Args:
        packed: by leaf, the shapes of weights in fewer bits (`quantised.packed_shape`, layers stacked).
    """
    tree: Params = {"layers": {}}
    for parameter in parameters(config):
        if parameter.per_layer:
            held = jnp.uint16 if bits and dtype == "bfloat16" else dtype
            shape = (config.num_layers, *parameter.shape)
            if parameter.name in (packed or {}):
                tree["layers"][parameter.name] = packed[parameter.name]  # type: ignore[index]
                continue
            tree["layers"][parameter.name] = jax.ShapeDtypeStruct(shape, jnp.dtype(held))
        else:
            tree[parameter.name] = jax.ShapeDtypeStruct(parameter.shape, jnp.dtype(dtype))
    return tree


def leaf_of(params: Params, parameter: Parameter) -> Any:
    """The leaf of a parameter tree that holds `parameter`."""
    return params["layers"][parameter.name] if parameter.per_layer else params[parameter.name]


def parameter_total(config: ModelConfig) -> int:
    """Numbers in the base model; a tied head counts once."""
    return sum(math.prod(p.shape) * (config.num_layers if p.per_layer else 1) for p in parameters(config))


def untrained_params(
    config: ModelConfig,
    seed: int,
    dtype: str = "bfloat16",
    *,
    bits: bool = False,
    packed: Mapping[str, Any] | None = None,
) -> Params:
    """A tree like `param_shapes` with the values that each parameter's declaration says, for measurements and tests."""
    tree = param_shapes(config, dtype, bits=bits, packed=packed)
    for index, parameter in enumerate(parameters(config)):
        place = tree["layers"] if parameter.per_layer else tree
        if is_packed(place[parameter.name]):
            key = jax.random.fold_in(jax.random.key(seed), index)
            place[parameter.name] = untrained_packed(place[parameter.name], key)
            continue
        shape, held = place[parameter.name].shape, place[parameter.name].dtype
        if parameter.initial == "normal":
            key = jax.random.fold_in(jax.random.key(seed), index)
            value = jax.random.normal(key, shape, dtype) * shape[-1] ** -0.5
        else:
            value = jnp.full(shape, parameter.initial == "ones", dtype)
        place[parameter.name] = value if held == value.dtype else jax.lax.bitcast_convert_type(value, held)
    return tree

"""A model in memory as generation takes it: parameters layer by layer, an adapter merged in or none, the tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jora_engine.adapters.merge import merged_reader
from jora_engine.adapters.peft_folder import read_adapter
from jora_engine.config.architecture import ModelConfig
from jora_engine.config.lora import LoraConfig
from jora_engine.config.parameters import parameters
from jora_engine.files.tensor_files import dtype_named
from jora_engine.files.tokenizer import Tokenizer
from jora_engine.files.weights import hf_tensors, read_model_config
from jora_engine.generation.decode import prepare_layer


@dataclass(frozen=True)
class LoadedModel:
    """What the programs of generation need.

    Attributes:
        params: `embed` and what else is not per layer.
        layers: one dict per layer, from `prepare_layer`.
        identity: stands for these weights in keys of caches that outlive a request.
    """

    config: ModelConfig
    tokenizer: Tokenizer
    params: dict[str, Any]
    layers: list[dict[str, Any]]
    identity: str

    @property
    def dtype(self) -> str:
        """Of the computation, `float32` or `bfloat16`."""
        return str(self.params["embed"].dtype)

    @property
    def cache_dtype(self) -> Any:
        """Of the key/value cache: XLA:CPU has no bfloat16 update in place, it would convert the whole cache twice at
        every write."""
        return jnp.float32 if jax.default_backend() == "cpu" else self.params["embed"].dtype


def load_model(
    folder: Path,
    adapter: Path | None = None,
    dtype: str = "bfloat16",
    *,
    base_digest: str | None = None,
    chat: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """Reads a Hugging Face folder; a PEFT adapter is merged in float32 and cast once.

    Args:
        base_digest: compared with the digest that the adapter was made for.
        chat: what the chat template is told, the keywords of `Tokenizer.load` (`variables`, `prefill`).
    """
    config = read_model_config(folder)
    lora, lora_config = ({}, LoraConfig()) if adapter is None else read_adapter(adapter, config, base_digest)
    _, read = merged_reader(folder, config, lora, lora_config.scale)
    kind = dtype_named(dtype)
    device = jax.devices()[0]
    per_layer = sum(parameter.per_layer for parameter in parameters(config))
    params: dict[str, Any] = {}
    layers: list[dict[str, Any]] = [{} for _ in range(config.num_layers)]
    for name, (parameter, layer) in hf_tensors(config).items():
        value = read(name).astype(kind, copy=False)
        if layer is None:
            params[parameter.name] = jax.device_put(value, device)
            continue
        layers[layer][parameter.name] = value
        if len(layers[layer]) == per_layer:
            layers[layer] = jax.device_put(prepare_layer(layers[layer], np.concatenate), device)
    return LoadedModel(config, Tokenizer.load(folder, **(chat or {})), params, layers, base_digest or str(folder))


def model_of(params: dict[str, Any], config: ModelConfig, tokenizer: Tokenizer) -> LoadedModel:
    """From a parameter tree in memory (layers stacked), for example in the middle of training."""
    layers = [
        prepare_layer({k: v[i] for k, v in params["layers"].items()}, jnp.concatenate) for i in range(config.num_layers)
    ]
    top = {k: v for k, v in params.items() if k != "layers"}
    return LoadedModel(config, tokenizer, top, layers, "in memory")

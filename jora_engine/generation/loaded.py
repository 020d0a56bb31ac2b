"""A model in memory as generation takes it: parameters layer by layer, an adapter or none, the tokenizer.

An adapter is merged into plain weights; beside packed ones it stays by itself, as it was in training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jora_engine.adapters.merge import merged_reader
from jora_engine.adapters.peft_folder import precision_of, read_adapter
from jora_engine.config.architecture import ModelConfig
from jora_engine.config.lora import LoraConfig
from jora_engine.config.parameters import parameters
from jora_engine.files.packed_weights import packed_shapes, packed_weight
from jora_engine.files.tensor_files import dtype_named
from jora_engine.files.tokenizer import Tokenizer
from jora_engine.files.weights import hf_tensors, read_model_config
from jora_engine.generation.adapter_memory import PreparedAdapter, prepare_adapter
from jora_engine.generation.decode import prepare_layer
from jora_engine.model.attention_backends import native_over_cache


@dataclass(frozen=True)
class LoadedModel:
    """What the programs of generation need.

    Attributes:
        params: `embed` and what else is not per layer.
        layers: one dict per layer, from `prepare_layer`.
        identity: stands for these weights in keys of caches that outlive a request.
        precision: how the linear layers are held (`recipe.PRECISIONS`).
        adapter: that of every request which names none; None where there is none or it is merged in.
    """

    config: ModelConfig
    tokenizer: Tokenizer
    params: dict[str, Any]
    layers: list[dict[str, Any]]
    identity: str
    precision: str = "bfloat16"
    adapter: PreparedAdapter | None = None

    @property
    def dtype(self) -> str:
        """Of the computation, `float32` or `bfloat16`."""
        return str(self.params["embed"].dtype)

    @property
    def native(self) -> bool:
        """Whether prompts and replies attend by the native kernels."""
        config = self.config
        return native_over_cache(config.num_heads, config.num_kv_heads, config.head_dim, self.dtype)

    @property
    def cache_dtype(self) -> Any:
        """Of the key/value cache: XLA:CPU has no bfloat16 update in place, it would convert the whole cache twice at
        every write. The native kernels read bits; XLA's forms would convert those too."""
        if jax.default_backend() != "cpu":
            return self.params["embed"].dtype
        return jnp.uint16 if self.native and self.dtype == "bfloat16" else jnp.float32


def load_model(
    folder: Path,
    adapter: Path | None = None,
    dtype: str = "bfloat16",
    *,
    base_digest: str | None = None,
    chat: Mapping[str, Any] | None = None,
    precision: str | None = None,
) -> LoadedModel:
    """Reads a Hugging Face folder; a PEFT adapter is merged in float32 and cast once, unless the base is packed.

    Args:
        base_digest: compared with the digest that the adapter was made for.
        chat: what the chat template is told, the keywords of `Tokenizer.load` (`variables`, `prefill`).
        precision: how the base is held (`recipe.PRECISIONS`); None = as the adapter's was in training.
    """
    config = read_model_config(folder)
    precision = precision or precision_of(adapter)
    lora: dict[str, Any] = {}
    lora_config, beside = LoraConfig(), None
    if adapter is not None and precision == "bfloat16":
        lora, lora_config = read_adapter(adapter, config, base_digest)
    elif adapter is not None:
        beside = prepare_adapter(adapter, config, dtype, base_digest)
    tensors, read = merged_reader(folder, config, lora, lora_config.scale)
    packed = packed_shapes(tensors, config, precision)
    kind = dtype_named(dtype)
    device = jax.devices()[0]
    per_layer = sum(parameter.per_layer for parameter in parameters(config))
    params: dict[str, Any] = {}
    layers: list[dict[str, Any]] = [{} for _ in range(config.num_layers)]
    for name, (parameter, layer) in hf_tensors(config).items():
        if layer is None:
            params[parameter.name] = jax.device_put(read(name).astype(kind, copy=False), device)
            continue
        layers[layer][parameter.name] = (
            packed_weight(tensors, parameter, layer, precision)
            if parameter.name in packed
            else read(name).astype(kind, copy=False)
        )
        if len(layers[layer]) == per_layer:
            layers[layer] = jax.device_put(prepare_layer(layers[layer], np.concatenate), device)
    identity = base_digest or str(folder)
    if precision != "bfloat16":
        identity += f" {precision}"
    tokenizer = Tokenizer.load(folder, **(chat or {}))
    return LoadedModel(config, tokenizer, params, layers, identity, precision, beside)


def model_of(params: dict[str, Any], config: ModelConfig, tokenizer: Tokenizer) -> LoadedModel:
    """From a parameter tree in memory (layers stacked), for example in the middle of training."""
    layers = [
        prepare_layer(jax.tree.map(lambda x: x[i], params["layers"]), jnp.concatenate)  # noqa: B023
        for i in range(config.num_layers)
    ]
    top = {k: v for k, v in params.items() if k != "layers"}
    return LoadedModel(config, tokenizer, top, layers, "in memory")

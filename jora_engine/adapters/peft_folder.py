"""PEFT adapter folders: written in the canonical form that every consumer accepts (plain LoRA, one rank, alpha carries
the scale), and read back, ours or PEFT's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jora_engine.config.architecture import ModelConfig
from jora_engine.config.lora import LoraConfig, vllm_rank
from jora_engine.config.parameters import Parameter, linear_layers
from jora_engine.config.recipe import PRECISIONS
from jora_engine.files.mapped_tensors import mapped_tensors
from jora_engine.files.tensor_files import (
    TensorSpec,
    all_finite,
    read_json,
    replacing,
    write_json,
    write_tensors,
    write_text,
)
from raft_errors import BadInput

ADAPTER_CONFIG, ADAPTER_WEIGHTS, RAFT_JSON = "adapter_config.json", "adapter_model.safetensors", "raft.json"
PRECISION = "base_precision"
"""The key of raft.json that says how the base was held in training (`recipe.PRECISIONS`); `bfloat16` is not written."""
_WEIGHTS = re.compile(
    r"(?P<name>(?:adapter_model|adapter_weights|pytorch_model|model)(?:\.[\w.-]+?)?)(?P<shard>-\d+-of-\d+)?"
    r"\.(?P<kind>safetensors|bin|pt|pth|npz)(?P<index>\.index\.json)?"
)
"""The names that PEFT, transformers and their trainers give to weights; optimizers and random states have others."""


FactorViews = dict[str, dict[str, dict[int, np.ndarray]]]
"""Module -> `a` (`[r, in]`) and `b` (`[out, r]`) -> number of the layer -> the array."""


def adapter_key(model: ModelConfig, name: str, layer: int, letter: str) -> str:
    """PEFT's key of a factor, `letter` A or B, of the adapter on the linear layer `name` of a decoder layer."""
    return _key(linear_layers(model)[name], layer, letter)


def _key(parameter: Parameter, layer: int, letter: str) -> str:
    return f"base_model.model.{parameter.module(layer)}.lora_{letter}.weight"


def adapter_tensors(
    lora: Mapping[str, Mapping[str, Any]], model: ModelConfig, layers: Iterable[int]
) -> dict[str, np.ndarray]:
    """The adapter's arrays of those layers by PEFT key, float32, A [r, in] and B [out, r], in order of key."""
    layers = list(layers)
    out = {}
    for name, pair in lora.items():
        for part, letter in (("a", "A"), ("b", "B")):
            stacked = np.asarray(jax.device_get(pair[part]), np.float32)
            for layer in layers:
                out[adapter_key(model, name, layer, letter)] = stacked[layer]
    return dict(sorted(out.items()))


def write_adapter(
    folder: Path,
    lora: Mapping[str, Mapping[str, Any]],
    lora_config: LoraConfig,
    model_config: ModelConfig,
    base_name: str,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a PEFT adapter folder, replacing one that is there; returns it.

    Args:
        lora: `{"q": {"a": [L, r, in], "b": [L, out, r]}, ...}`, float32.
        base_name: Hub id or path of the base model, for `base_model_name_or_path` and the model card.
        extra: JSON values for raft.json; `base_digest` is what `read_adapter` compares.
    """
    tensors = adapter_tensors(lora, model_config, lora_config.layers(model_config.num_layers))
    for key, array in tensors.items():
        if not np.isfinite(array).all():
            raise BadInput(f"the adapter's {key} holds NaN or infinite values", do="go back to an earlier checkpoint")
    specs = [TensorSpec(key, array.shape, array.dtype) for key, array in tensors.items()]
    config = lora_config.to_peft(model_config, base_name)
    with replacing(folder) as temporary:
        write_tensors(temporary / ADAPTER_WEIGHTS, specs, tensors.__getitem__)
        write_json(temporary / ADAPTER_CONFIG, config)
        write_json(temporary / RAFT_JSON, {"base_model": base_name, **(extra or {})})
        write_text(temporary / "README.md", _model_card(config, base_name))
    return folder


def read_adapter_config(folder: Path) -> LoraConfig:
    """The configuration of a PEFT adapter folder, ours or somebody else's.

    Raises:
        BadInput: the adapter is more than plain LoRA, or the folder holds no weights for it or several.
    """
    try:
        config = LoraConfig.from_peft(read_json(folder / ADAPTER_CONFIG))
    except BadInput as error:
        raise BadInput(f"{folder}: {error.what}", expected=error.expected, do=error.do) from error
    weights = sets_of_weights(folder)
    if len(weights) > 1:
        raise BadInput(
            f"{folder} holds several sets of weights: {', '.join(weights)}",
            expected=f"{ADAPTER_WEIGHTS} alone: which of them is the adapter cannot be known",
            do="keep the one that is meant and remove the others",
        )
    if weights != [ADAPTER_WEIGHTS]:
        raise BadInput(
            f"{folder} holds {weights[0] if weights else 'no weights of an adapter'}",
            expected=ADAPTER_WEIGHTS,
            do="load the adapter with PEFT and save it again (`save_pretrained`), or download it again",
        )
    return config


def sets_of_weights(folder: Path) -> list[str]:
    """One name for each set of weights in a folder; shards and their index are one set."""
    matches = [match for path in folder.iterdir() if (match := _WEIGHTS.fullmatch(path.name))]
    return sorted({f"{m['name']}{'-*-of-*' if m['shard'] or m['index'] else ''}.{m['kind']}" for m in matches})


def precision_of(folder: Path | None) -> str:
    """How the base was held that an adapter was trained on, by its raft.json; `bfloat16` where nothing says otherwise.

    Raises:
        BadInput: a precision that is not known here.
    """
    if folder is None or not (folder / RAFT_JSON).exists():
        return "bfloat16"
    precision = str(read_json(folder / RAFT_JSON).get(PRECISION, "bfloat16"))
    if precision not in PRECISIONS:
        raise BadInput(
            f"{folder / RAFT_JSON}: {PRECISION} is {precision!r}",
            expected="one of " + ", ".join(PRECISIONS),
            do="use the version that made the adapter, or a newer one",
        )
    return precision


def read_adapter(
    folder: Path, model_config: ModelConfig, base_digest: str | None = None
) -> tuple[dict[str, dict[str, jax.Array]], LoraConfig]:
    """Reads a PEFT adapter folder, ours or PEFT's, as (lora tree in float32, its configuration); see `read_factors`."""
    lora, config = read_factors(folder, model_config, base_digest)
    return jax.tree.map(jnp.asarray, lora), config


def read_factors(
    folder: Path, model_config: ModelConfig, base_digest: str | None = None, precision: str | None = None
) -> tuple[dict[str, dict[str, np.ndarray]], LoraConfig]:
    """`read_adapter` into host memory: the device is not touched.

    Raises:
        BadInput: see `factor_views`; or a value is not finite in float32.
    """
    views, config = factor_views(folder, model_config, base_digest, precision)
    lora: dict[str, dict[str, np.ndarray]] = {}
    for name, pair in views.items():
        lora[name] = {}
        for part, of_layers in pair.items():
            shape = next(iter(of_layers.values())).shape
            stacked = np.zeros((model_config.num_layers, *shape), np.float32)  # a layer without an adapter adds 0
            for layer, factor in of_layers.items():
                stacked[layer] = factor
            if not all_finite(stacked):
                raise not_finite(folder, views, model_config, "float32")
            lora[name][part] = stacked
    return lora, config


def factor_views(
    folder: Path, model_config: ModelConfig, base_digest: str | None = None, precision: str | None = None
) -> tuple[FactorViews, LoraConfig]:
    """The factors of a PEFT folder as they lie in its file, and its configuration; values are not looked at.

    Args:
        base_digest: `model_digest` of the base in use, compared with the one in raft.json where there is one.
        precision: how the base in use is held, compared with how the adapter's was (`precision_of`); None takes any.

    Raises:
        BadInput: made for another base or a base held otherwise, not plain LoRA, or tensors missing, unknown or
            misshaped.
    """
    config = read_adapter_config(folder)
    if precision is not None and (own := precision_of(folder)) != precision:
        raise BadInput(
            f"the adapter {folder} was trained on a base in {own}",
            expected=f"one trained on a base in {precision}, as the base is held here",
            do="serve it from a process of its own",
        )
    if base_digest and (folder / RAFT_JSON).exists():
        made_for = read_json(folder / RAFT_JSON).get("base_digest")
        if made_for and made_for != base_digest:
            raise BadInput(
                f"the adapter {folder} was made for another base model",
                expected=f"the base with digest {made_for[:16]}..., got {base_digest[:16]}...",
                do="use the base model that the adapter was trained on",
            )
    file = folder / ADAPTER_WEIGHTS
    tensors = mapped_tensors(file)
    views: FactorViews = {}
    layers, linear = config.layers(model_config.num_layers), linear_layers(model_config)
    for name in config.targets(model_config):
        rows, columns = linear[name].shape
        views[name] = {}
        for part, letter, shape in (("a", "A", (config.rank, columns)), ("b", "B", (rows, config.rank))):
            of_layers = {}
            for layer in layers:
                key = _key(linear[name], layer, letter)
                factor = tensors.pop(key, None)
                if factor is None or factor.shape != shape:
                    reason = "is missing" if factor is None else f"has shape {list(factor.shape)}"
                    raise BadInput(
                        f"{file}: {key} {reason}",
                        expected=f"{list(shape)} for this base model and rank {config.rank}",
                        do="use the base model that the adapter was trained on",
                    )
                of_layers[layer] = factor
            views[name][part] = of_layers
    if tensors:
        raise BadInput(
            f"{file}: {min(tensors)} does not belong to this base model ({len(tensors)} in all)",
            expected=f"LoRA factors of {model_config.num_layers} {model_config.family} layers",
            do="use the base model that the adapter was trained on",
        )
    return views, config


def not_finite(folder: Path, views: FactorViews, model_config: ModelConfig, dtype: str) -> BadInput:
    """The error for factors that are not all finite in `dtype`: names the first that is not, or too large for it."""
    linear, file = linear_layers(model_config), folder / ADAPTER_WEIGHTS
    for name, pair in views.items():
        for part, of_layers in pair.items():
            for layer, factor in of_layers.items():
                if not all_finite(factor):
                    return BadInput(
                        f"{file}: {_key(linear[name], layer, part.upper())} holds NaN or infinite values",
                        expected="finite weights",
                        do="download or make the file again",
                    )
    return BadInput(
        f"{file}: some numbers are beyond {dtype}", expected="weights of a usual size", do="export the adapter again"
    )


def _model_card(config: Mapping[str, Any], base_name: str) -> str:
    max_rank = max(vllm_rank(config["r"]) or config["r"], 16)
    return f"""---
library_name: peft
base_model: {base_name}
tags:
- lora
- raft
---

# LoRA adapter for {base_name}

Trained on retrieval-augmented (RAFT) records by jora-raft: rank {config["r"]}, alpha {config["lora_alpha"]}, modules
{", ".join(config["target_modules"])}. `raft.json` names the exact base weights and the run.

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("{base_name}")
model = PeftModel.from_pretrained(base, "path/to/this/folder")
```

Serve it with vLLM: `vllm serve {base_name} --enable-lora --max-lora-rank {max_rank} \\
--lora-modules raft=path/to/this/folder`.
"""

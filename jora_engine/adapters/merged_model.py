"""Base and adapter as one Hugging Face folder, with the tokenizer's files and a chat template that prints no other day.

The original weights are read from disk tensor by tensor; the adapter is added in float32 and the sum cast once.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jora_engine.adapters.merge import merged_reader
from jora_engine.config.architecture import ModelConfig
from jora_engine.config.lora import LoraConfig
from jora_engine.config.parameters import EMBED
from jora_engine.files.chat_template import is_dated, with_fixed_date
from jora_engine.files.tensor_files import (
    TensorSpec,
    dtype_named,
    read_json,
    replacing,
    write_json,
    write_model,
    write_text,
)
from jora_engine.files.weights import hf_tensors

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)


def write_merged(
    base_folder: Path,
    lora: Mapping[str, Mapping[str, Any]],
    lora_config: LoraConfig,
    model_config: ModelConfig,
    folder: Path,
    *,
    dtype: str | None = None,
    max_shard_bytes: int = 5 * 10**9,
    chat_template: str | None = None,
    precision: str = "bfloat16",
) -> Path:
    """Writes the base with the adapter added as a Hugging Face folder, replacing one that is there; returns it.

    The adapter goes into the weights as the folder holds them, however the base was held in training.

    Args:
        precision: takes the numbers that the base has in it instead, to compare with (`recipe.PRECISIONS`).
        dtype: of the result, "bfloat16" or "float32"; None keeps what each tensor of the base is stored as.
        chat_template: takes the place of the base's, for one that brings none or was asked in a form of its own.
    """
    tensors, merged = merged_reader(base_folder, model_config, lora, lora_config.scale, precision)
    target = None if dtype is None else dtype_named(dtype)
    names = hf_tensors(model_config)
    specs = [TensorSpec(name, parameter.shape, target or tensors.dtype(name)) for name, (parameter, _) in names.items()]
    kinds = {spec.name: spec.dtype for spec in specs}

    def read(name: str) -> np.ndarray:
        return merged(name).astype(kinds[name], copy=False)

    with replacing(folder) as temporary:
        write_model(temporary, specs, read, max_shard_bytes)
        for file in _TOKENIZER_FILES:
            if (base_folder / file).exists():
                shutil.copyfile(base_folder / file, temporary / file)
        if chat_template is not None:
            _replace_template(temporary, chat_template)
        _fix_dates(temporary)
        config = read_json(base_folder / "config.json")
        config.pop("_name_or_path", None)
        config.pop("quantization_config", None)  # what is written here is plain
        stored = kinds[EMBED].name
        config |= {key: stored for key in ("dtype", "torch_dtype") if key in config} or {"torch_dtype": stored}
        write_json(temporary / "config.json", config)
    return folder


def _replace_template(folder: Path, template: str) -> None:
    """Writes the template as chat_template.jinja, and wherever the folder keeps another as well."""
    write_text(folder / "chat_template.jinja", template)
    for name in ("tokenizer_config.json", "chat_template.json"):
        if not (folder / name).exists() or "chat_template" not in (values := read_json(folder / name)):
            continue
        values["chat_template"] = (
            template
            if isinstance(values["chat_template"], str)
            else [one if one["name"] != "default" else {**one, "template": template} for one in values["chat_template"]]
        )
        write_json(folder / name, values)


def _fix_dates(folder: Path) -> None:
    """Puts the engine's date into the folder's chat templates, wherever they are kept: others would print today's."""
    jinja = folder / "chat_template.jinja"
    if jinja.exists() and is_dated(text := jinja.read_text(encoding="utf-8")):
        write_text(jinja, with_fixed_date(text))
    for name in ("tokenizer_config.json", "chat_template.json"):
        if (folder / name).exists() and is_dated((folder / name).read_text(encoding="utf-8")):
            values = read_json(folder / name)
            template = values.get("chat_template")
            if isinstance(template, str):
                values["chat_template"] = with_fixed_date(template)
            elif isinstance(template, list):  # several named ones
                values["chat_template"] = [{**one, "template": with_fixed_date(one["template"])} for one in template]
            write_json(folder / name, values)

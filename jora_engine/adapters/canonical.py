"""An adapter written anew in the form that every program reads: one rank, one scale, every layer of a module type.

What the factors mean stays: ranks grow by zeros, a module's own scale is multiplied into its B, and a layer without
factors gets zeros. What has no such form (DoRA, trained tokens, a changed base) is refused.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from jora_engine.adapters.consumers import REFUSED, Facts, Finding, check_consumers, linear_shape, read_facts
from jora_engine.adapters.peft_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, RAFT_JSON
from jora_engine.config.architecture import ModelConfig
from jora_engine.config.lora import LoraConfig
from jora_engine.files.tensor_files import TensorFolder, TensorSpec, read_json, replacing, write_json, write_tensors
from raft_errors import BadInput


def write_canonical(folder: Path, model: ModelConfig, out: Path) -> list[Finding]:
    """Writes the adapter of `folder` to `out` in the form that all programs read; returns what remains to be known.

    Raises:
        BadInput: it has something that no plain adapter can mean, named; or `out` is the adapter's own folder.
    """
    if out.resolve() == folder.resolve():
        raise BadInput(f"{out} is the adapter's own folder", expected="a new folder", do="name another folder")
    facts = read_facts(folder, model)
    hopeless = [f.what for f in check_consumers(facts) if f.verdicts["vllm"] == f.verdicts["lorax"] == REFUSED]
    if facts.others or hopeless or not facts.ranks:
        raise BadInput(
            f"{folder} cannot be written as plain LoRA: " + "; ".join(hopeless or facts.others[:1] or ["no factors"]),
            expected="factors of linear layers alone, on the base as it is",
            do="serve the merged model, or the adapter with PEFT",
        )
    tensors = TensorFolder(folder / ADAPTER_WEIGHTS)
    rank = max(facts.ranks.values())
    scale = Counter(map(facts.scale, facts.ranks)).most_common(1)[0][0]  # then most of the factors stay as they are
    arrays: dict[str, np.ndarray] = {}
    for module in [*facts.ranks, *facts.missing()]:
        arrays |= _factors(module, facts, tensors, rank, scale)
    specs = [TensorSpec(key, arrays[key].shape, arrays[key].dtype) for key in sorted(arrays)]
    with replacing(out) as temporary:
        write_tensors(temporary / ADAPTER_WEIGHTS, specs, arrays.__getitem__)
        write_json(temporary / ADAPTER_CONFIG, _config(facts, rank, scale))
        if (folder / RAFT_JSON).exists():
            write_json(temporary / RAFT_JSON, read_json(folder / RAFT_JSON))
    return check_consumers(read_facts(out, model))


def _factors(module: str, facts: Facts, tensors: TensorFolder, rank: int, scale: float) -> dict[str, np.ndarray]:
    """A `[rank, in]` and B `[out, rank]` of a module by their keys, float32, meaning the same at the common scale."""
    keys = [f"base_model.model.{module}.lora_{letter}.weight" for letter in "AB"]
    shape = linear_shape(module, facts.model)
    a, b = np.zeros((rank, shape[1]), np.float32), np.zeros((shape[0], rank), np.float32)
    if module in facts.ranks:
        own = facts.ranks[module]
        a[:own] = tensors.read(keys[0])
        b[:, :own] = tensors.read(keys[1]).astype(np.float32) * np.float32(facts.scale(module) / scale)
    return dict(zip(keys, (a, b), strict=True))


def _config(facts: Facts, rank: int, scale: float) -> dict[str, Any]:
    leaves = sorted({module.rpartition(".")[2] for module in facts.ranks})
    lora = LoraConfig(rank=rank, alpha=scale * rank, target_modules=tuple(leaves))
    return lora.to_peft(facts.model, facts.config.get("base_model_name_or_path"))

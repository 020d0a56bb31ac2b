"""What GGUF calls the parts of a model, and how it lays their numbers out: shared by those who read and write it.

llama.cpp's own names and forms: q and k of Llama have the two halves of a head interleaved, and Gemma's norms hold the
1 that is added to them.
"""

from __future__ import annotations

import re

import numpy as np

from jora_engine.config.architecture import ModelConfig
from jora_engine.config.parameters import Parameter, parameters_by_name
from raft_errors import BadInput

FAMILIES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma3": "gemma3_text"}
"""GGUF's architecture -> the family that its models are read as."""

ARCHITECTURES = {family: arch for arch, family in FAMILIES.items()} | {"mistral": "llama"}
"""Family -> the architecture that its models are written as."""

LEAVES = {
    "token_embd": "embed",
    "attn_norm": "input_norm",
    "post_attention_norm": "attention_out_norm",
    "ffn_norm": "post_norm",
    "post_ffw_norm": "mlp_out_norm",
    "attn_q": "q",
    "attn_k": "k",
    "attn_v": "v",
    "attn_output": "o",
    "attn_q_norm": "q_norm",
    "attn_k_norm": "k_norm",
    "ffn_gate": "gate",
    "ffn_up": "up",
    "ffn_down": "down",
    "output_norm": "final_norm",
    "output": "head",
}
"""GGUF's name of a module, without the layer's number -> the leaf of our parameter tree."""

ROPE_FACTORS = "rope_freqs.weight"
"""The tensor of divisors that stands for Llama 3.1's RoPE."""

_MODULES = {leaf: name for name, leaf in LEAVES.items()}


def gguf_name(parameter: Parameter, layer: int | None) -> str:
    """GGUF's name of a parameter, of the given layer's where there is one in each."""
    leaf, bias, _ = parameter.name.partition("_bias")
    stem = _MODULES[leaf] + (".bias" if bias else ".weight")
    return f"blk.{layer}.{stem}" if parameter.per_layer else stem


def find_parameter(config: ModelConfig, name: str) -> tuple[Parameter, int | None]:
    """The parameter that a GGUF tensor holds, and its layer.

    Raises:
        BadInput: the model has no such parameter.
    """
    stem, _, ending = name.rpartition(".")
    block = re.fullmatch(r"blk\.(0|[1-9][0-9]{0,5})\.(\w+)", stem)
    leaf = LEAVES.get(block[2] if block else stem, "") + ("_bias" if ending == "bias" else "")
    parameter = parameters_by_name(config).get(leaf)
    if parameter is None or parameter.per_layer != bool(block):
        raise BadInput(
            f"the GGUF file holds an unknown tensor {name}", expected="a plain decoder", do="choose another base"
        )
    return parameter, int(block[1]) if block else None


def to_gguf(config: ModelConfig, name: str, values: np.ndarray) -> np.ndarray:
    """A parameter's numbers as GGUF has them, or those of an adapter's B that is added to it; `[out, ...]`."""
    if heads := _interleaved(config, name):
        halves = values.reshape(heads, 2, config.head_dim // 2, *values.shape[1:])
        return np.swapaxes(halves, 1, 2).reshape(values.shape)
    return values + np.float32(1) if _adds_one(config, name) else values


def from_gguf(config: ModelConfig, name: str, values: np.ndarray) -> np.ndarray:
    """Undoes `to_gguf`."""
    if heads := _interleaved(config, name):
        pairs = values.reshape(heads, config.head_dim // 2, 2, *values.shape[1:])
        return np.swapaxes(pairs, 1, 2).reshape(values.shape)
    return values - np.float32(1) if _adds_one(config, name) else values


def _interleaved(config: ModelConfig, name: str) -> int | None:
    """How many heads a parameter holds whose rows stand in pairs; None where they do not."""
    heads = {"q": config.num_heads, "k": config.num_kv_heads}.get(name.partition("_bias")[0])
    return heads if ARCHITECTURES[config.family] == "llama" else None


def _adds_one(config: ModelConfig, name: str) -> bool:
    return config.norm_kind == "one_plus" and name.endswith("_norm")

"""Every parameter of the base model, declared once: its name, its place in a Hugging Face checkpoint, shape and axes.

Loading, sharding, LoRA targets, merging, export and planning derive from these lines. Imports no array library.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

from jora_engine.config.architecture import ModelConfig

Axis = Literal["vocab", "embed", "heads", "kv_heads", "ffn"]
Initial = Literal["normal", "ones", "zeros"]
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
LAYER = "model.layers.{layer}."
"""What Hugging Face writes before the names of a layer's parameters."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of the model, or of each of its layers.

    Attributes:
        name: its leaf, `params[name]`, or `params["layers"][name]` with the layers stacked on axis 0.
        path: its name in a Hugging Face checkpoint, that of a layer's after `LAYER`.
        shape: without the axis of the layers.
        axes: the logical axis of each dimension, None for one that is never cut.
        initial: what an untrained model has: a normal of deviation `in ** -0.5`, ones or zeros.
        per_layer: whether each layer has one.
        lora: whether it may carry an adapter, A reading its last axis and B writing its first.
        quantisable: whether it may be held in fewer bits.
    """

    name: str
    path: str
    shape: tuple[int, ...]
    axes: tuple[Axis | None, ...]
    initial: Initial = "normal"
    per_layer: bool = True
    lora: bool = False
    quantisable: bool = False

    def hf_name(self, layer: int | None = None) -> str:
        """The name in a checkpoint; of the given layer's where there is one in each."""
        return LAYER.format(layer=layer) + self.path if self.per_layer else self.path

    def module(self, layer: int | None = None) -> str:
        """The path of the module that holds it, in the given layer, or in any: `self_attn.q_proj`."""
        return (self.path if layer is None else self.hf_name(layer)).rpartition(".")[0]

    @property
    def leaf(self) -> str:
        """The last word of its module's path, by which PEFT's `target_modules` name it: `q_proj`."""
        return self.module().rpartition(".")[2]


@functools.lru_cache
def parameters(config: ModelConfig) -> tuple[Parameter, ...]:
    """All parameters of a model, in the order of the network."""
    d, f, width, vocab = config.hidden_size, config.intermediate_size, config.head_dim, config.vocab_size
    q, kv = config.num_heads * width, config.num_kv_heads * width

    def table(name: str, path: str) -> Parameter:
        return Parameter(name, path, (vocab, d), ("vocab", "embed"), per_layer=False)

    def norm(name: str, path: str, size: int = d, *, per_layer: bool = True) -> Parameter:
        initial: Initial = "zeros" if config.norm_kind == "one_plus" else "ones"
        return Parameter(name, f"{path}.weight", (size,), (None,), initial, per_layer=per_layer)

    def linear(name: str, path: str, out: tuple[int, Axis | None], into: tuple[int, Axis]) -> Parameter:
        (rows, out_axis), (columns, in_axis) = out, into
        shape, axes = (rows, columns), (out_axis, in_axis)
        return Parameter(name, f"{path}.weight", shape, axes, lora=True, quantisable=True)

    def bias(name: str, path: str, size: int, axis: Axis) -> Parameter:
        return Parameter(f"{name}_bias", f"{path}.bias", (size,), (axis,), "zeros")

    norms = {  # what the attention reads and gives, then the MLP; a layer has those that stand here
        "before": {"input_norm": "input_layernorm", "post_norm": "post_attention_layernorm"},
        "after": {"attention_out_norm": "post_attention_layernorm", "mlp_out_norm": "post_feedforward_layernorm"},
        "around": {
            "input_norm": "input_layernorm",
            "attention_out_norm": "post_attention_layernorm",
            "post_norm": "pre_feedforward_layernorm",
            "mlp_out_norm": "post_feedforward_layernorm",
        },
    }[config.norms]
    if config.fused:  # cut over devices, a part would hold rows of q, k and v in no order that attention wants
        into_heads = [linear("qkv", "self_attn.qkv_proj", (q + 2 * kv, None), (d, "embed"))]
        into_ffn = [linear("gate_up", "mlp.gate_up_proj", (2 * f, None), (d, "embed"))]
    else:
        into_heads = [
            linear("q", "self_attn.q_proj", (q, "heads"), (d, "embed")),
            linear("k", "self_attn.k_proj", (kv, "kv_heads"), (d, "embed")),
            linear("v", "self_attn.v_proj", (kv, "kv_heads"), (d, "embed")),
        ]
        into_ffn = [
            linear("gate", "mlp.gate_proj", (f, "ffn"), (d, "embed")),
            linear("up", "mlp.up_proj", (f, "ffn"), (d, "embed")),
        ]
    layer = [
        *(norm(name, path) for name, path in norms.items()),
        *into_heads,
        linear("o", "self_attn.o_proj", (d, "embed"), (q, "heads")),
        *into_ffn,
        linear("down", "mlp.down_proj", (d, "embed"), (f, "ffn")),
    ]
    if config.qkv_bias:
        layer += [
            bias("q", "self_attn.q_proj", q, "heads"),
            bias("k", "self_attn.k_proj", kv, "kv_heads"),
            bias("v", "self_attn.v_proj", kv, "kv_heads"),
        ]
    if config.qk_norm:
        layer += [
            norm("q_norm", "self_attn.q_norm", q if config.qk_norm_whole else width),
            norm("k_norm", "self_attn.k_norm", kv if config.qk_norm_whole else width),
        ]
    head = [] if config.tie_embeddings else [table("head", HEAD)]
    return (
        table("embed", EMBED),
        *layer,
        norm("final_norm", "model.norm", per_layer=False),
        *head,
    )


@functools.lru_cache
def linear_layers(config: ModelConfig) -> dict[str, Parameter]:
    """The linear layers of a decoder layer, those that may carry an adapter, by name."""
    return {p.name: p for p in parameters(config) if p.lora}


@functools.lru_cache
def parameters_by_name(config: ModelConfig) -> dict[str, Parameter]:
    """All parameters of a model by their leaf's name."""
    return {p.name: p for p in parameters(config)}

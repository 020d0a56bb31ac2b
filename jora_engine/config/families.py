"""The families of models, a declaration each: how its config.json becomes switches of `ModelConfig`, and back.

Adding one is a declaration here and a tiny model in the tests; `CONTRIBUTING.md` goes through Granite. What a switch
does stands in `model.decoder`, which knows no family's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jora_engine.config.hf_fields import unsupported
from jora_engine.config.rope import RopeConfig

Raw = Mapping[str, Any]
SLIDING, FULL = "sliding_attention", "full_attention"


@dataclass(frozen=True)
class Family:
    """One family.

    Attributes:
        name: transformers' `model_type`.
        architecture: the name that `architectures` gives.
        defaults: what transformers takes for a key that config.json does not have; a null is something else.
        fields: keys of config.json that are a switch as they stand, with the switch's name.
        switches: what all models of the family have.
        only: the values of a key that are supported, the first of them written; see `hf_fields.NEUTRAL`.
        keys: further keys that `read` reads.
        read: switches that do not follow key by key.
        write: the keys that `read` read, from a `ModelConfig`.
    """

    name: str
    architecture: str
    defaults: Raw = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    switches: Raw = field(default_factory=dict)
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    read: Callable[[Raw], dict[str, Any]] = lambda config: {}
    write: Callable[[Any], dict[str, Any]] = lambda model: {}


def layer_types(config: Raw, default: list[str]) -> tuple[bool, ...]:
    """Which layers have the window, by `layer_types` or else by the family's own rule."""
    types = config.get("layer_types") or default
    if len(types) != config["num_hidden_layers"] or not set(types) <= {SLIDING, FULL}:
        raise unsupported(f"layer_types={types!r}", f"{SLIDING} or {FULL} for each of its layers")
    return tuple(one == SLIDING for one in types)


def windows(config: Raw, windowed: tuple[bool, ...]) -> dict[str, Any]:
    """The switches of a window that some layers have, all or none."""
    size = config.get("sliding_window")
    if not any(windowed):
        return {}
    if size is None:
        raise unsupported("layers with a sliding window without its size", "sliding_window")
    return {"sliding_window": int(size), "windowed": None if all(windowed) else windowed}


def written_types(model: Any) -> list[str]:
    """`layer_types` of a model."""
    return [FULL if kind.window is None else SLIDING for kind in model.layer_kinds]


def _read_qwen(config: Raw) -> dict[str, Any]:
    if not config.get("use_sliding_window"):
        layers = config["num_hidden_layers"]
        return windows({**config, "sliding_window": None}, layer_types(config, [FULL] * layers))
    layers, first = config["num_hidden_layers"], int(config.get("max_window_layers", 28))
    default = [FULL if config.get("sliding_window") is None or i < first else SLIDING for i in range(layers)]
    return windows(config, layer_types(config, default))


def _write_qwen(model: Any) -> dict[str, Any]:
    types = written_types(model)
    return {
        "use_sliding_window": model.sliding_window is not None,
        "sliding_window": model.sliding_window,
        "max_window_layers": types.index(SLIDING) if SLIDING in types else model.num_layers,
        **({"layer_types": types} if model.windowed else {}),
    }


_QWEN: dict[str, Any] = {
    "keys": ("sliding_window", "use_sliding_window", "max_window_layers", "layer_types"),
    "read": _read_qwen,
    "write": _write_qwen,
}
_QWEN_DEFAULTS = {"max_position_embeddings": 32768, "num_key_value_heads": 32, "sliding_window": 4096}

LLAMA = Family(
    "llama",
    "LlamaForCausalLM",
    {"max_position_embeddings": 2048},
    only={"attention_bias": (False,), "sliding_window": ()},
)
MISTRAL = Family(
    "mistral",
    "MistralForCausalLM",
    {"max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096},
    {"sliding_window": "sliding_window"},
)
QWEN2 = Family("qwen2", "Qwen2ForCausalLM", _QWEN_DEFAULTS, switches={"qkv_bias": True}, **_QWEN)
QWEN3 = Family(
    "qwen3",
    "Qwen3ForCausalLM",
    {**_QWEN_DEFAULTS, "head_dim": 128},
    switches={"qk_norm": True},
    only={"attention_bias": (False,)},
    **_QWEN,
)
GRANITE = Family(
    "granite",
    "GraniteForCausalLM",
    {
        "max_position_embeddings": 2048,
        "embedding_multiplier": 1.0,
        "attention_multiplier": 1.0,
        "residual_multiplier": 1.0,
        "logits_scaling": 1.0,
    },
    {
        "embedding_multiplier": "embedding_scale",
        "attention_multiplier": "attention_scale",
        "residual_multiplier": "residual_scale",
        "logits_scaling": "logit_divisor",
    },
    only={"attention_bias": (False,), "mlp_bias": (False,)},
)


def _read_smollm3(config: Raw) -> dict[str, Any]:
    layers, interval = config["num_hidden_layers"], int(config["no_rope_layer_interval"])
    rotated = config.get("no_rope_layers") or [(i + 1) % interval != 0 for i in range(layers)]
    if len(rotated) != layers:
        raise unsupported(f"no_rope_layers={rotated!r}", "a 1 or 0 for each layer")
    rotated = tuple(bool(one) for one in rotated)
    slides = config["use_sliding_window"] and config.get("sliding_window") is not None
    windowed = layer_types(config, [SLIDING if slides and not rope else FULL for rope in rotated])
    if any(windowed) and not slides:
        raise unsupported("layers with a sliding window and use_sliding_window=False", "use_sliding_window=True")
    return {"rotated": None if all(rotated) else rotated, **windows(config, windowed)}


def _write_smollm3(model: Any) -> dict[str, Any]:
    return {
        "no_rope_layers": [int(kind.rope is not None) for kind in model.layer_kinds],
        "use_sliding_window": model.sliding_window is not None,
        "sliding_window": model.sliding_window,
        "layer_types": written_types(model),
    }


SMOLLM3 = Family(
    "smollm3",
    "SmolLM3ForCausalLM",
    {
        "max_position_embeddings": 32768,
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
        "no_rope_layer_interval": 4,
        "use_sliding_window": False,
        "rope_theta": 2000000.0,
        "bos_token_id": 128000,
        "eos_token_id": 128001,
        "pad_token_id": 128004,
    },
    only={"attention_bias": (False,), "mlp_bias": (False,)},
    keys=(
        *("no_rope_layers", "no_rope_layer_interval", "use_sliding_window", "sliding_window", "layer_types"),
        "max_window_layers",  # transformers does not read it, and the published configuration has it
    ),
    read=_read_smollm3,
    write=_write_smollm3,
)
OLMO2 = Family(
    "olmo2",
    "Olmo2ForCausalLM",
    {"max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "pad_token_id": 1, "eos_token_id": 50279},
    switches={"norms": "after", "norm_kind": "wide", "qk_norm": True, "qk_norm_whole": True},
    only={"attention_bias": (False,)},
)

_GEMMA = {"tie_word_embeddings": True, "head_dim": 256, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
_GEMMA_SWITCHES = {"norm_kind": "one_plus", "activation": "gelu_tanh", "embedding_scale_rounded": True}
_TANH = ("gelu_pytorch_tanh", "gelu")  # what the first releases call gelu is the tanh form as well
_GEMMA_ONLY = {"attention_bias": (False,), "use_bidirectional_attention": (False,)}


def _read_gemma(config: Raw) -> dict[str, Any]:
    return {"embedding_scale": config["hidden_size"] ** 0.5}


def _read_gemma2(config: Raw, pattern: int = 2) -> dict[str, Any]:
    default = [SLIDING if i % pattern else FULL for i in range(1, config["num_hidden_layers"] + 1)]
    scale = float(config["query_pre_attn_scalar"]) ** -0.5
    return {**_read_gemma(config), "attention_scale": scale, **windows(config, layer_types(config, default))}


def _write_gemma2(model: Any) -> dict[str, Any]:
    scalar = model.attention_scale**-2
    return {
        "query_pre_attn_scalar": round(scalar) if abs(scalar - round(scalar)) < 1e-6 else scalar,
        "sliding_window": model.sliding_window,
        "layer_types": written_types(model),
    }


def _read_gemma3(config: Raw) -> dict[str, Any]:
    pattern = int(config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or 6)
    given = config.get("rope_parameters") or {}
    whole = {"rope_theta": config.get("rope_theta", 1e6), **(given.get(FULL) or config.get("rope_scaling") or {})}
    local = {"rope_theta": config.get("rope_local_base_freq", 1e4), **(given.get(SLIDING) or {})}
    length = config.get("max_position_embeddings")
    rope, window_rope = (
        RopeConfig.from_hf({"rope_parameters": one, "max_position_embeddings": length}) for one in (whole, local)
    )
    return {**_read_gemma2(config, pattern), "rope": rope, "window_rope": window_rope}


def _write_gemma3(model: Any) -> dict[str, Any]:
    ropes = {FULL: model.rope.to_hf(), SLIDING: model.window_rope.to_hf()}
    return {**_write_gemma2(model), "rope_parameters": ropes, "rope_theta": None}


GEMMA = Family(
    "gemma",
    "GemmaForCausalLM",
    {**_GEMMA, "max_position_embeddings": 8192, "num_key_value_heads": 16},
    switches=_GEMMA_SWITCHES,
    only={**_GEMMA_ONLY, "hidden_act": _TANH, "hidden_activation": _TANH[:1]},
    read=_read_gemma,
)
_GEMMA2_KEYS = ("query_pre_attn_scalar", "sliding_window", "layer_types")
_SOFTCAPS = {"attn_logit_softcapping": "attention_softcap", "final_logit_softcapping": "logit_softcap"}
_GEMMA2_ONLY = {**_GEMMA_ONLY, "hidden_activation": _TANH[:1], "hidden_act": _TANH[:1]}
_GEMMA2_DEFAULTS = {**_GEMMA, "num_key_value_heads": 4, "query_pre_attn_scalar": 256, "sliding_window": 4096}
GEMMA2 = Family(
    "gemma2",
    "Gemma2ForCausalLM",
    {
        **_GEMMA2_DEFAULTS,
        "max_position_embeddings": 8192,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    _SOFTCAPS,
    switches={**_GEMMA_SWITCHES, "norms": "around"},
    only=_GEMMA2_ONLY,
    keys=_GEMMA2_KEYS,
    read=_read_gemma2,
    write=_write_gemma2,
)
GEMMA3 = Family(
    "gemma3_text",
    "Gemma3ForCausalLM",
    {**_GEMMA2_DEFAULTS, "max_position_embeddings": 131072},
    {"final_logit_softcapping": "logit_softcap"},
    switches={**_GEMMA_SWITCHES, "norms": "around", "qk_norm": True},
    only={**_GEMMA2_ONLY, "attn_logit_softcapping": ()},  # transformers reads it and does not apply it
    keys=(*_GEMMA2_KEYS, "rope_local_base_freq", "sliding_window_pattern", "_sliding_window_pattern"),
    read=_read_gemma3,
    write=_write_gemma3,
)


def _read_phi3(config: Raw) -> dict[str, Any]:
    scaling = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    kind = scaling.get("rope_type") or scaling.get("type")
    if kind in ("su", "yarn"):  # what transformers calls longrope since
        scaling |= {"rope_type": "longrope"}
    return {"rope": RopeConfig.from_hf({**config, "rope_parameters": scaling})}


def _write_phi3(model: Any) -> dict[str, Any]:
    return {"original_max_position_embeddings": model.rope.original_max_positions or model.max_position_embeddings}


PHI3 = Family(
    "phi3",
    "Phi3ForCausalLM",
    {
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": 32000,
        "pad_token_id": 32000,
    },
    {"sliding_window": "sliding_window"},
    switches={"fused": True},
    only={"attention_bias": (False,)},
    read=_read_phi3,
    write=_write_phi3,
)

FAMILIES = {
    family.name: family
    for family in (LLAMA, MISTRAL, QWEN2, QWEN3, GRANITE, SMOLLM3, OLMO2, GEMMA, GEMMA2, GEMMA3, PHI3)
}

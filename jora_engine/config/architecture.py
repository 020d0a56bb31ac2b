"""The shape of a model as a frozen value, read from and written to Hugging Face's config.json.

Opens no file and imports no array library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jora_engine.config.checks import require
from jora_engine.config.rope import RopeConfig
from raft_errors import BadInput

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
FAMILIES = tuple(ARCHITECTURES.values())


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a decoder of a supported family. Hashable, so it can be a static argument of `jax.jit`."""

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float = 1e-6
    rope: RopeConfig = field(default_factory=RopeConfig)
    sliding_window: int | None = None
    tie_embeddings: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    max_position_embeddings: int = 2048
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    pad_id: int | None = None

    def __post_init__(self) -> None:
        require(self.family in FAMILIES, "family", self.family, "one of " + ", ".join(FAMILIES))
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads"):
            require(getattr(self, name) > 0, name, getattr(self, name), "a number above 0")
        require(self.num_heads % self.num_kv_heads == 0, "num_kv_heads", self.num_kv_heads, "a divisor of num_heads")
        require(self.head_dim > 0 and self.head_dim % 2 == 0, "head_dim", self.head_dim, "an even number above 0")
        require(self.sliding_window is None or self.sliding_window > 0, "sliding_window", self.sliding_window, "> 0")

    @property
    def longest_sequence(self) -> int:
        """Tokens of the longest sequence the model was made for.

        Linear and dynamic RoPE stretch `max_position_embeddings` by their factor, YaRN the length of the pretraining,
        which some configurations give as the maximum; of the other kinds it is the stretched one already.
        """
        plain, factor = self.max_position_embeddings, self.rope.factor or 1
        if self.rope.kind in ("linear", "dynamic"):
            return int(plain * factor)
        if self.rope.kind == "yarn":
            return max(plain, int((self.rope.original_max_positions or 0) * factor))
        return plain

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> ModelConfig:
        """Reads the dict of a config.json of transformers 4 or 5.

        Raises:
            BadInput: the architecture or one of its options is not supported, or a size is missing.
        """
        family = _family(config)
        config = {**_DEFAULTS[family], **config}
        for key, allowed in (("hidden_act", "silu"), ("attention_bias", False), ("mlp_bias", False)):
            if config.get(key, allowed) not in (allowed, None):
                raise _unsupported(f"{key}={config[key]!r}", f"{key}={allowed!r}")
        if config.get("quantization_config"):
            raise _unsupported("a quantised checkpoint (quantization_config)", "the unquantised base model")
        size = {}
        for ours, theirs in _SIZES.items():
            value = config.get(theirs)
            if not isinstance(value, int):
                raise BadInput(f"config.json has no {theirs}", expected="a whole number", do="give the original file")
            size[ours] = value
        eos = config.get("eos_token_id")
        return cls(
            family=family,
            **size,
            num_kv_heads=config.get("num_key_value_heads") or size["num_heads"],
            head_dim=config.get("head_dim") or size["hidden_size"] // size["num_heads"],
            rms_norm_eps=float(config.get("rms_norm_eps", 1e-6)),
            rope=RopeConfig.from_hf(config),
            sliding_window=_window(config, family, size["num_layers"]),
            tie_embeddings=bool(config.get("tie_word_embeddings", False)),
            qkv_bias=family == "qwen2",
            qk_norm=family == "qwen3",
            max_position_embeddings=int(config.get("max_position_embeddings") or 2048),  # null in very old files
            bos_id=config.get("bos_token_id"),
            eos_ids=tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,),
            pad_id=config.get("pad_token_id"),
        )

    def to_hf(self, dtype: str = "bfloat16") -> dict[str, Any]:
        """config.json for transformers 5 that transformers 4 and tools built on it read as well."""
        architecture = next(name for name, family in ARCHITECTURES.items() if family == self.family)
        out: dict[str, Any] = {"architectures": [architecture], "model_type": self.family}
        out |= {theirs: getattr(self, ours) for ours, theirs in _SIZES.items()}
        out |= {
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": self.rms_norm_eps,
            "max_position_embeddings": self.max_position_embeddings,
            "tie_word_embeddings": self.tie_embeddings,
            "rope_theta": self.rope.theta,
            "rope_parameters": self.rope.to_hf(),
            "bos_token_id": self.bos_id,
            "eos_token_id": self.eos_ids[0] if len(self.eos_ids) == 1 else list(self.eos_ids) or None,
            "pad_token_id": self.pad_id,
            "dtype": dtype,
            "torch_dtype": dtype,
        }
        if self.rope.kind != "default":
            out["rope_scaling"] = out["rope_parameters"]
        if self.family in ("llama", "qwen3"):
            out["attention_bias"] = False
        if self.family == "mistral":
            out["sliding_window"] = self.sliding_window
        if self.family in ("qwen2", "qwen3"):
            out["use_sliding_window"] = self.sliding_window is not None
            out["sliding_window"] = self.sliding_window
            out["max_window_layers"] = 0 if self.sliding_window else self.num_layers
        return out


_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"max_position_embeddings": 2048},
    "mistral": {"max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096},
    "qwen2": {"max_position_embeddings": 32768, "num_key_value_heads": 32, "sliding_window": 4096},
    "qwen3": {
        "max_position_embeddings": 32768,
        "num_key_value_heads": 32,
        "sliding_window": 4096,
        "head_dim": 128,
    },
}
"""What transformers takes for a key that config.json does not have; a null is something else."""

_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
}


def _family(config: Mapping[str, Any]) -> str:
    """By architecture, else (older files) by model_type."""
    names: Sequence[str] = config.get("architectures") or ()
    for name in names:
        if name in ARCHITECTURES:
            return ARCHITECTURES[name]
    if not names and config.get("model_type") in FAMILIES:
        return str(config["model_type"])
    raise BadInput(
        f"the base model's architecture {', '.join(names) or config.get('model_type')!r} is not supported",
        expected="one of " + ", ".join(ARCHITECTURES),
        do="choose a base model of the Llama, Mistral, Qwen2, Qwen2.5 or Qwen3 family (SmolLM2 is Llama)",
    )


def _window(config: Mapping[str, Any], family: str, num_layers: int) -> int | None:
    """One window for all layers or none; Qwen names the layers that have it."""
    window = config.get("sliding_window")
    if family == "llama" or window is None:
        return None
    if family == "mistral":
        return int(window)
    if not config.get("use_sliding_window"):
        return None
    full = min(int(config.get("max_window_layers", 28)), num_layers)
    types = config.get("layer_types") or ["full_attention"] * full + ["sliding_attention"] * (num_layers - full)
    if len(set(types)) > 1:
        raise _unsupported("a sliding window on some layers only", "a window on all layers or on none")
    return int(window) if types[0] == "sliding_attention" else None


def _unsupported(what: str, expected: str) -> BadInput:
    return BadInput(f"config.json asks for {what}, which is not supported", expected=expected, do="choose another base")

"""The shape of a model as a frozen value, read from and written to Hugging Face's config.json.

What a family's config.json means stands in `families`. Opens no file and imports no array library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from jora_engine.config.checks import number, require
from jora_engine.config.families import FAMILIES, Family
from jora_engine.config.hf_fields import require_known, unsupported
from jora_engine.config.rope import RopeConfig
from raft_errors import BadInput


class LayerKind(NamedTuple):
    """What a layer's attention has of its own: its window and its RoPE, None for none."""

    window: int | None
    rope: RopeConfig | None


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a decoder of a supported family. Hashable, so it can be a static argument of `jax.jit`.

    A switch that is off adds no operation to a compiled program.

    Attributes:
        windowed: which layers have the window; None = all.
        rotated: which layers have RoPE; None = all.
        window_rope: RoPE of the layers with a window, where theirs is another.
        qk_norm: whether queries and keys are normed, each head by itself or (`qk_norm_whole`) all heads together.
        norms: where a sublayer's norms stand: before it, after it, or both.
        norm_kind: see `ops.rms_norm`.
        fused: whether q, k and v are one matrix, and gate and up another.
        embedding_scale_rounded: whether the factor on embeddings is rounded to their dtype first, as Gemma has it.
        residual_scale: the factor on what a sublayer adds.
        attention_scale: the factor on attention's scores; None = `head_dim ** -0.5`.
        attention_softcap, logit_softcap: c in `c * tanh(x / c)`; None for none.
        logit_divisor: what the head's output is divided by.
    """

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
    windowed: tuple[bool, ...] | None = None
    rotated: tuple[bool, ...] | None = None
    window_rope: RopeConfig | None = None
    qk_norm_whole: bool = False
    norms: Literal["before", "after", "around"] = "before"
    norm_kind: Literal["narrow", "wide", "one_plus"] = "narrow"
    activation: Literal["silu", "gelu_tanh"] = "silu"
    fused: bool = False
    embedding_scale: float = 1.0
    embedding_scale_rounded: bool = False
    residual_scale: float = 1.0
    attention_scale: float | None = None
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    logit_divisor: float = 1.0
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
        for name in ("windowed", "rotated"):
            flags = getattr(self, name)
            require(flags is None or len(flags) == self.num_layers, name, flags, "one for each layer")
        for name in ("embedding_scale", "residual_scale", "logit_divisor"):
            value = getattr(self, name)
            require(number(value) and value != 0, name, value, "a number other than 0")
        for name in ("attention_scale", "attention_softcap", "logit_softcap"):
            value = getattr(self, name)
            require(value is None or (number(value) and value > 0), name, value, "a number above 0")

    @property
    def layer_kinds(self) -> tuple[LayerKind, ...]:
        """Of each layer."""
        every = (True,) * self.num_layers
        return tuple(
            LayerKind(
                self.sliding_window if slides else None,
                None if not turns else self.window_rope if slides and self.window_rope else self.rope,
            )
            for slides, turns in zip(self.windowed or every, self.rotated or every)
        )

    @property
    def kinds(self) -> tuple[LayerKind, ...]:
        """The kinds of layer that the model has, in order of their first: one where all layers are alike."""
        return tuple(dict.fromkeys(self.layer_kinds))

    @property
    def longest_sequence(self) -> int:
        """Tokens of the longest sequence the model was made for.

        Linear and dynamic RoPE stretch `max_position_embeddings` by their factor, YaRN the length of the pretraining,
        which some configurations give as the maximum; of the other kinds it is the stretched one already, and so it is
        where only the layers without a window are stretched (Gemma 3).
        """
        plain, factor = self.max_position_embeddings, self.rope.factor or 1
        if self.rope.kind in ("linear", "dynamic") and self.window_rope is None:
            return int(plain * factor)
        if self.rope.kind == "yarn":
            return max(plain, int((self.rope.original_max_positions or 0) * factor))
        return plain

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> ModelConfig:
        """Reads the dict of a config.json of transformers 4 or 5.

        Raises:
            BadInput: the architecture or one of its options is not supported, a field is unknown, or a size is missing.
        """
        family = _family(config)
        if config.get("quantization_config"):
            raise unsupported("a quantised checkpoint (quantization_config)", "the unquantised base model")
        require_known(config, family.name, (*family.fields, *family.keys), family.only)
        config = {**family.defaults, **config}
        size: dict[str, Any] = {}
        for ours, theirs in _SIZES.items():
            value = config.get(theirs)
            if not isinstance(value, int):
                raise BadInput(f"config.json has no {theirs}", expected="a whole number", do="give the original file")
            size[ours] = value
        eos = config.get("eos_token_id")
        own: dict[str, Any] = {ours: config.get(theirs) for theirs, ours in family.fields.items()}
        own |= {**family.switches, **family.read(config)}
        if "rope" not in own:
            own["rope"] = RopeConfig.from_hf(config)
        return cls(
            family=family.name,
            **size,
            num_kv_heads=config.get("num_key_value_heads") or size["num_heads"],
            head_dim=config.get("head_dim") or size["hidden_size"] // size["num_heads"],
            rms_norm_eps=float(config.get("rms_norm_eps", 1e-6)),
            tie_embeddings=bool(config.get("tie_word_embeddings", False)),
            max_position_embeddings=int(config.get("max_position_embeddings") or 2048),  # null in very old files
            bos_id=config.get("bos_token_id"),
            eos_ids=tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,),
            pad_id=config.get("pad_token_id"),
            **own,
        )

    def to_hf(self, dtype: str = "bfloat16") -> dict[str, Any]:
        """config.json for transformers 5 that transformers 4 and tools built on it read as well."""
        family = FAMILIES[self.family]
        out: dict[str, Any] = {"architectures": [family.architecture], "model_type": self.family}
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
        out |= {key: values[0] for key, values in family.only.items() if values}
        out |= {theirs: getattr(self, ours) for theirs, ours in family.fields.items()}
        return out | family.write(self)


_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
}


def _family(config: Mapping[str, Any]) -> Family:
    """By architecture, else (older files) by model_type."""
    names: Sequence[str] = config.get("architectures") or ()
    architectures = {family.architecture: family for family in FAMILIES.values()}
    for name in names:
        if name in architectures:
            return architectures[name]
    if not names and config.get("model_type") in FAMILIES:
        return FAMILIES[config["model_type"]]
    raise BadInput(
        f"the base model's architecture {', '.join(names) or config.get('model_type')!r} is not supported",
        expected="one of " + ", ".join(architectures),
        do="choose a base model of one of these families (SmolLM2 is Llama, Qwen2.5 is Qwen2, Gemma 3 the text model)",
    )

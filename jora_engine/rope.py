"""Rotary position embeddings: which variant a model uses, its inverse frequencies, and cos/sin tables.

The layout is Hugging Face's rotate-half, all arithmetic is float32, and every variant equals transformers' own table.
Knows nothing of models or files beyond the RoPE part of a config.json.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from raft_errors import BadInput

KINDS = ("default", "linear", "llama3", "dynamic", "yarn", "longrope")
_NEEDS_FACTOR = ("linear", "llama3", "dynamic")
_PLAIN = (  # fields read under the same name
    *("factor", "low_freq_factor", "high_freq_factor", "attention_factor", "beta_fast", "beta_slow"),
    *("mscale", "mscale_all_dim", "truncate"),
)


@dataclass(frozen=True)
class RopeConfig:
    """RoPE variant with transformers' names and meaning; `kind` is transformers' `rope_type`.

    `original_max_positions` and `max_positions` are lengths in tokens. `factor` may be None for yarn and longrope,
    where it then is `max_positions / original_max_positions`.
    """

    theta: float = 10000.0
    kind: str = "default"
    factor: float | None = None
    original_max_positions: int | None = None
    max_positions: int | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BadInput(
                f"RoPE type {self.kind!r} is not supported",
                expected="one of " + ", ".join(KINDS),
                do="use a base model with one of these RoPE types",
            )
        if not self.theta > 1:
            raise BadInput(f"RoPE theta is {self.theta}", expected="a number above 1", do="correct rope_theta")
        if self.kind in _NEEDS_FACTOR and not (self.factor and self.factor >= 1):
            raise BadInput(
                f"RoPE type {self.kind!r} has factor {self.factor}",
                expected="a factor of at least 1",
                do="correct rope_parameters (or rope_scaling) in config.json",
            )
        if self.kind in ("llama3", "yarn", "longrope") and not self.original_max_positions:
            raise BadInput(
                f"RoPE type {self.kind!r} has no original_max_position_embeddings",
                expected="the length the model was pretrained on",
                do="add it to rope_parameters (or rope_scaling) in config.json",
            )
        if self.kind in ("dynamic", "yarn", "longrope") and not (self.max_positions or self.factor):
            raise BadInput(
                f"RoPE type {self.kind!r} needs the model's maximum length",
                expected="max_position_embeddings in config.json",
                do="add it",
            )
        if self.kind == "longrope" and not (self.short_factor and len(self.short_factor) == len(self.long_factor)):
            raise BadInput(
                f"longrope has {len(self.short_factor)} short and {len(self.long_factor)} long factors",
                expected="one of each per rotary dimension pair",
                do="correct short_factor and long_factor in config.json",
            )

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> RopeConfig:
        """Reads transformers 5's `rope_parameters` or transformers 4's `rope_theta` + `rope_scaling`."""
        raw = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
        if any(isinstance(v, Mapping) for v in raw.values()):
            raise BadInput(
                "config.json gives different RoPE parameters for different layers",
                expected="one set for all layers",
                do="use a model of a supported family",
            )
        if float(raw.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0) != 1.0:
            raise BadInput(
                "config.json rotates only a part of each head (partial_rotary_factor)",
                expected="a factor of 1",
                do="use a model of a supported family",
            )
        kind = str(raw.get("rope_type") or raw.get("type") or "default")
        length = config.get("max_position_embeddings")
        # transformers gives the top-level value priority (Phi-3 keeps it there) and falls back to the maximum length
        original = config.get("original_max_position_embeddings") or raw.get("original_max_position_embeddings")
        scaled = kind != "default"
        values: dict[str, Any] = {k: raw[k] for k in _PLAIN if scaled and raw.get(k) is not None}
        for name in ("short_factor", "long_factor"):
            if scaled and raw.get(name):
                values[name] = tuple(float(v) for v in raw[name])
        if kind in ("llama3", "yarn", "longrope"):
            values["original_max_positions"] = int(original or length or 0) or None
        return cls(
            theta=float(raw.get("rope_theta") or config.get("rope_theta") or 10000.0),
            kind=kind,
            max_positions=int(length) if length and scaled else None,
            **values,
        )

    def to_hf(self) -> dict[str, Any]:
        """transformers' `rope_parameters` dict, only the keys that this variant reads."""
        out: dict[str, Any] = {"rope_theta": self.theta, "rope_type": self.kind}
        if self.kind == "default":
            return out
        out["factor"] = self.factor
        if self.kind in ("llama3", "yarn", "longrope"):
            out["original_max_position_embeddings"] = self.original_max_positions
        if self.kind == "llama3":
            out |= {"low_freq_factor": self.low_freq_factor, "high_freq_factor": self.high_freq_factor}
        if self.kind == "yarn":
            out |= {"beta_fast": self.beta_fast, "beta_slow": self.beta_slow, "truncate": self.truncate}
            out |= {k: getattr(self, k) for k in ("mscale", "mscale_all_dim") if getattr(self, k) is not None}
        if self.kind in ("yarn", "longrope") and self.attention_factor is not None:
            out["attention_factor"] = self.attention_factor
        if self.kind == "longrope":
            out |= {"short_factor": list(self.short_factor), "long_factor": list(self.long_factor)}
        return {k: v for k, v in out.items() if v is not None}


def inv_freq(rope: RopeConfig, head_dim: int, seq_len: int | None = None) -> tuple[np.ndarray, float]:
    """Inverse frequencies float32 [head_dim // 2] and the factor on cos and sin.

    Args:
        seq_len: longest sequence in tokens, a static number. Only `dynamic` (beyond the model's maximum) and `longrope`
            (short or long factors) depend on it; None means the model's own range.
    """
    # float32 step by step as transformers does it: the last bit of an angle at position 100k is then the same
    exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    theta = np.float32(rope.theta)
    if rope.kind == "dynamic":
        length = max(seq_len or 0, rope.max_positions or 0)
        factor = float(rope.factor or 1)
        stretch = factor * length / (rope.max_positions or length) - (factor - 1)
        theta = np.float32(rope.theta * stretch ** (head_dim / (head_dim - 2)))
    frequencies = np.float32(1.0) / np.power(theta, exponent, dtype=np.float32)
    if rope.kind == "linear":
        return frequencies / np.float32(rope.factor), 1.0
    if rope.kind == "llama3":
        return _llama3(rope, frequencies), 1.0
    if rope.kind == "yarn":
        return _yarn(rope, head_dim, exponent)
    if rope.kind == "longrope":
        return _longrope(rope, head_dim, exponent, seq_len)
    return frequencies, 1.0


def rope_table(
    rope: RopeConfig, head_dim: int, positions: jax.Array | np.ndarray, lengths: jax.Array | np.ndarray | None = None
) -> tuple[jax.Array, jax.Array]:
    """cos and sin, float32 [..., head_dim // 2] for integer positions [...].

    Rotate-half: element i of the first half is paired with element i of the second, and both use column i here.

    Args:
        lengths: integer [...], tokens of the sequence that each position is in (of the prompt, in generation). Only
            the kinds that `by_length` names read it; without it they use the model's own range.
    """
    if lengths is None or not by_length(rope):
        frequencies, factor = inv_freq(rope, head_dim)
        rates = jnp.asarray(frequencies)
    else:
        rates, factor = _rates(rope, head_dim, jnp.asarray(lengths)[..., None])
    angles = jnp.asarray(positions, jnp.float32)[..., None] * rates
    return jnp.cos(angles) * factor, jnp.sin(angles) * factor


def by_length(rope: RopeConfig) -> bool:
    """Whether the angles depend on how long a sequence is: `dynamic` and `longrope`."""
    return rope.kind in ("dynamic", "longrope")


def _rates(rope: RopeConfig, dim: int, lengths: jax.Array) -> tuple[jax.Array, float]:
    """What `inv_freq` says for each length `[..., 1]`, float32 `[..., dim // 2]`."""
    short, factor = inv_freq(rope, dim)
    if rope.kind == "longrope":
        assert rope.original_max_positions is not None
        long, _ = inv_freq(rope, dim, rope.original_max_positions + 1)
        return jnp.where(lengths > rope.original_max_positions, long, short), factor
    exponent = jnp.arange(0, dim, 2, dtype=jnp.float32) / dim
    most = rope.max_positions or lengths
    times = float(rope.factor or 1)
    stretch = times * jnp.maximum(lengths, most) / most - (times - 1)
    return 1 / (rope.theta * stretch ** (dim / (dim - 2))) ** exponent, factor


def _llama3(rope: RopeConfig, frequencies: np.ndarray) -> np.ndarray:
    """Long wavelengths divided by the factor, short ones kept, a linear blend between."""
    assert rope.factor is not None
    assert rope.original_max_positions is not None
    length, low, high = rope.original_max_positions, rope.low_freq_factor, rope.high_freq_factor
    wavelength = np.float32(2 * math.pi) / frequencies
    scaled = np.where(wavelength > length / low, frequencies / np.float32(rope.factor), frequencies)
    smooth = (np.float32(length) / wavelength - np.float32(low)) / np.float32(high - low)
    blend = (1 - smooth) * scaled / np.float32(rope.factor) + smooth * scaled
    medium = (wavelength >= length / high) & (wavelength <= length / low)
    return np.where(medium, blend, scaled).astype(np.float32)


def _stretch_factor(rope: RopeConfig) -> float:
    return float(rope.factor or (rope.max_positions or 0) / (rope.original_max_positions or 1))


def _yarn(rope: RopeConfig, dim: int, exponent: np.ndarray) -> tuple[np.ndarray, float]:
    factor, length = _stretch_factor(rope), rope.original_max_positions
    assert length is not None

    def mscale(scale: float, weight: float = 1.0) -> float:
        return 1.0 if scale <= 1 else 0.1 * weight * math.log(scale) + 1.0

    attention = rope.attention_factor
    if attention is None and rope.mscale and rope.mscale_all_dim:
        attention = mscale(factor, rope.mscale) / mscale(factor, rope.mscale_all_dim)
    elif attention is None:
        attention = mscale(factor)

    def dimension(rotations: float) -> float:
        return dim * math.log(length / (rotations * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    high += 0.001 if low == high else 0.0
    ramp = np.clip((np.arange(dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)
    keep = 1 - ramp
    pace = np.power(np.float32(rope.theta), exponent, dtype=np.float32)
    mixed = 1 / (np.float32(factor) * pace) * (1 - keep) + 1 / pace * keep
    return mixed.astype(np.float32), float(attention)


def _longrope(rope: RopeConfig, dim: int, exponent: np.ndarray, seq_len: int | None) -> tuple[np.ndarray, float]:
    factor, length = _stretch_factor(rope), rope.original_max_positions
    assert length is not None
    attention = rope.attention_factor
    if attention is None:
        attention = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(length))
    chosen = rope.long_factor if seq_len and seq_len > length else rope.short_factor
    if len(chosen) != dim // 2:
        raise BadInput(
            f"longrope has {len(chosen)} factors for {dim // 2} rotary pairs",
            expected="one per pair (head_dim / 2)",
            do="correct short_factor and long_factor in config.json",
        )
    pace = np.power(np.float32(rope.theta), exponent, dtype=np.float32)
    return (1 / (np.asarray(chosen, np.float32) * pace)).astype(np.float32), float(attention)

"""Rotary position embeddings: inverse frequencies of every variant, and cos/sin tables.

The layout is Hugging Face's rotate-half, all arithmetic is float32, and every variant equals transformers' own table.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from jora_engine.config.rope import RopeConfig
from raft_errors import BadInput


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


def layer_table(
    rope: RopeConfig | None, head_dim: int, positions: jax.Array | np.ndarray, lengths: jax.Array | np.ndarray | None
) -> tuple[jax.Array, jax.Array]:
    """`rope_table` of a layer; one without RoPE has a table that turns nothing."""
    if rope is None:
        shape = (*positions.shape, head_dim // 2)
        return jnp.ones(shape, jnp.float32), jnp.zeros(shape, jnp.float32)
    return rope_table(rope, head_dim, positions, lengths)


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

"""Rotary position embeddings: which variant a model uses, read from and written to the RoPE part of a config.json.

The tables that follow from it are `model.rope_table`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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

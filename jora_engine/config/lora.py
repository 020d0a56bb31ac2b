"""The shape of a LoRA adapter as a frozen value, with PEFT's meaning: what carries one, at which rank and scale.

Reads and writes the fields of PEFT's adapter_config.json. Opens no file and imports no array library.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jora_engine.config.architecture import ModelConfig
from jora_engine.config.checks import from_keys, number, require, whole
from jora_engine.config.parameters import linear_layers
from jora_engine.config.peft_fields import require_plain
from raft_errors import BadInput

BGMV_RANK = 128
"""The largest rank that LoRAX and TGI have a kernel for."""

_VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


def vllm_rank(rank: int) -> int | None:
    """The smallest `--max-lora-rank` of vLLM that holds a rank; None above all that it knows."""
    return next((limit for limit in _VLLM_RANKS if limit >= rank), None)


@dataclass(frozen=True)
class LoraConfig:
    """A LoRA adapter with PEFT's meaning; `rank` and `alpha` are PEFT's `r` and `lora_alpha`.

    Attributes:
        target_modules: "all-linear" (all but the head), a list of names (equal, or the end of the module path after a
            dot), or a string: a regular expression that must match the whole module path.
        exclude_modules: the same forms, taken out again.
        layers_to_transform: numbers of the decoder layers that carry an adapter; None = all.
    """

    rank: int = 16
    alpha: float = 16.0
    target_modules: str | tuple[str, ...] = "all-linear"
    exclude_modules: str | tuple[str, ...] | None = None
    dropout: float = 0.0
    use_rslora: bool = False
    layers_to_transform: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.layers_to_transform is not None:
            object.__setattr__(self, "layers_to_transform", tuple(sorted(set(self.layers_to_transform))))
            ok = self.layers_to_transform and all(whole(i) and i >= 0 for i in self.layers_to_transform)
            require(bool(ok), "layers_to_transform", self.layers_to_transform, "numbers of layers, from 0")
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                object.__setattr__(self, name, tuple(value))
        require(whole(self.rank) and self.rank >= 1, "rank", self.rank, "a whole number of at least 1")
        require(self.alpha > 0, "alpha", self.alpha, "a number above 0")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "0 or more and below 1")
        require(bool(self.target_modules), "target_modules", self.target_modules, "at least one module")
        for name in ("target_modules", "exclude_modules"):
            if isinstance(getattr(self, name), str):
                try:
                    re.compile(getattr(self, name))
                except re.error as error:
                    raise BadInput(f"{name} is not a regular expression: {error}", do="correct the pattern") from error

    @property
    def scale(self) -> float:
        """The factor on B @ A: alpha / rank, or alpha / sqrt(rank) with rsLoRA."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)

    def targets(self, model: ModelConfig) -> tuple[str, ...]:
        """Names in the model's parameter tree (q, k, v, o, gate, up, down) that carry an adapter, in that order.

        Raises:
            BadInput: nothing matches, or a module type is matched in some layers only (layers are stacked).
        """
        names = []
        linear = linear_layers(model)
        for name, parameter in linear.items():
            hits = sum(self._matches(parameter.module(layer)) for layer in range(model.num_layers))
            if 0 < hits < model.num_layers:
                raise BadInput(
                    f"target_modules matches {parameter.module()} in {hits} of {model.num_layers} layers",
                    expected="a module type in every layer or in none",
                    do="name modules without layer numbers",
                )
            if hits:
                names.append(name)
        if not names:
            raise BadInput(
                f"target_modules {self.target_modules!r} matches no linear layer",
                expected='"all-linear", or names such as ' + ", ".join(p.leaf for p in linear.values()),
                do="correct target_modules (and exclude_modules)",
            )
        return tuple(names)

    def layers(self, num_layers: int) -> tuple[int, ...]:
        """Numbers of the layers that carry an adapter, in order.

        Raises:
            BadInput: the model has no such layer.
        """
        if self.layers_to_transform is None:
            return tuple(range(num_layers))
        last = self.layers_to_transform[-1]
        require(last < num_layers, "layers_to_transform", self.layers_to_transform, f"numbers below {num_layers}")
        return self.layers_to_transform

    def _matches(self, path: str) -> bool:
        def hit(pattern: str | tuple[str, ...]) -> bool:
            if isinstance(pattern, str):
                return re.fullmatch(pattern, path) is not None
            return any(path == entry or path.endswith("." + entry) for entry in pattern)

        if self.exclude_modules and hit(self.exclude_modules):
            return False
        return self.target_modules == "all-linear" or hit(self.target_modules)

    @classmethod
    def preset(cls, name: str) -> LoraConfig:
        """`jora` is JORA's own setting (q and v, rank 16); `all-linear` the default here."""
        presets = {"jora": cls(16, 16.0, ("q_proj", "v_proj")), "all-linear": cls()}
        if name not in presets:
            raise BadInput(f"no LoRA preset {name!r}", expected="one of " + ", ".join(presets), do="name one of them")
        return presets[name]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LoraConfig:
        """From config keys; PEFT's names r, lora_alpha and lora_dropout are accepted. Unknown key: `BadInput`."""
        return from_keys(cls, values, {"r": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout"})

    @classmethod
    def from_peft(cls, config: Mapping[str, Any]) -> LoraConfig:
        """From the dict of an adapter_config.json.

        Raises:
            BadInput: a field would change the result (`peft_fields`), is missing, or has a value of the wrong kind.
        """
        require_plain(config)
        rank, alpha = config.get("r", 8), config.get("lora_alpha", 8)
        dropout = config.get("lora_dropout") or 0.0
        rslora = config.get("use_rslora")
        for name, value in (("lora_alpha", alpha), ("lora_dropout", dropout)):
            require(number(value), name, value, "a number")
        require(rslora is None or isinstance(rslora, bool), "use_rslora", rslora, "true or false")
        names = ("target_modules", "exclude_modules")
        values = {name: config[name] for name in names if config.get(name) is not None}
        require("target_modules" in values, "target_modules", None, "the modules that carry the adapter")
        if (layers := config.get("layers_to_transform")) is not None:
            values["layers_to_transform"] = (layers,) if isinstance(layers, int) else tuple(layers)
        return cls(rank=rank, alpha=float(alpha), dropout=float(dropout), use_rslora=bool(rslora), **values)

    def to_peft(self, model: ModelConfig, base_model: str | None = None) -> dict[str, Any]:
        """adapter_config.json in the form every consumer reads: leaf names, rsLoRA folded into alpha."""
        names = [linear_layers(model)[name].leaf for name in self.targets(model)]
        alpha = self.scale * self.rank
        return {
            "alpha_pattern": {},
            "base_model_name_or_path": base_model,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "init_lora_weights": True,
            "layers_pattern": None,
            "layers_to_transform": None if self.layers_to_transform is None else list(self.layers(model.num_layers)),
            "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
            "lora_bias": False,
            "lora_dropout": self.dropout,
            "modules_to_save": None,
            "peft_type": "LORA",
            "r": self.rank,
            "rank_pattern": {},
            "revision": None,
            "target_modules": sorted(names),
            "task_type": "CAUSAL_LM",
            "use_dora": False,
            "use_rslora": False,
        }

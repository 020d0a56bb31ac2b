"""Which programs read an adapter as it is meant: a rule for each thing that an adapter may have, a verdict a program.

Servers ignore silently what they do not know (a rank pattern, DoRA's magnitudes), so that a wrong model answers. The
rules follow the programs' own loaders; of SGLang less is known, so what is unsure there counts as not read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jora_engine.adapters.peft_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, sets_of_weights
from jora_engine.config.architecture import ModelConfig
from jora_engine.config.lora import BGMV_RANK, vllm_rank
from jora_engine.config.parameters import linear_layers
from jora_engine.config.peft_fields import faults_of
from jora_engine.files.tensor_files import TensorFolder, read_json
from raft_errors import BadInput

CONSUMERS = ("peft", "vllm", "lorax", "tgi", "sglang", "llama.cpp")
OK, MENDED, REFUSED = "ok", "mended", "refused"

_FACTOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<letter>[AB])\.weight")


@dataclass(frozen=True)
class Facts:
    """What an adapter's folder holds.

    Attributes:
        config: its adapter_config.json.
        ranks: rank of each linear module that carries factors, by its path (`model.layers.0.self_attn.q_proj`).
        others: keys of all tensors that are no factors of a linear module of a decoder layer.
        model: the base.
    """

    config: Mapping[str, Any]
    ranks: Mapping[str, int]
    others: tuple[str, ...]
    model: ModelConfig

    def scale(self, module: str) -> float:
        """The factor on B @ A of a module, patterns and rsLoRA included, as PEFT computes it."""
        rank = self.ranks[module]
        alpha = float(_by_pattern(self.config.get("alpha_pattern"), module, self.config.get("lora_alpha", 8)))
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def missing(self) -> list[str]:
        """Modules without factors whose type has them in another layer."""
        types = {module.rpartition("layers.")[2].partition(".")[2] for module in self.ranks}
        layers = range(self.model.num_layers)
        wanted = [f"model.layers.{layer}.{kind}" for layer in layers for kind in sorted(types)]
        return [module for module in wanted if module not in self.ranks]


@dataclass(frozen=True)
class Finding:
    """A thing that an adapter has, and what each program makes of it.

    Attributes:
        what: the thing, in words.
        verdicts: `ok` (read as it is meant), `mended` (once written anew, exactly), `refused`, or the server's flag.
    """

    what: str
    verdicts: Mapping[str, str]


def read_facts(folder: Path, model: ModelConfig) -> Facts:
    """Looks at an adapter's folder.

    Raises:
        BadInput: it is no LoRA adapter, or its weights are missing, several, or of another kind than safetensors.
    """
    config = read_json(folder / ADAPTER_CONFIG)
    if config.get("peft_type") != "LORA" or sets_of_weights(folder) != [ADAPTER_WEIGHTS]:
        weights = ", ".join(sets_of_weights(folder)) or "no file"
        raise BadInput(
            f"{folder}: peft_type {config.get('peft_type')}, weights in {weights}",
            expected=f"a LoRA adapter with its weights in {ADAPTER_WEIGHTS} alone",
            do="save it again with PEFT (`save_pretrained`), or remove what does not belong to it",
        )
    tensors = TensorFolder(folder / ADAPTER_WEIGHTS)
    known = {p.module(layer) for p in linear_layers(model).values() for layer in range(model.num_layers)}
    ranks: dict[str, int] = {}
    others = []
    for key in tensors.names():
        match = _FACTOR.fullmatch(key)
        if match is None or match["module"] not in known:
            others.append(key)
        elif match["letter"] == "A":
            ranks[match["module"]] = tensors.shape(key)[0]
    _check_shapes(folder, tensors, ranks, model)
    return Facts(config, ranks, tuple(others), model)


def _check_shapes(folder: Path, tensors: TensorFolder, ranks: Mapping[str, int], model: ModelConfig) -> None:
    for module, rank in ranks.items():
        rows, columns = linear_shape(module, model)
        for letter, shape in (("A", (rank, columns)), ("B", (rows, rank))):
            key = f"base_model.model.{module}.lora_{letter}.weight"
            if key not in tensors or tensors.shape(key) != shape:
                raise BadInput(
                    f"{folder}: {key} " + (f"has shape {list(tensors.shape(key))}" if key in tensors else "is missing"),
                    expected=f"{list(shape)} for this base model",
                    do="name the base that the adapter was trained on",
                )


def linear_shape(module: str, model: ModelConfig) -> tuple[int, ...]:
    """`(out, in)` of a linear module of a decoder layer."""
    return next(p.shape for p in linear_layers(model).values() if module.endswith(f".{p.module()}"))


def check_consumers(facts: Facts) -> list[Finding]:
    """A finding for everything that some program might read wrongly, and one for the rank."""
    findings = []
    for what, verdicts in _RULES:
        if words := what(facts):
            findings.append(Finding(words, verdicts(facts) if callable(verdicts) else verdicts))
    return findings


def verdict(findings: Sequence[Finding], consumer: str) -> str:
    """The worst of a program's verdicts; flags count as `ok`."""
    all_of_it = [finding.verdicts[consumer] for finding in findings]
    return REFUSED if REFUSED in all_of_it else MENDED if MENDED in all_of_it else OK


# ---- rules


def _row(vllm: str, lorax: str, tgi: str, sglang: str, llama_cpp: str) -> dict[str, str]:
    """Verdicts in the order of `CONSUMERS`; PEFT reads whatever it wrote."""
    return dict(zip(CONSUMERS, (OK, vllm, lorax, tgi, sglang, llama_cpp), strict=True))


_NOBODY_ELSE = _row(*[REFUSED] * 5)


def _named(config: Mapping[str, Any], *names: str) -> str:
    return ", ".join(f"{name} {config[name]!r}" for name in names if config.get(name))


def _bias(facts: Facts) -> str:
    bias = facts.config.get("bias") or "none"
    return " and ".join([f"bias {bias!r}"] * (bias != "none") + ["lora_bias"] * bool(facts.config.get("lora_bias")))


def _own_start(facts: Facts) -> str:
    start = faults_of(facts.config).get("init_lora_weights")
    return f"init_lora_weights {start!r}: on loading, PEFT changes the base" if start else ""


_ELSEWHERE = {"use_dora", "bias", "lora_bias", "modules_to_save", "init_lora_weights", "alora_invocation_tokens"}
_PATTERNS = {"rank_pattern", "alpha_pattern"}


def _other_fields(facts: Facts) -> str:
    faults = {k: v for k, v in faults_of(facts.config).items() if k not in _ELSEWHERE | _PATTERNS}
    return _named(faults, *faults)


def _with(part: str) -> Callable[[Facts], str]:
    return lambda facts: f"factors of {part}" if any(part in key for key in facts.others) else ""


def _strange(facts: Facts) -> str:
    parts = ("embed_tokens", "lm_head", "magnitude_vector", ".bias")
    saved = facts.config.get("modules_to_save") or []
    keys = [key for key in facts.others if not any(part in key for part in (*parts, *saved))]
    return f"{len(keys)} tensors of no linear layer ({keys[0]})" if keys else ""


def _rank(facts: Facts) -> str:
    return f"rank {max(facts.ranks.values())}" if facts.ranks else ""


def _rank_verdicts(facts: Facts) -> dict[str, str]:
    rank = max(facts.ranks.values())
    limit = vllm_rank(rank)
    few = OK if rank <= BGMV_RANK else REFUSED
    vllm = REFUSED if limit is None else f"--max-lora-rank {limit}" if limit > 16 else OK
    return _row(vllm, few, few, f"--max-lora-rank {rank}", OK)


def _uneven(facts: Facts) -> str:
    ranks = sorted(set(facts.ranks.values()))
    return f"ranks {', '.join(map(str, ranks))}" if len(ranks) > 1 else ""


def _scales(facts: Facts) -> str:
    return _named(facts.config, "alpha_pattern")


def _some_layers(facts: Facts) -> str:
    missing = facts.missing()
    return f"{len(missing)} modules of its types without factors ({missing[0]})" if missing else ""


def _expression(facts: Facts) -> str:
    targets, excluded = facts.config.get("target_modules"), facts.config.get("exclude_modules")
    return "target_modules as an expression" if isinstance(targets, str) or excluded else ""


_RULES: list[tuple[Callable[[Facts], str], Any]] = [
    (lambda f: "rsLoRA" if f.config.get("use_rslora") else "", _row(OK, OK, OK, MENDED, MENDED)),
    (_uneven, _row(MENDED, MENDED, MENDED, MENDED, OK)),
    (_scales, _row(MENDED, MENDED, MENDED, MENDED, MENDED)),
    (_some_layers, _row(OK, MENDED, MENDED, MENDED, OK)),
    (_expression, _row(MENDED, MENDED, MENDED, MENDED, OK)),
    (lambda f: "DoRA" if f.config.get("use_dora") else "", _NOBODY_ELSE),
    (_bias, _NOBODY_ELSE),
    (lambda f: _named(f.config, "modules_to_save"), _NOBODY_ELSE),
    (_own_start, _NOBODY_ELSE),
    (lambda f: _named(f.config, "alora_invocation_tokens"), _row(REFUSED, REFUSED, REFUSED, REFUSED, OK)),
    (_other_fields, _NOBODY_ELSE),
    (_with("embed_tokens"), _row(OK, REFUSED, REFUSED, REFUSED, OK)),
    (_with("lm_head"), lambda f: _row(OK, OK, REFUSED, REFUSED, REFUSED if f.model.tie_embeddings else OK)),
    (_strange, _NOBODY_ELSE),
    (_rank, _rank_verdicts),
]


def _by_pattern(pattern: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """PEFT's rule: the first key that matches the module's path, or its end after a dot."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default

"""The fields of PEFT's adapter_config.json: which ones the engine applies, and what the others must be for plain LoRA.

A foreign adapter is taken only if every field is known to leave `base + scale * B @ A` as it is, because PEFT keeps
adding fields that change what an adapter computes. Knows nothing of tensors and opens no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raft_errors import BadInput

APPLIED = {
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "use_rslora",
}
"""Read by `LoraConfig.from_peft`."""

DESCRIPTIVE = {
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "megatron_core",  # used beside megatron_config alone
    "peft_version",
    "qalora_group_size",  # used beside use_qalora alone
    "revision",
    "runtime_config",  # where the work of an adapter is done, not what it is
}
"""Any value leaves the numbers alone."""

_LAYERS: tuple[Any, ...] = (None, "", "layers", [], ["layers"])
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "alora_invocation_tokens": (None,),
    "alpha_pattern": (None, {}),
    "arrow_config": (None,),
    "bias": (None, "none"),
    "corda_config": (None,),
    "ensure_weight_tying": (None, False),
    "eva_config": (None,),
    "fan_in_fan_out": (None, False),
    "init_lora_weights": (None, True, False, "gaussian", "orthogonal"),  # these change only where a training starts
    "kasa_config": (None,),
    "layer_replication": (None, []),
    "layers_pattern": _LAYERS,
    "loftq_config": (None, {}),
    "lora_bias": (None, False),
    "lora_ga_config": (None,),
    "megatron_config": (None, {}),
    "modules_to_save": (None, []),
    "monteclora_config": (None,),
    "peft_type": ("LORA",),
    "rank_pattern": (None, {}),
    "target_parameters": (None, []),
    "task_type": (None, "CAUSAL_LM"),
    "trainable_token_indices": (None, [], {}),
    "use_bdlora": (None,),
    "use_dora": (None, False),
    "use_qalora": (None, False),
    "velora_config": (None,),
}
"""The values with which PEFT computes plain LoRA. An empty section is not among them where PEFT would fill it in."""

_UNKNOWN: tuple[Any, ...] = (None, False, [], {}, "")  # what a field that we do not know is taken to be switched off by
_MERGE = "merge it into its base with PEFT (`merge_and_unload`, `save_pretrained`) and use the merged model as base"
_CONVERT = (
    "save it again with PEFT's `save_pretrained(..., path_initial_model_for_weight_conversion=...)`, which gives plain "
    f"LoRA of twice the rank, or {_MERGE}"
)
_WHAT_TO_DO = {
    "alora_invocation_tokens": "run it with PEFT: it acts on some tokens only, so nothing plain is equal to it",
    "arrow_config": "give one of the adapters that it routes between",
    "init_lora_weights": _CONVERT,
    "corda_config": _CONVERT,
    "lora_ga_config": _CONVERT,
    "task_type": "give an adapter of a causal language model",
    "peft_type": "give a LoRA adapter, or merge this one into its base with PEFT and use the merged model as base",
}


def require_plain(config: Mapping[str, Any]) -> None:
    """Checks that an adapter with this configuration is plain LoRA.

    Raises:
        BadInput: naming every field whose value changes the result, or may.
    """
    if faults := faults_of(config):
        first = next(iter(faults))
        raise BadInput(
            "the adapter's adapter_config.json has " + ", ".join(f"{k}={_short(v)}" for k, v in faults.items()),
            expected="plain LoRA of one rank and one scale on whole linear layers; known to leave the numbers alone is "
            + " or ".join(repr(value) for value in NEUTRAL.get(first, _UNKNOWN[:2])),
            do=_WHAT_TO_DO.get(first, _MERGE if first in NEUTRAL else f"if {first} changes what it computes, {_MERGE}"),
        )


def faults_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields, with their values, that are not known to leave plain LoRA as it is."""
    return {name: value for name, value in {"peft_type": None, **config}.items() if not _is_neutral(name, value)}


def _is_neutral(name: str, value: Any) -> bool:
    if name in APPLIED or name in DESCRIPTIVE:
        return True
    # 0 == False and 1 == True in Python; a number is no switch
    return any(value == one and type(value) is type(one) for one in NEUTRAL.get(name, _UNKNOWN))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

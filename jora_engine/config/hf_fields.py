"""The fields of a Hugging Face config.json that leave a model's numbers alone, or do so with one of certain values.

What a family reads stands in `families`. A field that stands in neither is refused by name: transformers keeps adding
fields that change what a model computes, and one that is passed over would give wrong numbers without a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from raft_errors import BadInput

READ = {
    "architectures",
    "bos_token_id",
    "eos_token_id",
    "head_dim",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "original_max_position_embeddings",
    "pad_token_id",
    "partial_rotary_factor",
    "quantization_config",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "tie_word_embeddings",
    "vocab_size",
}
"""Read for every family."""

DESCRIPTIVE = {
    *("_name_or_path", "name_or_path", "transformers_version", "dtype", "torch_dtype", "use_bfloat16", "auto_map"),
    *("_attn_implementation", "_attn_implementation_autoset", "attn_implementation", "cache_implementation"),
    *("use_cache", "initializer_range", "is_llama_config", "transformers.js_config", "tokenizer_class", "prefix"),
    *(
        "unsloth_version",
        "unsloth_fixed",
        "task_specific_params",
        "problem_type",
        "finetuning_task",
        "custom_pipelines",
    ),
    *("id2label", "label2id", "num_labels", "return_dict", "output_attentions", "output_hidden_states", "torchscript"),
    *("pretraining_tp", "max_sequence_length", "max_length", "min_length", "do_sample", "early_stopping", "num_beams"),
    *("num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty"),
    *("length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "num_return_sequences"),
    *("output_scores", "return_dict_in_generate", "remove_invalid_values", "sep_token_id", "decoder_start_token_id"),
    *("tf_legacy_loss", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id"),
    *("forced_eos_token_id", "exponential_decay_length_penalty", "cross_attention_hidden_size"),
}
"""Any value leaves the numbers alone: names, versions, defaults of generation, where and how things are computed."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,),
    "attention_bias": (False,),
    "attention_dropout": (0,),
    "chunk_size_feed_forward": (0,),
    "embd_pdrop": (0,),
    "hidden_act": ("silu",),
    "is_decoder": (False, True),
    "is_encoder_decoder": (False,),
    "mlp_bias": (False,),
    "pruned_heads": ({},),
    "resid_pdrop": (0,),
    "rope_interleaved": (False,),
    "tie_encoder_decoder": (False,),
    "use_mrope": (False,),
}
"""The values with which a field changes nothing, where its family does not read it; a null never does."""


def require_known(config: Mapping[str, Any], family: str, more: Iterable[str], only: Mapping[str, Any]) -> None:
    """Raises `BadInput` that names the first field which would change the result.

    Args:
        more: what the family reads besides `READ`.
        only: the family's own `NEUTRAL`, which goes before it.
    """
    known = READ | DESCRIPTIVE | set(more)
    neutral = {**NEUTRAL, **only}
    for name, value in config.items():
        if name in known or value is None:
            continue
        if name not in neutral:
            raise BadInput(
                f"config.json has {name}={value!r}, which a {family} model is not known to have",
                expected="fields whose meaning is known here: one that is passed over would give wrong numbers",
                do="choose another base, or declare the field in jora_engine/config/families.py",
            )
        if value not in neutral[name]:
            allowed = " or ".join(f"{name}={one!r}" for one in neutral[name]) or f"no {name}"
            raise unsupported(f"{name}={value!r}", allowed)


def unsupported(what: str, expected: str) -> BadInput:
    """The error for an option of a model that the engine does not compute."""
    return BadInput(f"config.json asks for {what}, which is not supported", expected=expected, do="choose another base")

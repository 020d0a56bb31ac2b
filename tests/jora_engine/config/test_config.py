"""Model, adapter and training configuration: what is read, what is refused, what is written."""

import itertools
import json

import pytest
import transformers
from peft import LoraConfig as PeftLora
from peft import get_peft_model

from jora_engine.config.architecture import ModelConfig
from jora_engine.config.lora import LoraConfig
from jora_engine.config.parameters import linear_layers
from jora_engine.config.recipe import TrainConfig
from raft_errors import BadInput

SMOLLM2 = {  # as published, transformers 4 form
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "model_type": "llama",
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "pad_token_id": 2,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
    "vocab_size": 49152,
}
SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}

MULTIPLIERS = ("embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling")


def layers(count):
    """A small model of so many layers."""
    return ModelConfig("llama", 64, 32, 48, count, 4, 2, 8)


def test_smollm2_is_read_with_derived_head_dim():
    config = ModelConfig.from_hf(SMOLLM2)
    assert (config.family, config.head_dim, config.num_kv_heads, config.tie_embeddings) == ("llama", 64, 3, True)
    assert config.rope.theta == 100000.0
    assert config.eos_ids == (2,)
    assert hash(config) == hash(ModelConfig.from_hf(SMOLLM2))


@pytest.mark.parametrize(
    "kind",
    [
        transformers.LlamaConfig(**SMALL, tie_word_embeddings=True, eos_token_id=[5, 6]),
        transformers.LlamaConfig(
            **SMALL,
            rope_parameters={"rope_theta": 5e5, "rope_type": "yarn", "factor": 2.0},
            max_position_embeddings=512,
        ),
        transformers.MistralConfig(**SMALL, head_dim=16, sliding_window=7),
        transformers.MistralConfig(**SMALL, sliding_window=None),
        transformers.Qwen2Config(**SMALL),
        transformers.Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=9, max_window_layers=0),
        transformers.Qwen3Config(**SMALL),
        transformers.Qwen3Config(**SMALL, use_sliding_window=True, sliding_window=9, max_window_layers=1),
        transformers.GraniteConfig(
            **SMALL, embedding_multiplier=12, attention_multiplier=0.015625, residual_multiplier=0.22, logits_scaling=8
        ),
        transformers.SmolLM3Config(**SMALL, no_rope_layer_interval=2),
        transformers.SmolLM3Config(**SMALL, no_rope_layers=[1, 0], use_sliding_window=True, sliding_window=7),
        transformers.Olmo2Config(**SMALL),
        transformers.GemmaConfig(**SMALL),
        transformers.Gemma2Config(**SMALL, query_pre_attn_scalar=144),
        transformers.Gemma3TextConfig(**SMALL, sliding_window=512, query_pre_attn_scalar=168),
        transformers.Phi3Config(
            **SMALL,
            sliding_window=2047,
            max_position_embeddings=131072,
            rope_parameters={"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4},
        ),
    ],
    ids=lambda c: c.model_type,
)
def test_a_written_config_means_the_same_to_transformers(kind, tmp_path):
    kind.architectures = [type(kind).__name__.replace("TextConfig", "Config").replace("Config", "ForCausalLM")]
    ours = ModelConfig.from_hf(json.loads(kind.to_json_string(use_diff=False)))
    (tmp_path / "config.json").write_text(json.dumps(ours.to_hf()))
    again = transformers.AutoConfig.from_pretrained(tmp_path)
    for key in [*SMALL, "rms_norm_eps", "tie_word_embeddings", "max_position_embeddings", "eos_token_id"]:
        assert getattr(again, key) == getattr(kind, key), key
    windows = ("sliding_window", "layer_types", "no_rope_layers", "original_max_position_embeddings")
    scores = ("query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping")
    for key in (*windows, *scores, *MULTIPLIERS, "hidden_act", "hidden_activation"):
        if hasattr(kind, key):
            assert getattr(again, key) == getattr(kind, key), key
    for key, value in kind.rope_parameters.items():
        assert again.rope_parameters[key] == value, key
    assert ModelConfig.from_hf(again.to_dict()) == ours


def test_an_unsupported_architecture_is_named_with_the_supported_ones():
    with pytest.raises(BadInput) as error:
        ModelConfig.from_hf({**SMOLLM2, "architectures": ["GPT2LMHeadModel"]})
    assert "GPT2LMHeadModel" in str(error.value)
    assert "LlamaForCausalLM" in str(error.value)
    assert "Qwen3ForCausalLM" in str(error.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"attention_bias": True}, "attention_bias"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"hidden_size": None}, "hidden_size"),
        ({"num_key_value_heads": 4}, "num_kv_heads"),
        ({"rope_scaling": {"type": "su", "factor": 2.0}}, "su"),
        ({"sliding_window": 9}, "sliding_window"),
        ({"attention_dropout": 0.1}, "attention_dropout"),
        ({"logits_scaling": 8.0}, "logits_scaling=8.0"),  # Granite's
        ({"frobnication": 0.5}, "frobnication=0.5"),
        ({"layer_types": ["full_attention"] * 30}, "layer_types"),
        ({"rope_interleaved": True}, "rope_interleaved"),
    ],
)
def test_options_that_would_change_the_result_are_refused(change, named):
    with pytest.raises(BadInput, match=named):
        ModelConfig.from_hf({**SMOLLM2, **change})


@pytest.mark.parametrize(
    ("kind", "change", "named"),
    [
        ("Gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("Gemma2", {"hidden_activation": "silu"}, "hidden_activation"),
        ("Gemma2", {"layer_types": ["full_attention", "chunked_attention"]}, "chunked_attention"),
        ("Gemma3Text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ("Granite", {"mlp_bias": True}, "mlp_bias"),
        ("Granite", {"shared_intermediate_size": 64}, "shared_intermediate_size"),  # the mixtures' and hybrids'
        ("Phi3", {"resid_pdrop": 0.1}, "resid_pdrop"),
        ("Phi3", {"rope_parameters": {"partial_rotary_factor": 0.75}}, "partial_rotary_factor"),  # Phi-4-mini
        ("SmolLM3", {"no_rope_layers": [1, 0, 1]}, "no_rope_layers"),
        ("Qwen2", {"layer_types": ["full_attention", "sliding_attention"]}, "sliding"),  # use_sliding_window is off
        ("Olmo2", {"clip_qkv": 8.0}, "clip_qkv"),  # OLMo's
    ],
)
def test_a_field_of_a_family_that_the_engine_does_not_compute_is_refused_by_name(kind, change, named):
    config = json.loads(getattr(transformers, f"{kind}Config")(**SMALL).to_json_string(use_diff=False))
    config |= {"architectures": [f"{kind.removesuffix('Text')}ForCausalLM"]}
    assert ModelConfig.from_hf(config).num_layers == 2
    with pytest.raises(BadInput, match=named):
        ModelConfig.from_hf({**config, **change})


@pytest.mark.parametrize("field", ["unsloth_version", "use_cache", "pretraining_tp", "auto_map", "num_beams"])
def test_a_field_that_leaves_the_numbers_alone_is_accepted(field):
    assert ModelConfig.from_hf({**SMOLLM2, field: "whatever"}) == ModelConfig.from_hf(SMOLLM2)


def test_a_field_that_is_null_is_one_that_is_not_there():
    assert ModelConfig.from_hf({**SMOLLM2, "frobnication": None}) == ModelConfig.from_hf(SMOLLM2)


def test_layers_that_differ_are_told_apart_by_window_and_rope():
    small = {**SMALL, "num_hidden_layers": 4}
    config = json.loads(transformers.Gemma3TextConfig(**small, sliding_window_pattern=2).to_json_string(use_diff=False))
    model = ModelConfig.from_hf({**config, "architectures": ["Gemma3ForCausalLM"]})
    assert [kind.window for kind in model.layer_kinds] == [4096, None, 4096, None]
    assert [kind.rope.theta for kind in model.kinds] == [1e4, 1e6]
    config = {**SMOLLM2, "architectures": ["SmolLM3ForCausalLM"], "num_hidden_layers": 8}
    model = ModelConfig.from_hf(config)
    assert [kind.rope is None for kind in model.layer_kinds] == [False, False, False, True] * 2
    assert len(ModelConfig.from_hf({**config, "no_rope_layers": [1] * 8}).kinds) == 1


def test_a_gemma_3_of_transformers_4_is_read_as_its_successor_is():
    new = transformers.Gemma3TextConfig(
        **SMALL,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    )
    new = {**json.loads(new.to_json_string(use_diff=False)), "architectures": ["Gemma3ForCausalLM"]}
    old = {name: value for name, value in new.items() if name not in ("rope_parameters", "layer_types")}
    old |= {"rope_theta": 1000000, "rope_local_base_freq": 10000, "sliding_window_pattern": 6}
    old |= {"rope_scaling": {"factor": 8.0, "rope_type": "linear"}}
    assert ModelConfig.from_hf(old) == ModelConfig.from_hf(new)
    assert ModelConfig.from_hf(new).longest_sequence == 131072, "the stretched length already"


_WINDOWS = [{}, {"use_sliding_window": True, "max_window_layers": 0}, {"sliding_window": None}]


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        *itertools.product(["Qwen2", "Qwen3"], _WINDOWS),
        *itertools.product(["Llama", "Mistral", "Phi3"], [{}, {"sliding_window": None}]),
        *((kind, {}) for kind in ("Granite", "SmolLM3", "Olmo2", "Gemma", "Gemma2", "Gemma3Text")),
    ],
)
def test_a_key_that_is_not_there_means_what_it_means_to_transformers(kind, more):
    raw = {
        "architectures": [f"{kind.removesuffix('Text')}ForCausalLM"], "vocab_size": 64, "hidden_size": 256,
        "intermediate_size": 48, "num_hidden_layers": 6, "num_attention_heads": 32, **more,
    }  # fmt: skip
    theirs, ours = getattr(transformers, f"{kind}Config").from_dict(dict(raw)), ModelConfig.from_hf(raw)
    caps = ("attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar", "layer_types")
    written = ours.to_hf()
    for key in (*MULTIPLIERS, *caps, "no_rope_layers"):
        assert written.get(key, getattr(theirs, key, None)) == getattr(theirs, key, None), key
    assert ours.num_kv_heads == theirs.num_key_value_heads
    assert ours.head_dim == (getattr(theirs, "head_dim", None) or 256 // 32)
    assert ours.max_position_embeddings == theirs.max_position_embeddings
    if kind != "SmolLM3" or theirs.use_sliding_window:
        assert ours.sliding_window == getattr(theirs, "sliding_window", None)
    assert (ours.rms_norm_eps, ours.tie_embeddings) == (theirs.rms_norm_eps, theirs.tie_word_embeddings)
    rope = theirs.rope_parameters
    assert ours.rope.theta == rope.get("full_attention", rope)["rope_theta"]


@pytest.mark.parametrize(
    ("maximum", "rope", "longest"),
    [
        (4096, {"rope_type": "linear", "factor": 4.0}, 16384),  # Vicuna 16k
        (2048, {"type": "dynamic", "factor": 2.0}, 4096),
        (32768, {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, 131072),  # Qwen2.5
        (32768, {"type": "yarn", "factor": 4.0}, 131072),
        (163840, {"type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096}, 163840),
        (131072, {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}, 131072),
        (8192, None, 8192),
    ],
)
def test_the_longest_sequence_is_the_stretched_one(maximum, rope, longest):
    raw = {**SMOLLM2, "max_position_embeddings": maximum, "rope_scaling": rope}
    assert ModelConfig.from_hf(raw).longest_sequence == longest


@pytest.mark.parametrize(
    ("targets", "exclude"),
    [
        ("all-linear", None),
        (["q_proj", "v_proj"], None),
        (["proj"], ["down_proj"]),
        (r".*\.mlp\.\w+_proj", None),
        ([*"abc", "up_proj", "self_attn.o_proj"], None),
        ("all-linear", ["gate_proj", "k_proj"]),
        (r".*_proj", r".*layers\.\d+\.mlp.*"),
    ],
)
def test_targets_are_the_modules_that_peft_would_adapt(targets, exclude):
    config = LoraConfig(target_modules=targets, exclude_modules=exclude)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL))
    try:
        adapted = get_peft_model(
            model, PeftLora(target_modules=targets, exclude_modules=exclude, task_type="CAUSAL_LM")
        )
    except ValueError:
        with pytest.raises(BadInput):
            config.targets(layers(2))
        return
    names = [n for n, _ in adapted.named_parameters() if "lora_A" in n]
    want = {short for short, p in linear_layers(layers(2)).items() if any(f"{p.module(0)}." in n for n in names)}
    assert set(config.targets(layers(2))) == want


def test_targets_in_some_layers_only_and_no_targets_are_refused():
    with pytest.raises(BadInput, match="1 of 2 layers"):
        LoraConfig(target_modules=r".*layers\.0\..*q_proj").targets(layers(2))
    with pytest.raises(BadInput, match="matches no linear layer"):
        LoraConfig(target_modules=["lm_head"]).targets(layers(2))


def test_rslora_is_written_with_its_scale_in_alpha():
    config = LoraConfig(rank=64, alpha=64, use_rslora=True, target_modules=["v_proj", "q_proj"])
    assert config.scale == 8.0
    written = config.to_peft(layers(2), "base")
    assert written["use_rslora"] is False
    assert written["lora_alpha"] / written["r"] == config.scale
    again = LoraConfig.from_peft(written)
    assert again.scale == config.scale
    assert again.targets(layers(2)) == config.targets(layers(2)) == ("q", "v")
    assert PeftLora(**{k: v for k, v in written.items() if k != "peft_type"}).r == 64


@pytest.mark.parametrize("key", ["use_dora", "modules_to_save", "rank_pattern"])
def test_adapters_that_are_more_than_plain_lora_are_refused(key):
    value = {"use_dora": True, "modules_to_save": ["lm_head"], "rank_pattern": {"q_proj": 4}}[key]
    with pytest.raises(BadInput, match=key):
        LoraConfig.from_peft({"peft_type": "LORA", "target_modules": ["q_proj"], key: value})


def test_layer_ranges_are_pefts():
    config = LoraConfig(target_modules=("q_proj",), layers_to_transform=[2, 0, 2])
    assert config.layers(3) == (0, 2)
    assert LoraConfig().layers(3) == (0, 1, 2)
    assert config.to_peft(layers(3))["layers_to_transform"] == [0, 2]
    assert LoraConfig.from_peft(config.to_peft(layers(3))) == config
    with pytest.raises(BadInput, match="numbers below 2"):
        config.layers(2)
    for wrong in ([], [-1], ["0"]):
        with pytest.raises(BadInput, match="layers_to_transform"):
            LoraConfig(layers_to_transform=wrong)


def test_the_jora_preset_is_rank_16_on_q_and_v():
    preset = LoraConfig.preset("jora")
    assert (preset.rank, preset.alpha, preset.scale, preset.targets(layers(3))) == (16, 16.0, 1.0, ("q", "v"))
    with pytest.raises(BadInput, match="jora"):
        LoraConfig.preset("jorra")


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(BadInput, match="learning_rate"):
        TrainConfig.from_dict({"learning_rat": 1e-4})
    with pytest.raises(BadInput, match="dropout"):
        LoraConfig.from_dict({"drop_out": 0.1})
    assert LoraConfig.from_dict({"r": 8, "lora_alpha": 32}).scale == 4.0
    with pytest.raises(BadInput, match="twice"):
        LoraConfig.from_dict({"r": 8, "rank": 8})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("learning_rate", 0),
        ("schedule", "step"),
        ("warmup_ratio", 1.5),
        ("accumulation", 0),
        ("micro_batch_rows", 1.5),
        ("dtype", "float16"),
        ("remat", "full"),
        ("max_steps", 0),
        ("beta2", 1.0),
        ("clip_norm", 0),
        ("seed", "x"),
        ("eps", "1e-8"),
    ],
)
def test_values_out_of_range_are_refused_by_name(key, value):
    with pytest.raises(BadInput, match="TrainConfig" if (key, value) == ("eps", "1e-8") else key):
        TrainConfig.from_dict({key: value})


@pytest.mark.parametrize(("key", "value"), [("rank", 0), ("alpha", 0), ("dropout", 1), ("target_modules", "(")])
def test_adapter_values_out_of_range_are_refused_by_name(key, value):
    with pytest.raises(BadInput, match=key):
        LoraConfig.from_dict({key: value})

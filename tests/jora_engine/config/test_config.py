"""Model, adapter and training configuration: what is read, what is refused, what is written."""

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
    ],
    ids=lambda c: c.model_type,
)
def test_a_written_config_means_the_same_to_transformers(kind, tmp_path):
    kind.architectures = [type(kind).__name__.replace("Config", "ForCausalLM")]
    ours = ModelConfig.from_hf(json.loads(kind.to_json_string(use_diff=False)))
    (tmp_path / "config.json").write_text(json.dumps(ours.to_hf()))
    again = transformers.AutoConfig.from_pretrained(tmp_path)
    for key in [*SMALL, "rms_norm_eps", "tie_word_embeddings", "max_position_embeddings", "eos_token_id"]:
        assert getattr(again, key) == getattr(kind, key), key
    assert getattr(again, "sliding_window", None) == getattr(kind, "sliding_window", None)
    assert getattr(again, "layer_types", None) == getattr(kind, "layer_types", None)
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
    ],
)
def test_options_that_would_change_the_result_are_refused(change, named):
    with pytest.raises(BadInput, match=named):
        ModelConfig.from_hf({**SMOLLM2, **change})


def test_a_window_on_some_layers_only_is_refused():
    config = transformers.Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=9, max_window_layers=1)
    config.architectures = ["Qwen2ForCausalLM"]
    with pytest.raises(BadInput, match="some layers"):
        ModelConfig.from_hf(config.to_dict())


@pytest.mark.parametrize("kind", ["Llama", "Mistral", "Qwen2", "Qwen3"])
@pytest.mark.parametrize("more", [{}, {"use_sliding_window": True, "max_window_layers": 0}, {"sliding_window": None}])
def test_a_key_that_is_not_there_means_what_it_means_to_transformers(kind, more):
    raw = {
        "architectures": [f"{kind}ForCausalLM"], "vocab_size": 64, "hidden_size": 256, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 32, **more,
    }  # fmt: skip
    theirs, ours = getattr(transformers, f"{kind}Config").from_dict(dict(raw)), ModelConfig.from_hf(raw)
    assert ours.num_kv_heads == theirs.num_key_value_heads
    assert ours.head_dim == (getattr(theirs, "head_dim", None) or 256 // 32)
    assert ours.max_position_embeddings == theirs.max_position_embeddings
    assert ours.sliding_window == getattr(theirs, "sliding_window", None)
    assert (ours.rms_norm_eps, ours.tie_embeddings) == (theirs.rms_norm_eps, theirs.tie_word_embeddings)
    assert ours.rope.theta == theirs.rope_parameters["rope_theta"]


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

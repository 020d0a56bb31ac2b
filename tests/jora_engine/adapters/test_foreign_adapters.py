"""Adapters of others: taken where PEFT computes plain LoRA, and refused by the name of the field where it does not."""

import dataclasses
import json
import shutil

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from jora_engine.adapters.merged_model import write_merged
from jora_engine.adapters.peft_folder import read_adapter, read_adapter_config
from jora_engine.config import peft_fields
from jora_engine.config.lora import LoraConfig
from jora_engine.files.weights import load_params, read_model_config
from raft_errors import BadInput

IDS = torch.tensor([[5, 9, 33, 70, 2, 41, 8, 8, 60, 11]])
PLAIN = {"peft_type": "LORA", "target_modules": ["q_proj"], "r": 4, "lora_alpha": 8}


def test_every_field_of_the_installed_peft_is_known():
    """A field that a later PEFT adds must be looked at: applied, harmless, or refused unless it is switched off."""
    known = peft_fields.APPLIED | peft_fields.DESCRIPTIVE | set(peft_fields.NEUTRAL)
    assert {field.name for field in dataclasses.fields(peft.LoraConfig)} - known == set()
    lists = [peft_fields.APPLIED, peft_fields.DESCRIPTIVE, set(peft_fields.NEUTRAL)]
    assert sum(map(len, lists)) == len(known), "each stands in one list"
    peft_fields.require_plain(json.loads(json.dumps(peft.LoraConfig(target_modules="q_proj").to_dict())))


OTHERS = [
    ("init_lora_weights", "pissa"),
    ("init_lora_weights", "pissa_niter_16"),
    ("init_lora_weights", "olora"),
    ("init_lora_weights", "eva"),
    ("init_lora_weights", "corda"),
    ("init_lora_weights", "loftq"),
    ("init_lora_weights", "lora_ga"),
    ("init_lora_weights", "mica"),
    ("init_lora_weights", "something_new"),
    ("alora_invocation_tokens", [1, 2]),
    ("alora_invocation_tokens", []),
    ("layer_replication", [[0, 2], [1, 2]]),
    ("use_bdlora", {"nblocks": 2}),
    ("kasa_config", {}),
    ("velora_config", {"rank": 1}),
    ("monteclora_config", {"n": 4}),
    ("arrow_config", {"top_k": 2}),
    ("eva_config", {"rho": 2.0}),
    ("corda_config", {"corda_method": "kpm"}),
    ("lora_ga_config", {"direction": "ArB2r"}),
    ("loftq_config", {"loftq_bits": 4}),
    ("megatron_config", {"hidden_size": 32}),
    ("use_dora", True),
    ("use_qalora", True),
    ("lora_bias", True),
    ("bias", "all"),
    ("fan_in_fan_out", True),
    ("modules_to_save", ["lm_head"]),
    ("trainable_token_indices", [7]),
    ("trainable_token_indices", {"embed_tokens": [7]}),
    ("target_parameters", ["mlp.experts.gate_up_proj"]),
    ("ensure_weight_tying", True),
    ("rank_pattern", {"q_proj": 2}),
    ("alpha_pattern", {"q_proj": 2}),
    ("layers_pattern", "h"),
    ("task_type", "SEQ_CLS"),
    ("peft_type", "LOHA"),
    ("a_field_of_next_year", True),
    ("a_field_of_next_year", "on"),
    ("a_field_of_next_year", 0),
    ("a_field_of_next_year", {"rate": 1}),
]


def test_every_field_that_must_be_neutral_is_tried():
    assert {name for name, _ in OTHERS} >= set(peft_fields.NEUTRAL)


@pytest.mark.parametrize(("field", "value"), OTHERS)
def test_a_field_that_changes_the_result_is_refused_by_name(field, value):
    with pytest.raises(BadInput, match=rf"{field}=") as refusal:
        LoraConfig.from_peft({**PLAIN, field: value})
    assert refusal.value.do


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("init_lora_weights", "gaussian"),
        ("init_lora_weights", False),
        ("peft_version", "0.99.0"),
        ("megatron_core", "megatron.other"),
        ("qalora_group_size", 32),
        ("runtime_config", {"ephemeral_gpu_offload": True}),
        ("auto_mapping", {"base_model_class": "LlamaForCausalLM", "unsloth_fixed": True}),
        ("layers_pattern", ["layers"]),
        ("a_field_of_next_year", None),
        ("a_field_of_next_year", False),
        ("a_field_of_next_year", {}),
    ],
)
def test_a_field_that_leaves_the_numbers_alone_is_taken(field, value):
    assert LoraConfig.from_peft({**PLAIN, field: value}) == LoraConfig.from_peft(PLAIN)


@pytest.mark.parametrize(
    ("field", "value"),
    [("lora_alpha", "8"), ("lora_dropout", "none"), ("use_rslora", "false"), ("r", 4.5), ("target_modules", None)],
)
def test_a_value_of_the_wrong_kind_is_refused_by_name(field, value):
    with pytest.raises(BadInput, match="rank" if field == "r" else field):
        LoraConfig.from_peft({**PLAIN, field: value})


def base(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.fixture
def foreign(model_folder, tmp_path):
    """`foreign(init_lora_weights="gaussian")`: an adapter that PEFT made and saved, its B not zero."""

    def make(**options):
        torch.manual_seed(1)
        settings = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], **options)
        model = peft.get_peft_model(base(model_folder("llama")), settings)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.2)
        model.save_pretrained(tmp_path / "foreign")
        return tmp_path / "foreign"

    return make


@pytest.mark.parametrize("init", [True, "gaussian", "orthogonal"])
def test_adapters_whose_first_values_alone_differ_compute_what_peft_computes(init, foreign, model_folder, tmp_path):
    folder, adapter = model_folder("llama"), foreign(init_lora_weights=init)
    assert json.loads((adapter / "adapter_config.json").read_text())["init_lora_weights"] == init
    model = read_model_config(folder)
    write_merged(folder, *read_adapter(adapter, model), model, tmp_path / "merged")
    with torch.no_grad():
        theirs = peft.PeftModel.from_pretrained(base(folder), adapter)(IDS).logits
        ours, plain = base(tmp_path / "merged")(IDS).logits, base(folder)(IDS).logits
    assert (theirs - plain).abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options", [{"init_lora_weights": "pissa"}, {"init_lora_weights": "olora"}, {"alora_invocation_tokens": [8]}]
)
def test_adapters_that_are_no_sum_with_the_base_are_refused_with_their_folder(options, foreign, model_folder):
    adapter = foreign(task_type="CAUSAL_LM", **options)
    with pytest.raises(BadInput, match=next(iter(options))) as refusal:
        read_adapter(adapter, read_model_config(model_folder("llama")))
    assert str(adapter) in str(refusal.value)


@pytest.mark.parametrize(
    "second",
    [
        "adapter_model.bin",
        "adapter_model.pt",
        "model.safetensors",
        "pytorch_model.bin",
        "adapter_model.fp16.safetensors",
        "adapter_model-00001-of-00002.safetensors",
    ],
)
def test_two_sets_of_weights_in_an_adapters_folder_are_refused(second, foreign):
    adapter = foreign()
    shutil.copy(adapter / "adapter_model.safetensors", adapter / second)
    with pytest.raises(BadInput, match="several sets of weights"):
        read_adapter_config(adapter)


def test_what_a_trainer_leaves_beside_an_adapter_is_no_second_set(foreign):
    adapter = foreign()
    for name in ("optimizer.pt", "scheduler.pt", "training_args.bin", "rng_state.pth", "tokenizer.model", "notes.bin"):
        (adapter / name).write_bytes(b"x")
    (adapter / "checkpoint-8").mkdir()
    assert read_adapter_config(adapter).rank == 4


def test_weights_in_another_form_and_none_are_refused_with_what_to_do(foreign):
    adapter = foreign()
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(BadInput, match=r"holds adapter_model\.bin.*save it again"):
        read_adapter_config(adapter)
    (adapter / "adapter_model.bin").unlink()
    with pytest.raises(BadInput, match="no weights of an adapter"):
        read_adapter_config(adapter)


@pytest.mark.slow
def test_two_sets_of_weights_in_a_bases_folder_are_refused(model_folder, tmp_path):
    """transformers takes the single file, other programs the shards of the index."""
    folder = model_folder("llama")
    base(folder).save_pretrained(tmp_path, max_shard_size="30KB")
    config = read_model_config(tmp_path)
    load_params(tmp_path, config)
    shutil.copy(folder / "model.safetensors", tmp_path)
    with pytest.raises(BadInput, match="two sets of weights"):
        load_params(tmp_path, config)


def test_a_base_that_holds_an_adapter_is_refused(model_folder, tmp_path):
    """transformers reads such a folder as the adapter on the base that it names."""
    folder = shutil.copytree(model_folder("llama"), tmp_path / "base")
    (folder / "adapter_config.json").write_text(json.dumps(PLAIN))
    with pytest.raises(BadInput, match=r"adapter_config\.json"):
        read_model_config(folder)

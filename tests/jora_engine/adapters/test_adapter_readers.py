"""Which programs read an adapter as it is meant, and the form that all of them read: the same function, plain LoRA."""

import json

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from jora_engine.adapters.canonical import write_canonical
from jora_engine.adapters.consumers import CONSUMERS, check_consumers, read_facts, verdict
from jora_engine.adapters.peft_folder import read_adapter
from jora_engine.files.weights import read_model_config
from raft_errors import BadInput

IDS = torch.tensor([[5, 9, 33, 70, 2, 41, 8, 8, 60, 11]])


def base(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


@pytest.fixture
def adapter(model_folder, tmp_path):
    """`adapter(r=4, ...)`: a folder as PEFT saves it, its B not zero."""

    def make(**options):
        torch.manual_seed(1)
        settings = {
            "r": 4,
            "lora_alpha": 6,
            "target_modules": ["q_proj", "v_proj"],
            "task_type": "CAUSAL_LM",
            **options,
        }
        model = peft.get_peft_model(base(model_folder("llama")), peft.LoraConfig(**settings))
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.2)
        model.save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter"

    return make


def verdicts(folder, model_folder):
    findings = check_consumers(read_facts(folder, read_model_config(model_folder("llama"))))
    return {name: verdict(findings, name) for name in CONSUMERS}


def told(peft, vllm, lorax, tgi, sglang, llama_cpp):
    return dict(zip(CONSUMERS, (peft, vllm, lorax, tgi, sglang, llama_cpp), strict=True))


OK, MENDED, REFUSED = "ok", "mended", "refused"
CASES = [  # what PEFT can save, and who reads it as it is meant
    ({}, told(OK, OK, OK, OK, OK, OK)),
    ({"use_rslora": True}, told(OK, OK, OK, OK, MENDED, MENDED)),
    ({"rank_pattern": {"v_proj": 2}}, told(OK, MENDED, MENDED, MENDED, MENDED, OK)),
    ({"alpha_pattern": {"v_proj": 12}}, told(OK, MENDED, MENDED, MENDED, MENDED, MENDED)),
    ({"layers_to_transform": [0, 2]}, told(OK, OK, MENDED, MENDED, MENDED, OK)),
    ({"target_modules": r".*layers\.[02]\..*(q|v)_proj"}, told(OK, MENDED, MENDED, MENDED, MENDED, OK)),
    ({"use_dora": True}, told(OK, *[REFUSED] * 5)),
    ({"bias": "lora_only"}, told(OK, *[REFUSED] * 5)),
    ({"modules_to_save": ["lm_head"]}, told(OK, *[REFUSED] * 5)),
    ({"init_lora_weights": "olora"}, told(OK, *[REFUSED] * 5)),
    ({"alora_invocation_tokens": [8]}, told(OK, REFUSED, REFUSED, REFUSED, REFUSED, OK)),
    ({"target_modules": ["q_proj", "embed_tokens"]}, told(OK, OK, REFUSED, REFUSED, REFUSED, OK)),
    ({"target_modules": ["q_proj", "lm_head"]}, told(OK, OK, OK, REFUSED, REFUSED, OK)),
    ({"r": 200}, told(OK, OK, REFUSED, REFUSED, OK, OK)),
    ({"r": 600}, told(OK, REFUSED, REFUSED, REFUSED, OK, OK)),
]


@pytest.mark.parametrize(("options", "want"), CASES, ids=[str(options) for options, _ in CASES])
def test_each_program_s_loader_decides(options, want, adapter, model_folder):
    assert verdicts(adapter(**options), model_folder) == want


@pytest.mark.parametrize(
    "options",
    [
        {"use_rslora": True},
        {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {r"layers\.1\.self_attn\.q_proj": 20}},
        {"rank_pattern": {"v_proj": 7}, "use_rslora": True, "lora_dropout": 0.1},
        {"target_modules": r".*layers\.[02]\..*(q|v)_proj", "alpha_pattern": {"v_proj": 5}},
        {"layers_to_transform": [1], "init_lora_weights": "gaussian"},
    ],
    ids=str,
)
def test_what_is_mended_computes_what_it_computed_and_is_read_by_all(options, adapter, model_folder, tmp_path):
    folder, whole = model_folder("llama"), adapter(**options)
    model = read_model_config(folder)
    (whole / "raft.json").write_text('{"base_model": "x"}')
    findings = write_canonical(whole, model, tmp_path / "out")
    assert {verdict(findings, name) for name in CONSUMERS} == {OK}
    before, after = (logits(peft.PeftModel.from_pretrained(base(folder), place)) for place in (whole, tmp_path / "out"))
    assert (before - logits(base(folder))).abs().max() > 0.05
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["use_rslora"], config["rank_pattern"], config["alpha_pattern"]) == (False, {}, {})
    assert (config["layers_to_transform"], config["init_lora_weights"]) == (None, True)
    lora, read = read_adapter(tmp_path / "out", model)
    assert read.rank == max(4, options.get("rank_pattern", {}).get("v_proj", 0))
    assert set(lora) == {"q", "v"}
    assert json.loads((tmp_path / "out" / "raft.json").read_text()) == {"base_model": "x"}


@pytest.mark.parametrize(
    "options",
    [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"target_modules": ["q_proj", "embed_tokens"]}, {"r": 600}],
    ids=str,
)
def test_what_no_plain_adapter_can_mean_is_not_written(options, adapter, model_folder, tmp_path):
    folder = adapter(**options)
    with pytest.raises(BadInput, match="cannot be written as plain LoRA"):
        write_canonical(folder, read_model_config(model_folder("llama")), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(BadInput, match="own folder"):
        write_canonical(folder, read_model_config(model_folder("llama")), folder)


@pytest.mark.parametrize(
    ("rank", "flag"), [(4, "ok"), (16, "ok"), (17, "--max-lora-rank 32"), (300, "--max-lora-rank 320")]
)
def test_vllm_is_told_the_smallest_limit_that_it_knows(rank, flag, adapter, model_folder):
    findings = check_consumers(read_facts(adapter(r=rank), read_model_config(model_folder("llama"))))
    assert findings[-1].verdicts["vllm"] == flag


def test_a_head_that_the_base_ties_is_none_for_llama_cpp(model_folder, tmp_path):
    folder = model_folder("smollm2")
    model = peft.get_peft_model(base(folder), peft.LoraConfig(r=2, target_modules=["q_proj", "lm_head"]))
    model.save_pretrained(tmp_path / "a")
    findings = check_consumers(read_facts(tmp_path / "a", read_model_config(folder)))
    assert verdict(findings, "llama.cpp") == REFUSED


@pytest.mark.parametrize(
    ("change", "named"), [("shape", "has shape"), ("missing", "is missing"), ("second", "weights in")]
)
def test_a_folder_that_is_no_whole_adapter_of_this_base_is_refused(change, named, adapter, model_folder):
    folder = adapter()
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    key = next(k for k in tensors if k.endswith("lora_B.weight"))
    if change == "shape":
        tensors[key] = torch.zeros(7, 4)
    elif change == "missing":
        del tensors[key]
    else:
        (folder / "adapter_model.bin").write_bytes(b"")
    save_file(tensors, file)
    with pytest.raises(BadInput, match=named):
        read_facts(folder, read_model_config(model_folder("llama")))

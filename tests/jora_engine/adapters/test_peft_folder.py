"""Exported adapters and merged models mean to PEFT and transformers what they mean to the engine."""

import json
import shutil

import jax
import ml_dtypes
import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from jora_engine.adapters.merged_model import write_merged
from jora_engine.adapters.peft_folder import read_adapter, write_adapter
from jora_engine.config.lora import LoraConfig
from jora_engine.files.tokenizer import Tokenizer
from jora_engine.files.weights import read_model_config
from jora_engine.model.lora import init_lora
from raft_errors import BadInput

IDS = torch.tensor([[5, 9, 33, 70, 2, 41, 8, 8, 60, 11]])


def random_lora(config, model, seed=0):
    """An adapter whose B is not zero, so that it changes the function."""
    rng = np.random.default_rng(seed)
    tree = init_lora(config, model, seed)
    return jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(np.float32), tree)


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def base(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.slow
def test_peft_and_the_merged_model_agree_for_every_family(any_model, rslora, tmp_path):
    model = read_model_config(any_model)
    config = LoraConfig(rank=4, alpha=6, use_rslora=rslora)
    lora = random_lora(config, model)
    write_adapter(tmp_path / "adapter", lora, config, model, "some/base")
    write_merged(any_model, lora, config, model, tmp_path / "merged")
    plain = logits(base(any_model))
    adapted = logits(peft.PeftModel.from_pretrained(base(any_model), tmp_path / "adapter"))
    merged = logits(base(tmp_path / "merged"))
    assert (adapted - plain).abs().max() > 0.1
    torch.testing.assert_close(adapted, merged, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_an_adapter_comes_back_as_it_was(model_folder, tmp_path):
    model = read_model_config(model_folder("qwen3"))
    config = LoraConfig(rank=3, alpha=9, target_modules=("q_proj", "down_proj"))
    lora = random_lora(config, model)
    write_adapter(tmp_path / "a", lora, config, model, "b", {"base_digest": "abc", "run": {"seed": 1}})
    again, read = read_adapter(tmp_path / "a", model, base_digest="abc")
    jax.tree.map(np.testing.assert_array_equal, lora, again)
    assert (read.rank, read.scale, read.targets(model)) == (3, 3.0, ("q", "down"))
    assert json.loads((tmp_path / "a" / "raft.json").read_text())["run"] == {"seed": 1}


def test_an_adapter_of_peft_is_read_for_every_family(any_model, tmp_path):
    folder = any_model
    options = peft.LoraConfig(r=5, lora_alpha=7, target_modules="all-linear", use_rslora=True)
    adapted = peft.get_peft_model(base(folder), options)
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.1)
    adapted.save_pretrained(tmp_path / "peft")
    model = read_model_config(folder)
    lora, config = read_adapter(tmp_path / "peft", model)
    assert config.scale == pytest.approx(7 / 5**0.5)
    write_merged(folder, lora, config, model, tmp_path / "merged")
    torch.testing.assert_close(logits(base(tmp_path / "merged")), logits(adapted), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_an_adapter_on_some_layers_is_pefts(model_folder, tmp_path):
    """Trained or not, layers outside the range stay as the base has them; PEFT writes and reads the same keys."""
    folder = model_folder("llama")
    model = read_model_config(folder)
    config = LoraConfig(rank=2, alpha=4, target_modules=("q_proj", "up_proj"), layers_to_transform=(0, 2))
    start = init_lora(config, model, 0)
    assert not np.asarray(start["q"]["a"][1]).any()
    lora = jax.tree.map(lambda x: np.array(x) + np.float32(0.1), start)
    for leaf in jax.tree.leaves(lora):
        leaf[1] = 0
    write_adapter(tmp_path / "a", lora, config, model, "b")
    options = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "up_proj"], layers_to_transform=[0, 2])
    theirs = peft.get_peft_model(base(folder), options)
    theirs.save_pretrained(tmp_path / "theirs")
    ours, same = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("a", "theirs"))
    assert set(ours) == set(same)
    again, read = read_adapter(tmp_path / "a", model)
    assert read.layers_to_transform == (0, 2)
    jax.tree.map(np.testing.assert_array_equal, lora, again)
    write_merged(folder, lora, config, model, tmp_path / "merged")
    adapted = logits(peft.PeftModel.from_pretrained(base(folder), tmp_path / "a"))
    torch.testing.assert_close(adapted, logits(base(tmp_path / "merged")), rtol=1e-4, atol=1e-4)


GOLDEN = [  # facts: PEFT's keys for a two-module adapter, one layer shown
    "base_model.model.model.layers.0.mlp.gate_proj.lora_A.weight",
    "base_model.model.model.layers.0.mlp.gate_proj.lora_B.weight",
    "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
    "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight",
]


def test_the_adapter_folder_has_pefts_keys_and_shapes(model_folder, tmp_path):
    model = read_model_config(model_folder("llama"))
    config = LoraConfig(rank=2, alpha=4, target_modules=("gate_proj", "q_proj"), use_rslora=True)
    write_adapter(tmp_path / "a", random_lora(config, model), config, model, "org/base")
    tensors = load_file(tmp_path / "a" / "adapter_model.safetensors")
    assert sorted(k for k in tensors if ".layers.0." in k) == GOLDEN
    assert len(tensors) == 3 * 4
    assert tensors[GOLDEN[0]].shape == (2, 32)
    assert tensors[GOLDEN[1]].shape == (56, 2)
    written = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert (written["base_model_name_or_path"], written["r"], written["use_rslora"]) == ("org/base", 2, False)
    assert written["lora_alpha"] / 2 == pytest.approx(4 / 2**0.5)
    assert "base_model: org/base" in (tmp_path / "a" / "README.md").read_text()


@pytest.mark.parametrize(("rank", "limit"), [(4, 16), (16, 16), (24, 32), (200, 256)])
def test_the_card_names_a_limit_that_vllm_takes(rank, limit, model_folder, tmp_path):
    model, config = read_model_config(model_folder("llama")), LoraConfig(rank=rank, target_modules=("q_proj",))
    write_adapter(tmp_path / "a", random_lora(config, model), config, model, "org/base")
    assert f"--max-lora-rank {limit} " in (tmp_path / "a" / "README.md").read_text()


@pytest.mark.slow
def test_the_same_input_gives_the_same_bytes_and_replaces_an_older_export(model_folder, tmp_path):
    folder = model_folder("smollm2")
    model, config = read_model_config(folder), LoraConfig(rank=2)
    for name in ("one", "two", "one"):
        write_adapter(tmp_path / name / "adapter", random_lora(config, model), config, model, "b")
        write_merged(folder, random_lora(config, model), config, model, tmp_path / name / "merged")
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file())
    assert len(files) >= 6
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file
    assert not list(tmp_path.rglob(".*"))


def test_merging_adds_in_float32_and_casts_once(model_folder, tmp_path):
    folder = model_folder("smollm2")
    model, config = read_model_config(folder), LoraConfig(rank=2, alpha=3, target_modules=("q_proj",))
    lora = random_lora(config, model)
    half = tmp_path / "half"
    base(folder).to(torch.bfloat16).save_pretrained(half)
    write_merged(half, lora, config, model, tmp_path / "merged", max_shard_bytes=20000)
    assert len(list((tmp_path / "merged").glob("model-*.safetensors"))) > 1
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto")
    assert merged.dtype == torch.bfloat16
    state, original = merged.state_dict(), load_file(half / "model.safetensors")
    name = "model.layers.1.self_attn.q_proj.weight"
    delta = 1.5 * (lora["q"]["b"][1] @ lora["q"]["a"][1])
    want = (original[name].float().numpy() + delta).astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(state[name].float().numpy(), want)
    untouched = "model.layers.1.self_attn.k_proj.weight"
    assert torch.equal(state[untouched], original[untouched])
    write_merged(half, lora, config, model, tmp_path / "full", dtype="float32")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "full", dtype="auto").dtype == torch.float32
    assert "lm_head.weight" not in load_file(tmp_path / "full" / "model.safetensors")


def test_tokenizer_files_and_a_fallback_template_travel_with_the_merged_model(model_folder, tokenizer_folder, tmp_path):
    folder = tokenizer_folder
    for file in model_folder("llama").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    model, config = read_model_config(folder), LoraConfig(rank=2)
    write_merged(folder, random_lora(config, model), config, model, folder / "merged")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (folder / "merged" / name).read_bytes() == (folder / name).read_bytes()
    write_merged(folder, random_lora(config, model), config, model, folder / "merged", chat_template="{{ 1 }}")
    assert (folder / "merged" / "chat_template.jinja").read_text() == "{{ 1 }}"


def test_a_template_of_its_own_takes_the_place_of_the_base_s_wherever_that_is_kept(
    model_folder, tokenizer_folder, tmp_path
):
    folder = tokenizer_folder
    for file in model_folder("llama").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    model, config = read_model_config(folder), LoraConfig(rank=2)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    tool = {"name": "tool_use", "template": "{{ 2 }}"}
    named = [tool, {"name": "default", "template": "{{ 3 }}"}]
    for kept, want in (("{{ 3 }}", "{{ 1 }}"), (named, [tool, {"name": "default", "template": "{{ 1 }}"}])):
        (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": kept}))
        write_merged(folder, random_lora(config, model), config, model, folder / "merged", chat_template="{{ 1 }}")
        assert json.loads((folder / "merged" / "tokenizer_config.json").read_text())["chat_template"] == want


def test_an_adapter_for_another_base_is_refused(model_folder, tmp_path):
    model, other = (read_model_config(model_folder(f)) for f in ("llama", "smollm2"))
    config = LoraConfig(rank=2)
    write_adapter(tmp_path / "a", random_lora(config, model), config, model, "b", {"base_digest": "1" * 64})
    with pytest.raises(BadInput, match="another base"):
        read_adapter(tmp_path / "a", model, base_digest="2" * 64)
    with pytest.raises(BadInput, match="has shape"):
        read_adapter(tmp_path / "a", other)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.pop(GOLDEN[2]), "is missing"),
        (lambda t: t.update(extra=torch.zeros(1)), "extra does not belong"),
        (lambda t: t[GOLDEN[2]].__setitem__((0, 0), float("nan")), "NaN"),
    ],
)
def test_a_damaged_adapter_is_refused_with_the_key_named(change, named, model_folder, tmp_path):
    model, config = read_model_config(model_folder("llama")), LoraConfig(rank=2)
    write_adapter(tmp_path / "a", random_lora(config, model), config, model, "b")
    file = tmp_path / "a" / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    with pytest.raises(BadInput, match=named):
        read_adapter(tmp_path / "a", model)


def test_a_failing_export_leaves_the_old_one(model_folder, tmp_path):
    model, config = read_model_config(model_folder("llama")), LoraConfig(rank=2)
    lora = random_lora(config, model)
    write_adapter(tmp_path / "a", lora, config, model, "b")
    before = (tmp_path / "a" / "adapter_model.safetensors").read_bytes()
    lora["q"]["a"][0, 0, 0] = np.nan
    with pytest.raises(BadInput, match="NaN"):
        write_adapter(tmp_path / "a", lora, config, model, "b")
    assert (tmp_path / "a" / "adapter_model.safetensors").read_bytes() == before
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json", "named"])
def test_a_merged_model_prints_the_date_that_was_trained_with_on_every_day(
    model_folder, tokenizer_folder, tmp_path, place
):
    """The base's chat template prints the day; transformers, asked today, must render what the engine trained on."""
    folder, template = tmp_path / "base", "{{ strftime_now('%d %b %Y') ~ ': ' ~ messages[0]['content'] }}"
    shutil.copytree(model_folder("smollm2"), folder)
    for file in tokenizer_folder.glob("*token*"):
        shutil.copy(file, folder)
    if place == "chat_template.jinja":
        (folder / place).write_text(template)
    else:
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        named = [{"name": "default", "template": template}, {"name": "tool_use", "template": "x"}]
        settings["chat_template"] = named if place == "named" else template
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    model, talk = read_model_config(folder), [{"role": "user", "content": "Hello"}]
    write_merged(folder, random_lora(LoraConfig(rank=2), model), LoraConfig(rank=2), model, tmp_path / "merged")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert theirs.apply_chat_template(talk, tokenize=False) == "26 Jul 2024: Hello"
    assert (
        Tokenizer.load(folder).render(talk) == Tokenizer.load(tmp_path / "merged").render(talk) == "26 Jul 2024: Hello"
    )

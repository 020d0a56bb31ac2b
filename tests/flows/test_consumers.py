"""What a run exports is used by others: transformers, its pipeline, and PEFT, without anything of this project."""

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def export(finished) -> Path:
    project, _ = finished
    rows = {row["stage"]: row for row in project.json("run")["stages"]}
    return Path(rows["export"]["folder"])


@pytest.fixture(scope="module")
def asked(finished) -> list[dict[str, str]]:
    """A test question with its passages, as docs/consumers.md puts it to the model."""
    project, _ = finished
    rows = {row["stage"]: row for row in project.json("run")["stages"]}
    line = (Path(rows["records"]["folder"]) / "test.jsonl").read_text().splitlines()[0]
    record = json.loads(line)
    return [{"role": "user", "content": f"{record['instruction']}\n{record['input']}"}]


def continuation(model, tokenizer, messages, count=8) -> list[int]:
    import torch

    encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        out = model.generate(**encoded, max_new_tokens=count, do_sample=False)
    return out[0, encoded["input_ids"].shape[1] :].tolist()


def test_the_merged_model_answers_in_a_transformers_pipeline(export, asked):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

    folder = str(export / "merged")
    pipe = pipeline("text-generation", model=folder, dtype=torch.float32)
    reply = pipe(asked, max_new_tokens=8, do_sample=False)[0]["generated_text"][-1]
    assert reply["role"] == "assistant"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = continuation(model, tokenizer, asked)
    assert reply["content"] == tokenizer.decode(tokens, skip_special_tokens=True)


def test_the_adapter_on_its_base_says_in_peft_what_the_merged_model_says(export, asked):
    import torch
    from peft import AutoPeftModelForCausalLM, PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    adapter = export / "adapter"
    tokenizer = AutoTokenizer.from_pretrained(export / "merged")
    merged = AutoModelForCausalLM.from_pretrained(export / "merged", dtype=torch.float32)
    wanted = continuation(merged, tokenizer, asked)
    base = json.loads((adapter / "raft.json").read_text())["base_model"]
    on_base = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter)
    assert continuation(on_base.eval(), tokenizer, asked) == wanted
    by_name = AutoPeftModelForCausalLM.from_pretrained(str(adapter), dtype=torch.float32)
    assert continuation(by_name.eval(), tokenizer, asked) == wanted
    assert continuation(by_name.merge_and_unload(), tokenizer, asked) == wanted


def test_transformers_loads_the_adapter_folder_by_itself(export, asked):
    """The folder names its base, so `pipeline(model=<adapter>)` is enough."""
    import torch
    from transformers import pipeline

    merged = pipeline("text-generation", model=str(export / "merged"), dtype=torch.float32)
    wanted = merged(asked, max_new_tokens=8, do_sample=False)[0]["generated_text"][-1]
    pipe = pipeline(
        "text-generation", model=str(export / "adapter"), tokenizer=str(export / "merged"), dtype=torch.float32
    )
    assert pipe(asked, max_new_tokens=8, do_sample=False)[0]["generated_text"][-1] == wanted

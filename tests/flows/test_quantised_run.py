"""A run whose base is packed: trained, exported, evaluated and asked in that precision, which the adapter carries."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import tokenizers
from safetensors.numpy import load_file, save_file

from jora_engine.files.gguf import keep_blocks
from jora_engine.files.tensor_files import GGUF_FILE
from jora_engine.files.weights import load_params, read_model_config
from jora_engine.model.quantised import is_packed

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "jora_engine" / "files"))
import test_gguf

pytestmark = pytest.mark.slow


def as_blocks(base: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base of which there are Q4_1 and Q8_0 blocks alone, as llama.cpp's converter makes them."""
    monkeypatch.setattr(test_gguf, "CHATML", tiny.CHATML)
    names = tokenizers.Tokenizer.from_file(str(base / "tokenizer.json"))
    kinds = test_gguf.Q
    file = test_gguf.write_gguf(
        base, folder.parent / "base.gguf", names, quantise=lambda n: kinds.Q8_0 if "attn_v" in n else kinds.Q4_1
    )
    keep_blocks(file, folder)
    return folder


@pytest.mark.heavy
def test_the_precision_goes_from_the_configuration_to_every_answer(warm):
    warm.values["train"] |= {"base_precision": "nf4", "distil_steps": 2}
    warm.write()
    rows = {row["stage"]: row for row in warm.json("run", "--no-prefect")["stages"]}
    assert {stage: rows[stage]["state"] for stage in ("records", "train", "export", "evaluate")} == {
        "records": "cached",
        "train": "built",
        "export": "built",
        "evaluate": "built",
    }
    folder = Path(rows["export"]["folder"])
    assert json.loads((folder / "adapter" / "raft.json").read_text())["base_precision"] == "nf4"
    assert "linear layers in nf4" in (folder / "adapter" / "README.md").read_text()

    distilled = "2 steps of distillation: validation loss "
    assert distilled in rows["train"]["summary"]
    assert distilled in (folder / "adapter" / "README.md").read_text()

    parity = json.loads((folder / "parity.json").read_text())
    assert parity["peft"]["max_logit_difference"] <= 1e-3, "PEFT on what the packed weights stand for"
    assert parity["merged"]["max_logit_difference"] <= 1e-3, "the merged model on the base's own weights"
    assert parity["full_base"]["trained_in"] == "nf4"
    assert parity["full_base"]["max_logit_difference"] > 10 * parity["peft"]["max_logit_difference"]
    assert "trained on a base in nf4" in rows["export"]["summary"]

    report = (Path(rows["evaluate"]["folder"]) / "summary.md").read_text()
    assert "answered with the base's linear layers in nf4, as in training" in report
    assert f"After the training: {distilled}" in report

    answers = warm.json("ask", "Who opens the gates of Elm?", "--compare")["answers"]
    assert answers.keys() == {"adapter", "base"}
    both = warm.json("plan", "--engine")["tried"][-1]["bytes"]["weights"]
    del warm.values["train"]["distil_steps"]
    warm.write()
    packed = warm.json("plan", "--engine")["tried"][-1]["bytes"]["weights"]
    warm.values["train"]["base_precision"] = "bfloat16"
    warm.write()
    assert packed < both
    assert packed < warm.json("plan", "--engine")["tried"][-1]["bytes"]["weights"]


def test_as_stored_of_a_plain_base_is_refused_before_anything_runs(warm):
    warm.values["train"]["base_precision"] = "as_stored"
    warm.write()
    done = warm.raft("run", "--no-prefect", check=False)
    assert done.returncode == 2
    assert "as_stored means nothing" in " ".join(done.stderr.split())


@pytest.mark.parametrize("form", ["a tensor is gone", "another config.json", "8 bits", "a cut file"])
def test_weights_that_cannot_be_trained_are_refused_before_anything_runs(form, project, domain, monkeypatch):
    """Headers tell it at once; the trainer would, after the questions were asked."""
    base, name = project.folder / "other", "model.layers.1.mlp.up_proj.weight"
    if form == "a cut file":
        as_blocks(domain / "base", base, monkeypatch)
        whole = (base / GGUF_FILE).read_bytes()
        (base / GGUF_FILE).unlink()
        (base / GGUF_FILE).write_bytes(whole[: len(whole) // 2])
    else:
        shutil.copytree(domain / "base", base)
        weights = load_file(base / "model.safetensors")
        if form == "a tensor is gone":
            del weights[name]
        elif form == "another config.json":
            weights[name] = weights[name][:-1].copy()
        else:
            weights[name] = weights[name].astype(np.int8)
        save_file(weights, base / "model.safetensors", {"format": "pt"})
    project.values["models"]["base"] = str(base)
    project.write()
    done = project.raft("run", "--no-prefect", check=False)
    assert done.returncode == 2
    words = {"a tensor is gone": f"{name} is missing", "another config.json": "has shape", "8 bits": "stored as I8"}
    said = " ".join(done.stderr.split())
    assert words.get(form, "the file ends before it does") in said
    assert form == "a cut file" or name in said
    assert not list((project.folder / ".raft" / "store").glob("*/*/manifest.json"))


@pytest.mark.heavy
def test_a_base_of_which_there_are_blocks_alone_passes_the_gate_as_they_are(project, domain, monkeypatch):
    base = as_blocks(domain / "base", project.folder / "blocks", monkeypatch)
    assert not list(base.glob("*.safetensors")), f"{GGUF_FILE} is all there is"
    held = load_params(base, read_model_config(base), "float32", precision="as_stored")["layers"]
    assert any(is_packed(leaf) for leaf in held.values())
    project.values["models"]["base"] = str(base)
    project.values["train"] |= {"base_precision": "as_stored", "learning_rate": 0.01}
    project.write()
    rows = {row["stage"]: row for row in project.json("run", "--no-prefect")["stages"]}
    folder = Path(rows["export"]["folder"])
    assert json.loads((folder / "adapter" / "raft.json").read_text())["base_precision"] == "as_stored"

    parity = json.loads((folder / "parity.json").read_text())
    for what in ("peft", "merged"):
        assert parity[what]["max_logit_difference"] <= parity["tolerance"] == 1e-3, what
        assert parity[what]["continuations_equal"] == parity[what]["continuations"] == 2, what
    assert parity["full_base"]["trained_in"] == "as_stored"

    merged = load_file(folder / "merged" / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    full = np.asarray(load_params(base, read_model_config(base), "float32")["layers"]["up"][1])
    change = np.abs(merged[name] - full).max()
    assert 0 < change < 0.1, "what the blocks stand for, with the adapter added once"
    original = load_file(domain / "base" / "model.safetensors")[name]
    assert np.abs(full - original).max() > 1e-4, "the blocks are not the weights that they were made of"

"""The plan says what a run needs before a weight is loaded; every rung of remat computes the same loss and gradient."""

import dataclasses
import json
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from jora_engine.config.architecture import ModelConfig
from jora_engine.config.lora import LoraConfig
from jora_engine.config.parameters import linear_layers
from jora_engine.config.recipe import TrainConfig
from jora_engine.files.weights import load_params, read_model_config
from jora_engine.model.parameters import parameter_total
from jora_engine.training.loop import Trainer
from jora_engine.training.packing import Example
from jora_engine.training.plan import (
    GIB,
    REMAT_LADDER,
    abstract_params,
    choose,
    flops_per_token,
    plan,
    refusal,
    rungs,
    smaller_rows,
    weights_in_full,
)
from jora_engine.training.plan_job import outlook

LORA = LoraConfig(rank=4, alpha=8.0)
TRAIN = TrainConfig(learning_rate=1e-2, micro_batch_rows=1, sequence_length=64, dtype="float32", max_steps=2)
LLAMA_2_7B = ModelConfig("llama", 32000, 4096, 11008, 32, 32, 32, 128)


def examples(count):
    rng = np.random.default_rng(0)
    draw = lambda low, high: rng.integers(3, 96, rng.integers(low, high)).astype(np.int32)  # noqa: E731
    return [Example(draw(5, 40), draw(1, 15)) for _ in range(count)]


@pytest.fixture(scope="module")
def model(model_folder):
    return read_model_config(model_folder("llama"))


@pytest.fixture(scope="module")
def rung_results(model_folder, model):
    """Losses, adapter and plan of a short run on every rung."""
    params, results = load_params(model_folder("llama"), model, "float32"), {}
    for rung in REMAT_LADDER:
        trainer = Trainer(params, model, LORA, dataclasses.replace(TRAIN, remat=rung), examples(12))
        made = plan(trainer)
        lora, progress = trainer.run()
        results[rung] = ([row["loss"] for row in progress.history], lora, made)
    return results


@pytest.mark.parametrize("rung", REMAT_LADDER[1:])
@pytest.mark.slow
def test_every_rung_of_remat_computes_the_same(rung_results, rung):
    (losses, lora, _), (expected, same, _) = rung_results[rung], rung_results["none"]
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), lora, same)


@pytest.mark.slow
def test_each_rung_takes_no_more_memory_than_the_one_before(rung_results):
    sizes = [rung_results[rung][2].bytes["temporaries"] for rung in REMAT_LADDER]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[2]


@pytest.mark.slow
def test_a_plan_needs_shapes_only_and_counts_what_there_is(model):
    lines = examples(12)
    trainer = Trainer(abstract_params(model, "float32", None), model, LORA, TRAIN, lines)
    made = plan(trainer, available=10)
    adapter = 4 * 4 * model.num_layers * sum(sum(p.shape) for p in linear_layers(model).values())
    assert made.bytes["weights"] == 4 * parameter_total(model)
    assert made.bytes["gradient"] == adapter
    assert made.bytes["adapter"] == 2 * adapter
    assert made.bytes["optimizer"] == pytest.approx(2 * adapter, abs=64)
    assert made.steps == 2
    rows = trainer.schedule.packings[0].rows[:2]
    assert made.tokens == sum(lines[i].length for row in rows for i in row)
    assert made.padding == pytest.approx(1 - made.tokens / 128)
    assert not made.fits
    said = str(refusal(made))
    assert "on each of 1 device(s)" in said
    assert "a smaller base" in said
    assert json.loads(json.dumps(made.to_json()))["remat"] == "names"


@pytest.mark.slow
def test_the_first_setting_that_fits_is_taken(rung_results, model):
    """By the plans of whole runs: memory for a setting exactly, or for none at all."""
    sizes = {rung: rung_results[rung][2].total for rung in REMAT_LADDER}
    shapes, lines = abstract_params(model, "float32", None), examples(12)
    for ladder, available in (
        (("none", "names"), sizes["none"]),
        (("none", "layer"), sizes["layer"]),
        (("layer",), 1),
    ):
        settings = [dataclasses.replace(TRAIN, remat=rung) for rung in ladder]
        trainer, tried = choose(lambda setting: Trainer(shapes, model, LORA, setting, lines), settings, available)
        first = next((rung for rung in ladder if sizes[rung] <= available), ladder[-1])
        assert trainer.config.remat == first
        assert [plan.training.remat for plan in tried] == list(ladder[: ladder.index(first) + 1])
        assert [plan.fits for plan in tried] == [sizes[plan.training.remat] <= available for plan in tried]


def test_the_ladder_of_settings():
    auto = TrainConfig(remat="auto", micro_batch_rows=12, accumulation=2)
    assert [s.remat for s in rungs(auto, cpu=False)] == ["none", "names", "layer", "offload"]
    assert [s.remat for s in rungs(auto, cpu=True)] == ["names", "layer"]
    assert [s.remat for s in rungs(dataclasses.replace(auto, remat="none"), cpu=True)] == ["none"]
    assert [s.remat for s in rungs(dataclasses.replace(auto, remat="offload"), cpu=True)] == ["layer"]
    assert [(s.micro_batch_rows, s.accumulation) for s in smaller_rows(auto, 1)] == [(12, 2), (6, 4), (3, 8)]
    assert [(s.micro_batch_rows, s.accumulation) for s in smaller_rows(auto, 6)] == [(12, 2), (6, 4)]


def test_weights_that_a_program_holds_in_full_are_told_from_its_other_arrays():
    program = """
      %a = bf16[5,512,256]{2,1,0} parameter(0), %again = bf16[5,512,256]{2,1,0} copy(%a)
      %halves = f32[6,256,8,2,32] broadcast(%a), %packed = u8[6,512,4,32] parameter(1), %one = f32[512,256] slice(%a)
      %kept = bf16[5,1,64,512] scan(%a), %rank = f32[6,4,512] parameter(2), %last = bf16[1,512,256] slice(%a)
    """
    assert weights_in_full(program, [(512, 256)], 6) == ["bf16[5,512,256]", "f32[6,256,8,2,32]"]
    assert weights_in_full(program, [(256, 256)], 6) == []
    assert weights_in_full(program, [(512, 256)], 2) == [], "one layer at a time is what unfolding takes"


def test_flops_of_llama_2_7b():
    """26.4 GFLOP a token in frozen matrices (head included), 6 a parameter of the 40.0 M adapter, 7 T Hq hd L more."""
    bare = flops_per_token(LLAMA_2_7B, LoraConfig(rank=16), 0.0) - 6 * 39_976_960
    assert bare == pytest.approx(26.4e9, rel=2e-3)
    attention = flops_per_token(LLAMA_2_7B, LoraConfig(), 4096.0) - flops_per_token(LLAMA_2_7B, LoraConfig(), 0.0)
    assert attention == 7 * 4096 * 32 * 128 * 32
    windowed = dataclasses.replace(LLAMA_2_7B, family="mistral", sliding_window=512)
    assert flops_per_token(windowed, LoraConfig(), 1e6) == flops_per_token(windowed, LoraConfig(), 2e6)


@pytest.mark.slow
def test_training_that_cannot_fit_is_refused_before_the_weights_are_read(tmp_path, model_folder, tokenizer_folder):
    """The trainer itself, with a base of some terabytes of which there is only the configuration."""
    shape = {"vocab_size": 400, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 2000}
    shape |= {"num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128}
    config = json.loads((model_folder("llama") / "config.json").read_text()) | shape
    (tokenizer_folder / "config.json").write_text(json.dumps(config))
    (tmp_path / "train.jsonl").write_text(8 * '{"instruction": "a", "output": "b"}\n')
    work = tmp_path / "work"
    work.mkdir()
    (work / "remat").write_bytes(b"\xeeames")  # an earlier attempt's, damaged: it must not be in the way
    job = {"model": tokenizer_folder, "train": tmp_path / "train.jsonl", "out": tmp_path / "out", "work": work}
    training = {"sequence_length": 32, "accumulation": 1, "micro_batch_rows": 1}
    (tmp_path / "job.json").write_text(json.dumps({**job, "training": training}, default=str))
    command = [sys.executable, "-P", "-m", "jora_engine.trainer", str(tmp_path / "job.json")]
    trainer = subprocess.run(command, capture_output=True, text=True, check=False)
    event = json.loads(trainer.stdout.splitlines()[-1])
    assert trainer.returncode == 2
    assert re.match(r"training would take \d{4}\.\d+ GiB on each of", event["what"])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.wide
def test_the_planner_plans_for_a_stated_memory(model_folder, monkeypatch):
    monkeypatch.setattr("jora_engine.training.plan_job.use_cores", lambda rows: None)
    job = {
        "model": str(model_folder("llama")),
        "lora": {"rank": 4},
        "training": {"sequence_length": 64, "micro_batch_rows": 1, "dtype": "float32"},
        "memory_gib": 1000 / GIB,
        "tokens_per_second": 64.0,
    }
    (made,) = outlook(job)
    assert not made.fits
    assert made.available == 1000
    assert made.seconds == pytest.approx(1.0)
    assert made.notes == ("no records yet: one step of full rows is planned",)

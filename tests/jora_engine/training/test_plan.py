"""The plan says what a run needs before a weight is loaded; every rung of remat computes the same loss and gradient."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jora_engine.config.architecture import ModelConfig
from jora_engine.config.lora import LoraConfig
from jora_engine.config.parameters import linear_layers
from jora_engine.config.recipe import TrainConfig
from jora_engine.files.weights import load_params, read_model_config
from jora_engine.model.parameters import parameter_total
from jora_engine.training import job as trainer_process
from jora_engine.training import plan as planning
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
)
from jora_engine.training.plan_job import outlook
from raft_errors import BadInput

LORA = LoraConfig(rank=4, alpha=8.0)
TRAIN = TrainConfig(learning_rate=1e-2, accumulation=1, sequence_length=64, dtype="float32", max_steps=2)
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
def test_every_rung_of_remat_computes_the_same(rung_results, rung):
    (losses, lora, _), (expected, same, _) = rung_results[rung], rung_results["none"]
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), lora, same)


def test_each_rung_takes_no_more_memory_than_the_one_before(rung_results):
    sizes = [rung_results[rung][2].bytes["temporaries"] for rung in REMAT_LADDER]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[2]


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


def test_the_first_setting_that_fits_is_taken(monkeypatch):
    sizes = {"none": 40, "names": 30, "layer": 20, "offload": 10}
    monkeypatch.setattr(planning, "plan", lambda rung, available: SimpleNamespace(fits=sizes[rung] <= available))
    settings = rungs(dataclasses.replace(TRAIN, remat="auto"), cpu=False)
    for available, rung, count in ((99, "none", 1), (25, "layer", 3), (1, "offload", 4)):
        chosen, tried = choose(lambda setting: setting.remat, settings, available)
        assert (chosen, len(tried), tried[-1].fits) == (rung, count, available > 1)


def test_the_ladder_of_settings():
    auto = TrainConfig(remat="auto", micro_batch_rows=12, accumulation=2)
    assert [s.remat for s in rungs(auto, cpu=False)] == ["none", "names", "layer", "offload"]
    assert [s.remat for s in rungs(auto, cpu=True)] == ["names", "layer"]
    assert [s.remat for s in rungs(dataclasses.replace(auto, remat="none"), cpu=True)] == ["none"]
    assert [s.remat for s in rungs(dataclasses.replace(auto, remat="offload"), cpu=True)] == ["layer"]
    assert [(s.micro_batch_rows, s.accumulation) for s in smaller_rows(auto, 1)] == [(12, 2), (6, 4), (3, 8)]
    assert [(s.micro_batch_rows, s.accumulation) for s in smaller_rows(auto, 6)] == [(12, 2), (6, 4)]


def test_flops_of_llama_2_7b():
    """26.4 GFLOP a token in frozen matrices (head included), 6 a parameter of the 40.0 M adapter, 7 T Hq hd L more."""
    bare = flops_per_token(LLAMA_2_7B, LoraConfig(rank=16), 0.0) - 6 * 39_976_960
    assert bare == pytest.approx(26.4e9, rel=2e-3)
    attention = flops_per_token(LLAMA_2_7B, LoraConfig(), 4096.0) - flops_per_token(LLAMA_2_7B, LoraConfig(), 0.0)
    assert attention == 7 * 4096 * 32 * 128 * 32
    windowed = dataclasses.replace(LLAMA_2_7B, family="mistral", sliding_window=512)
    assert flops_per_token(windowed, LoraConfig(), 1e6) == flops_per_token(windowed, LoraConfig(), 2e6)


def test_training_that_cannot_fit_is_refused_before_the_weights_are_read(tmp_path, model_folder, monkeypatch):
    (tmp_path / "train.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    (tmp_path / "remat").write_bytes(b"\xeeames")  # an earlier attempt's, damaged: it must not be in the way
    job = trainer_process.Job(
        model=model_folder("llama"), train=tmp_path / "train.jsonl", out=tmp_path / "out", work=tmp_path, training=TRAIN
    )
    for name, stand_in in {
        "use_cores": lambda rows: None,
        "device_memory": lambda: 1000,
        "Tokenizer": type("T", (), {"load": lambda folder: type("T", (), {"fallback_template": False})}),
        "check_prompt": lambda tokenizer, base: [],
        "check_vocabulary": lambda examples, tokenizer, vocab_size, folder: None,
        "read_examples": lambda file, tokenizer: examples(12),
        "load_params": lambda *args, **more: pytest.fail("weights were read"),
        "training_identity": lambda **more: pytest.fail("weights were read"),
    }.items():
        monkeypatch.setattr(trainer_process, name, stand_in)
    with pytest.raises(BadInput, match=r"training would take 0\.\d+ GiB on each of"):
        trainer_process.run(job, stop=lambda: False, report=lambda event: None)
    assert not (tmp_path / "out").exists()


def test_the_planner_plans_for_a_stated_memory(model_folder, monkeypatch):
    monkeypatch.setattr("jora_engine.training.plan_job.use_cores", lambda rows: None)
    job = {
        "model": str(model_folder("llama")),
        "lora": {"rank": 4},
        "training": {"sequence_length": 64, "accumulation": 1, "dtype": "float32"},
        "memory_gib": 1000 / GIB,
        "tokens_per_second": 64.0,
    }
    (made,) = outlook(job)
    assert not made.fits
    assert made.available == 1000
    assert made.seconds == pytest.approx(1.0)
    assert made.notes == ("no records yet: one step of full rows is planned",)

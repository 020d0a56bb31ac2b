"""The parity gate: open where transformers, PEFT and the engine agree, closed on anything tampered with."""

import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from raft_errors import RaftError
from tasks.build.supervisor import run_child
from tasks.export import ExportConfig
from tasks.runtime import parity
from tasks.work.bench import Bench
from tasks.work.export import measure_parity, require_parity

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "flows"))

pytestmark = pytest.mark.slow
PROMPTS = [[5, 9, 17, 33, 80, 2, 41], [7, 7, 300, 12]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A random base with a random adapter, and what `export` writes of it."""
    import tiny

    from jora_engine.adapters.merged_model import write_merged
    from jora_engine.adapters.peft_folder import write_adapter
    from jora_engine.config.lora import LoraConfig
    from jora_engine.files.weights import read_model_config
    from jora_engine.model.lora import init_lora

    folder = tmp_path_factory.mktemp("exported")
    base = tiny.make_base(folder / "base")
    model, config = read_model_config(base), LoraConfig(rank=4, alpha=8.0)
    lora = init_lora(config, model, 0)
    rng = np.random.default_rng(1)
    lora = {n: {k: rng.normal(0, 0.1, v.shape).astype("f4") for k, v in pair.items()} for n, pair in lora.items()}
    write_adapter(folder / "trained", lora, config, model, "base")
    write_adapter(folder / "adapter", lora, config, model, "base")
    for kind in ("float32", "bfloat16"):
        write_merged(base, lora, config, model, folder / f"merged-{kind}", dtype=kind)
    return folder


def within(module, arguments, **options):
    """In this process what a child computes, without the seconds in which one imports torch."""
    assert module == parity.__name__
    assert parity.main(arguments) == 0


def gate(folder, tmp_path, dtype="float32", adapter=None, merged=None, run=within):
    bench = Bench(
        tmp_path, tmp_path, None, lambda *a: None, 0, {}, run_child=run, calibration=tmp_path, compiled=tmp_path
    )
    config = ExportConfig(gate_tokens=4, merged_dtype=dtype)
    return measure_parity(
        base=folder / "base",
        engine_adapter=folder / "trained",
        adapter=adapter or folder / "adapter",
        merged=merged or folder / f"merged-{dtype}",
        prompts=PROMPTS,
        config=config,
        bench=bench,
        precision="bfloat16",
    )


def copied(source, target, change):
    """A copy of a model folder with the first tensor that `change` alters."""
    import shutil

    shutil.copytree(source, target)
    file = next(target.glob("*.safetensors"))
    tensors = load_file(file)
    name = next(n for n in tensors if "lora_B" in n or "down_proj" in n)
    tensors[name] = change(tensors[name])
    save_file(tensors, file, metadata={"format": "pt"})
    return target


@pytest.fixture(scope="module")
def untouched(exported, tmp_path_factory):
    """Figures of an untouched export, by a child as in a run."""
    return gate(exported, tmp_path_factory.mktemp("untouched"), run=run_child)


def test_it_opens_for_an_untouched_export(untouched):
    assert untouched["peft"]["continuations_equal"] == untouched["peft"]["continuations"] == 2
    assert 0 < untouched["peft"]["max_logit_difference"] < 1e-4
    require_parity(untouched, 1e-3)


def test_a_rounded_merged_model_is_held_to_its_own_weights_and_a_tampered_adapter_beside_it_is_named(
    exported, untouched, tmp_path
):
    tampered = copied(exported / "adapter", tmp_path / "adapter", lambda w: w + np.float32(0.05))
    figures = gate(exported, tmp_path, dtype="bfloat16", adapter=tampered)
    with pytest.raises(RaftError, match="the base with the PEFT adapter differs by") as caught:
        require_parity(figures, 1e-3)
    assert "the merged model" not in str(caught.value)
    require_parity({**figures, "peft": untouched["peft"]}, 1e-3)
    assert figures["merged"]["rounding"] > figures["merged"]["max_logit_difference"]


def test_it_closes_on_a_tampered_merged_model(exported, tmp_path):
    tampered = copied(exported / "merged-float32", tmp_path / "merged", lambda w: w * np.float32(1.05))
    with pytest.raises(RaftError, match="the merged model differs by") as caught:
        require_parity(gate(exported, tmp_path, merged=tampered), 1e-3)
    assert "the PEFT adapter" not in str(caught.value)


@pytest.mark.wide
def test_it_closes_on_an_adapter_that_does_not_load(exported, tmp_path):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(RaftError, match="do not load"):
        gate(exported, tmp_path, adapter=tmp_path / "nothing", run=run_child)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2e-3])
def test_a_difference_that_is_no_number_or_too_large_closes_it(value):
    row = {"max_logit_difference": 0.0, "continuations_equal": 2, "continuations": 2}
    require_parity({"peft": row, "merged": row}, 1e-3)
    with pytest.raises(RaftError):
        require_parity({"peft": row, "merged": {**row, "max_logit_difference": value}}, 1e-3)


def test_another_continuation_closes_it_though_the_logits_are_near():
    row = {"max_logit_difference": 0.0, "continuations_equal": 2, "continuations": 2}
    with pytest.raises(RaftError, match="continues 1 of 2 prompts differently"):
        require_parity({"peft": {**row, "continuations_equal": 1}, "merged": row}, 1e-3)

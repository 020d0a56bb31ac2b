"""Distillation onto a packed base: its loss is torch's, it brings the student nearer, and it loses no training."""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn.functional import kl_div, log_softmax

from jora_engine.adapters.merged_model import write_merged
from jora_engine.adapters.peft_folder import ADAPTER_WEIGHTS, precision_of
from jora_engine.config.lora import LoraConfig
from jora_engine.config.recipe import TrainConfig
from jora_engine.files.weights import load_params, packed_leaves, read_model_config
from jora_engine.training.distil import Bases, distil, distiller, summed_divergence
from jora_engine.training.job import Job, fine_tune
from jora_engine.training.loop import Trainer
from jora_engine.training.loss import CHUNK, supervised_divergence
from jora_engine.training.packing import Example, make_batch
from jora_engine.training.plan import abstract_params
from jora_engine.training.plan_job import outlook
from jora_engine.training.step import StepOptions
from raft_errors import BadInput, Interrupted

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "model"))
from test_decoder import assert_gradient, peft_model, random_lora

pytestmark = pytest.mark.usefixtures("light_compilation")
LORA = LoraConfig(rank=4, alpha=6.0)
TRAIN = TrainConfig(
    learning_rate=1e-2,
    max_steps=12,
    epochs=6,
    micro_batch_rows=2,
    sequence_length=64,
    dtype="float32",
    base_precision="nf4",
    distil_steps=10,
)


def examples(count=8):
    rng = np.random.default_rng(0)
    return [Example(*(rng.integers(3, 96, n).astype(np.int32) for n in (20, 8))) for _ in range(count)]


@pytest.mark.parametrize(("divisor", "softcap"), [(1.0, None), (2.0, 1.5)])
def test_the_divergence_and_its_gradient_are_torch_s_over_more_positions_than_a_chunk(divisor, softcap):
    rng = np.random.default_rng(0)
    hidden, teacher = rng.normal(size=(2, 2, CHUNK - 5, 12)).astype(np.float32)
    head = rng.normal(size=(30, 12)).astype(np.float32)
    weight = rng.integers(0, 2, hidden.shape[:2]).astype(np.float32)
    value, gradient = jax.value_and_grad(supervised_divergence)(hidden, teacher, head, weight, divisor, softcap)

    def logits(x):
        products = x @ torch.tensor(head).T / divisor
        return products if softcap is None else softcap * torch.tanh(products / softcap)

    ours = torch.tensor(hidden, requires_grad=True)
    theirs = kl_div(
        log_softmax(logits(ours), -1),
        log_softmax(logits(torch.tensor(teacher)), -1),
        log_target=True,
        reduction="none",
    )
    expected = (theirs.sum(-1) * torch.tensor(weight)).sum()
    expected.backward()
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, ours.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.wide
def test_divergence_and_adapter_gradient_of_two_models_are_torch_s(model_folder, tmp_path):
    """The student in torch is PEFT on what the packed weights stand for, the teacher PEFT on the base in full."""
    folder = model_folder("llama")
    config = read_model_config(folder)
    held = write_merged(folder, {}, LORA, config, tmp_path / "held", dtype="float32", precision="nf4")
    student, teacher = random_lora(config, LORA, 3), random_lora(config, LORA, 4)
    rows = examples(3)
    batch = make_batch(rows, [[0, 1], [2]], 64, 64)
    bases = Bases(
        load_params(folder, config, "float32", precision="nf4"),
        load_params(folder, config, "float32")["layers"],
        teacher,
    )
    options = StepOptions(config, LORA, "names", "blocked", None)
    compute = jax.jit(jax.value_and_grad(summed_divergence, has_aux=True), static_argnums=4)
    (value, _), gradient = compute(student, bases, batch, None, options)

    ours, theirs = peft_model(held, student, LORA, config), peft_model(folder, teacher, LORA, config)
    expected = 0.0
    for row in rows:
        ids = torch.tensor(row.tokens)[None].long()
        at = slice(len(row.prompt) - 1, ids.shape[1] - 1)
        with torch.no_grad():
            wanted = log_softmax(theirs(ids).logits[0, at], -1)
        expected += kl_div(log_softmax(ours(ids).logits[0, at], -1), wanted, log_target=True, reduction="sum")
    expected.backward()
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
    assert_gradient(gradient, ours, config)


@pytest.mark.slow
def test_no_float32_logits_of_a_whole_batch_exist(model_folder):
    """Neither the student's nor the teacher's, and no gradient of a base."""
    rows, capacity, vocab = 4, 3 * CHUNK, 1000
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((rows, capacity, 8),) * 2 + ((vocab, 8), (rows, capacity))]
    text = jax.jit(jax.value_and_grad(supervised_divergence)).lower(*shapes).compile().as_text()
    assert f"{rows},{CHUNK // rows},{vocab}]" in text
    for whole in (f"{rows},{capacity},{vocab}]", f"{rows * capacity},{vocab}]"):
        assert whole not in text


class Case:
    """An adapter that was trained on the base in full, and the same base in NF4, on which it is worse."""

    def __init__(self, folder):
        model = read_model_config(folder)
        full = load_params(folder, model, "float32")
        packed = load_params(folder, model, "float32", precision="nf4")
        self.layers, rows = full["layers"], examples()
        self.others = {name: leaf[::-1] for name, leaf in full["layers"].items()}
        plain = dataclasses.replace(TRAIN, base_precision="bfloat16", distil_steps=0)
        self.lora, _ = Trainer(full, model, LORA, plain, rows).run()
        self.trainer = Trainer(packed, model, LORA, TRAIN, rows, rows)
        self.second = distiller(self.trainer, self.layers)

    def distil(self, layers, **options):
        return distil(self.second, self.trainer, layers, self.lora, **options)


@pytest.fixture(scope="module")
def case(model_folder, light_compilation):
    return Case(model_folder("smollm2"))


@pytest.mark.slow
@pytest.mark.wide
def test_a_distilled_adapter_is_nearer_to_its_teacher_and_kept_where_it_is_better(case):
    events = []
    adapter, facts = case.distil(case.layers, report=events.append)
    assert facts["distil_steps"] == 10
    assert facts["distil_kl_after"] < 0.5 * facts["distil_kl_before"]
    assert facts["distil_loss_after"] < facts["distil_loss_before"]
    assert facts["distil_kept"]
    np.testing.assert_allclose(case.trainer.evaluate(adapter), facts["distil_loss_after"], rtol=1e-6)
    assert [e["step"] for e in events if e["event"] == "step"] == list(range(1, 11))
    assert {e["pass"] for e in events} == {"distillation"}
    again, same = case.distil(case.layers)
    assert same == facts
    jax.tree.map(np.testing.assert_array_equal, again, adapter)


@pytest.mark.slow
@pytest.mark.wide
def test_one_that_is_worse_is_dropped(case):
    """Its teacher has its layers in reverse, so that it learns well what is wrong."""
    adapter, facts = case.distil(case.others)
    assert facts["distil_kl_after"] < facts["distil_kl_before"]
    assert facts["distil_loss_after"] > facts["distil_loss_before"]
    assert not facts["distil_kept"]
    assert adapter is case.lora


@pytest.mark.slow
@pytest.mark.wide
def test_one_that_diverges_costs_no_training(case):
    broken = {**case.layers, "up": jnp.full_like(case.layers["up"], np.nan)}
    events = []
    adapter, facts = case.distil(broken, report=events.append)
    assert adapter is case.lora
    assert (facts["distil_kept"], facts["distil_loss_after"], facts["distil_kl_after"]) == (False, None, None)
    assert any("distillation diverged at step 1" in e.get("what", "") for e in events)
    json.loads(json.dumps(facts), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def job_for(with_words, place, **training):
    folder, file = with_words
    return Job(
        model=folder,
        train=file,
        validation=file,
        out=place / "out",
        work=place / "work",
        lora=LORA,
        training=dataclasses.replace(TRAIN, max_steps=3, distil_steps=3, checkpoint_every_steps=1, **training),
    )


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.slow
@pytest.mark.wide
def test_a_job_that_is_stopped_while_it_distils_goes_on_there_and_ends_in_the_same_bytes(with_words, tmp_path):
    undisturbed = job_for(with_words, tmp_path / "whole")
    fine_tune(undisturbed)
    facts = json.loads((undisturbed.out / "training.json").read_text())
    assert (facts["steps_taken"], facts["distil_steps"]) == (3, 3)
    assert facts["best_validation_loss"] == facts["distil_loss_before"]
    assert precision_of(undisturbed.out / "adapter") == "nf4"

    job, events = job_for(with_words, tmp_path / "stopped"), []
    with pytest.raises(Interrupted, match="distillation stopped at step 1 of 3, state saved"):
        fine_tune(job, report=events.append, stop=lambda: sum("pass" in e and e["event"] == "step" for e in events) > 0)
    events.clear()
    fine_tune(job, report=events.append)
    assert [(e["step"], e.get("pass")) for e in events if e["event"] == "resumed"] == [(3, None), (1, "distillation")]
    assert [(e["step"], e.get("pass")) for e in events if e["event"] == "step"] == [
        (2, "distillation"),
        (3, "distillation"),
    ]
    assert files(job.out) == files(undisturbed.out)

    # the finished training serves without a distillation too, of which then nothing is left
    events.clear()
    plain = dataclasses.replace(job, out=tmp_path / "plain", training=dataclasses.replace(job.training, distil_steps=0))
    fine_tune(plain, report=events.append)
    assert not any(e["event"] in ("step", "warning") for e in events)
    trained = json.loads((plain.out / "training.json").read_text())
    assert facts.items() >= {n: v for n, v in trained.items() if n != "training"}.items()
    assert not any(name.startswith("distil") for name in trained)
    same = (plain.out / "adapter" / ADAPTER_WEIGHTS).read_bytes() == files(job.out)[f"adapter/{ADAPTER_WEIGHTS}"]
    assert same is not facts["distil_kept"]


@pytest.mark.parametrize("precision", ["bfloat16", "as_stored"])
def test_where_there_is_nothing_to_distil_it_is_refused(precision):
    with pytest.raises(BadInput, match=f"distil_steps is 5.*0 where base_precision is {precision}"):
        TrainConfig(base_precision=precision, distil_steps=5)


def test_without_validation_records_it_is_refused_before_training(with_words, tmp_path):
    job = dataclasses.replace(job_for(with_words, tmp_path), validation=None)
    events = []
    with pytest.raises(BadInput, match="no validation records"):
        fine_tune(job, report=events.append)
    assert events == []


@pytest.mark.slow
@pytest.mark.wide
def test_the_plan_counts_both_bases_and_both_passes(model_folder):
    folder = model_folder("smollm2")
    model = read_model_config(folder)
    *_, made = outlook({"model": str(folder), "lora": {"r": 4}, "training": dataclasses.asdict(TRAIN)})
    packed = abstract_params(model, "float32", None, packed_leaves(folder, model, "nf4"))
    size = lambda tree: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))  # noqa: E731
    adapter = made.bytes["gradient"]
    full = size(abstract_params(model, "float32", None)["layers"])
    assert made.bytes["weights"] == size(packed) + full + adapter
    assert made.steps == 1 + 10
    assert any("10 steps of distillation" in note for note in made.notes)

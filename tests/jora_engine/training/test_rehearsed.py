"""What is rehearsed holds the adapter to the base's distribution, as torch computes it, and is exact on resume."""

import dataclasses
import itertools
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from transformers import AutoModelForCausalLM

from jora_engine.config.lora import LoraConfig
from jora_engine.config.recipe import TrainConfig
from jora_engine.files.weights import load_params, read_model_config
from jora_engine.training.checkpoint import Checkpoints
from jora_engine.training.loop import DIVERGED_AFTER, Progress, Trainer
from jora_engine.training.packing import Example, make_batch
from jora_engine.training.results import summary
from jora_engine.training.step import summed_loss
from raft_errors import Interrupted

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "model"))
from test_decoder import assert_gradient, peft_model, random_lora

pytestmark = pytest.mark.usefixtures("light_compilation")
LORA = LoraConfig(rank=4, alpha=6.0)
TRAIN = TrainConfig(
    learning_rate=1e-2,
    epochs=2,
    micro_batch_rows=1,
    accumulation=2,
    sequence_length=64,
    dtype="float32",
    checkpoint_every_steps=3,
)


def examples(count=12):
    rng = np.random.default_rng(0)
    parts = [[rng.integers(3, 96, n).astype(np.int32) for n in (rng.integers(5, 20), 6)] for _ in range(count)]
    return [Example(*both, rehearsed=number % 3 == 0) for number, both in enumerate(parts)]


@pytest.fixture(scope="module")
def folder(model_folder):
    return model_folder("smollm2")


@pytest.fixture
def make(folder):
    config = read_model_config(folder)
    params = load_params(folder, config, "float32")

    def trainer(some=None, start=None, **changes):
        return Trainer(params, config, LORA, dataclasses.replace(TRAIN, **changes), some or examples(), start=start)

    return trainer


@pytest.mark.slow
def test_loss_and_gradient_are_peft_s_with_the_base_as_teacher(make, folder):
    """Records by the loss of their tokens, rehearsals by KL(base || adapter): their sum and its gradient."""
    lora = random_lora(make().model, LORA)
    trainer = make(start=lora, max_steps=1)
    trainer.run()  # which asks the base
    rows = examples()
    batch = make_batch(rows, [[0, 1, 2], [3, 4]], 64, 64, trainer.base)
    compute = jax.value_and_grad(summed_loss, has_aux=True)
    (ours, told), gradient = compute(lora, trainer.params, batch, None, trainer.options)

    base, model = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        peft_model(folder, lora, LORA, trainer.model),
    )
    total, loss = torch.zeros(()), 0.0
    for row in rows[:5]:
        ids, start = torch.tensor(row.tokens)[None].long(), len(row.prompt) - 1
        logits = model(ids).logits[0, start:-1]
        if row.rehearsed:
            aim = log_softmax(base(ids).logits[0, start:-1].detach(), -1)
            total += kl_div(log_softmax(logits, -1), aim, log_target=True, reduction="sum")
        else:
            loss += cross_entropy(logits, torch.tensor(row.completion).long(), reduction="sum")
    (total + loss).backward()
    np.testing.assert_allclose(ours, (total + loss).item(), rtol=1e-5)
    np.testing.assert_allclose(told, loss.item(), rtol=1e-5)
    assert_gradient(gradient, model, trainer.model)


def rehearsed():
    return [one._replace(rehearsed=True) for one in examples()]


@pytest.mark.slow
def test_where_all_is_rehearsed_a_fresh_adapter_has_nothing_to_learn(make):
    lora, progress = make(rehearsed(), max_steps=2).run()
    assert [row["gradient_norm"] for row in progress.history] == pytest.approx([0.0, 0.0], abs=1e-5)
    assert [row["loss"] for row in progress.history] == [0.0, 0.0], "there is no record to tell a loss of"
    assert all(float(np.abs(leaf["b"]).max()) < 1e-5 for leaf in lora.values())


@pytest.mark.slow
def test_an_adapter_that_left_the_base_is_drawn_back(make):
    """A training that goes on from an adapter is held to the base, not to the adapter it began with."""
    start = random_lora(make().model, LORA)
    trainer = make(rehearsed(), start=start, max_steps=20, epochs=10, learning_rate=2e-2)
    lora, _ = trainer.run()
    batch = make_batch(rehearsed(), [[0, 1, 2]], 64, 64, trainer.base)
    before, after = (summed_loss(one, trainer.params, batch, None, trainer.options)[0] for one in (start, lora))
    assert before > 0.1
    assert after < before / 2


@pytest.mark.slow
@pytest.mark.wide
def test_a_resumed_run_with_rehearsals_equals_an_undisturbed_one_bit_for_bit(make, tmp_path):
    whole, record = make().run()
    for stop_after in (3, 10_000):
        checkpoints, asked = Checkpoints(tmp_path), itertools.count()
        try:
            resumed, again = make().run(checkpoints, stop=lambda asked=asked, last=stop_after: next(asked) >= last)
        except Interrupted:
            continue
        finally:
            checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)
    assert record == again


@pytest.mark.slow
def test_the_base_is_asked_once_where_the_same_is_rehearsed_again(make):
    trainer = make([*examples(), *examples()], max_steps=1)
    trainer.run()
    assert sorted(trainer.base.of) == [0, 3, 6, 9, 12, 15, 18, 21]
    assert all(trainer.base.of[n] is trainer.base.of[n + 12] for n in (0, 3, 6, 9))
    assert len({states.tobytes() for states in trainer.base.of.values()}) == 4


def test_a_first_step_that_only_rehearses_is_not_what_later_losses_are_held_against(make):
    trainer, progress = make(), Progress()
    for step, loss in enumerate([0.0, *[4.0] * DIVERGED_AFTER], 1):
        trainer._guard({"step": step, "epoch": 1, "loss": loss, "gradient_norm": 1.0}, progress)
        progress.history.append({"loss": loss, "tokens": 8})
    assert progress.first_loss == summary(progress)["first_loss"] == 4.0


def test_without_the_base_a_rehearsal_is_a_record_as_any_other():
    batch = make_batch(examples(), [[0, 1]], 64, 64)
    assert batch.supervision.rehearsal is None
    assert batch.supervision.weight.sum() == 12

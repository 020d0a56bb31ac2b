"""The decoder computes what transformers and PEFT compute: logits, adapter gradients and a training curve."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from jora_engine.adapters.peft_folder import adapter_tensors
from jora_engine.config.lora import LoraConfig
from jora_engine.config.recipe import TrainConfig
from jora_engine.files.weights import load_params, read_model_config
from jora_engine.model.attention import Mask
from jora_engine.model.decoder import finish_logits, forward, head_matrix
from jora_engine.model.lora import init_lora, parameter_count, prepare
from jora_engine.training.loop import Trainer
from jora_engine.training.loss import supervised_loss
from jora_engine.training.packing import Example, make_batch

LORA = LoraConfig(rank=4, alpha=6.0)
SOME_LAYERS = dataclasses.replace(LORA, layers_to_transform=(0, 2))
JORA = ("q_proj", "v_proj")


def whole(tokens):
    """Each row one segment."""
    positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    return Mask(np.ones(tokens.shape, np.int32), positions)


def logits(params, lora, tokens, config, **options):
    hidden = forward(params, lora, tokens, whole(tokens), config, **options)
    return finish_logits(hidden @ head_matrix(params).T, config)


def random_lora(config, lora_config=LORA, seed=3):
    """An adapter whose B is not zero, so that it changes the function."""
    lora = init_lora(lora_config, config, seed)
    keys = iter(jax.random.split(jax.random.key(seed), len(lora)))
    return {name: {"a": ab["a"], "b": 0.1 * jax.random.normal(next(keys), ab["b"].shape)} for name, ab in lora.items()}


def peft_model(folder, lora, lora_config, config):
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = peft.get_peft_model(base, peft.LoraConfig(**lora_config.to_peft(config)))
    state = {
        key.replace(".weight", ".default.weight"): torch.tensor(np.array(value))
        for key, value in adapter_tensors(lora, config, lora_config.layers(config.num_layers)).items()
    }
    found = model.load_state_dict(state, strict=False)
    assert not found.unexpected_keys
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "lora_" in name
    return model


def test_logits_equal_transformers(any_model):
    config = read_model_config(any_model)
    params = load_params(any_model, config, "float32")
    tokens = np.random.default_rng(0).integers(3, 96, (2, 20)).astype(np.int32)
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(any_model)(torch.tensor(tokens)).logits.numpy()
    for backend in ("blocked", "reference"):
        compute = jax.jit(functools.partial(logits, config=config, backend=backend))
        found = compute(params, {}, tokens)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_adapter_gradients_equal_peft(any_model):
    gradients_equal_pefts(any_model, "all-linear", "layer")


def test_gradients_of_an_adapter_on_two_modules_equal_pefts(model_folder):
    gradients_equal_pefts(model_folder("llama"), JORA, "none")


def gradients_equal_pefts(any_model, targets, remat):
    config = read_model_config(any_model)
    params = load_params(any_model, config, "float32")
    lora_config = LoraConfig(rank=4, alpha=6.0, target_modules=targets)
    lora = random_lora(config, lora_config)
    tokens = np.random.default_rng(1).integers(3, 96, (2, 17)).astype(np.int32)

    @jax.jit
    def loss(lora):
        prepared = prepare(lora, lora_config.scale, jnp.float32)
        out = logits(params, prepared, tokens[:, :-1], config, remat=remat)
        logp = jax.nn.log_softmax(out)
        return -jnp.take_along_axis(logp, tokens[:, 1:, None], axis=-1).mean()

    model = peft_model(any_model, lora, lora_config, config)
    ids = torch.tensor(tokens).long()
    theirs = model(ids, labels=ids).loss
    theirs.backward()
    value, gradient = jax.value_and_grad(loss)(lora)
    np.testing.assert_allclose(value, theirs.item(), rtol=1e-5)
    ours = adapter_tensors(gradient, config, range(config.num_layers))
    expected = {
        name.replace(".default", ""): p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None
    }
    assert set(ours) == set(expected)
    for key, grad in expected.items():
        np.testing.assert_allclose(ours[key], grad, rtol=1e-3, atol=1e-4 * np.abs(grad).max(), err_msg=key)


def examples(count, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Example(
            rng.integers(3, 96, rng.integers(5, 20)).astype(np.int32),
            rng.integers(3, 96, rng.integers(1, 9)).astype(np.int32),
        )
        for _ in range(count)
    ]


def test_packed_rows_have_the_loss_of_rows_of_their_own(any_model):
    config = read_model_config(any_model)
    params = load_params(any_model, config, "float32")
    lora = prepare(random_lora(config), LORA.scale, jnp.float32)
    rows = examples(4)

    @jax.jit
    def loss(batch):
        hidden = forward(params, lora, batch.tokens, batch.mask, config)
        head = head_matrix(params)
        return supervised_loss(hidden, head, batch.supervision, config.logit_divisor, config.logit_softcap)

    packed = loss(make_batch(rows, [[0, 1, 2, 3]], 128, 64))
    alone = loss(make_batch(rows, [[0], [1], [2], [3]], 32, 16))
    np.testing.assert_allclose(packed, alone, rtol=1e-5)


@pytest.mark.parametrize("lora_config", [LORA, SOME_LAYERS], ids=["all layers", "two of three layers"])
def test_twenty_steps_follow_peft_with_adamw(model_folder, lora_config):
    follow_peft(model_folder("smollm2"), lora_config, 20)


def test_ten_steps_follow_peft_for_every_family(any_model):
    follow_peft(any_model, LORA, 10)


def follow_peft(folder, lora_config, steps):
    config = read_model_config(folder)
    data = examples(24, seed=5)
    train = TrainConfig(
        learning_rate=5e-3, max_steps=steps, epochs=steps, accumulation=2, micro_batch_rows=2, sequence_length=64,
        dtype="float32", weight_decay=0.01, schedule="linear", warmup_ratio=0.1,
    )  # fmt: skip
    params = load_params(folder, config, "float32")
    trainer = Trainer(params, config, lora_config, train, data)
    model = peft_model(folder, init_lora(lora_config, config, train.seed), lora_config, config)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    theirs = []
    for step, (epoch, rows) in enumerate(trainer.schedule.steps):
        for group in optimizer.param_groups:
            group["lr"] = float(trainer.rate(step))
        numbers = [i for row in rows for i in trainer.schedule.packings[epoch].rows[row]]
        total, weight = 0.0, sum(len(data[i].completion) for i in numbers)
        for i in numbers:  # one record at a time: no padding, no packing
            ids = torch.tensor(np.concatenate(data[i]))[None].long()
            out = torch.log_softmax(model(ids).logits[0, :-1], -1)
            start = len(data[i].prompt)
            total = total - out[torch.arange(start - 1, ids.shape[1] - 1), ids[0, start:]].sum() / weight
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(parameters, train.clip_norm)
        optimizer.step()
        theirs.append(float(total.detach()))
    _, progress = trainer.run()
    ours = [row["loss"] for row in progress.history]
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    assert ours[-1] < ours[0]


def test_adapter_size_is_pefts(model_folder):
    folder = model_folder("llama")
    config = read_model_config(folder)
    lora = init_lora(LORA, config, 0)
    model = peft_model(folder, lora, LORA, config)
    assert parameter_count(LORA, config) == sum(leaf.size for leaf in jax.tree.leaves(lora))
    assert parameter_count(LORA, config) == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_the_compiled_step_holds_no_logits_and_no_base_gradient(model_folder):
    """No [batch, seq, vocab], and no output of a base weight's shape: only the adapter has gradients."""
    folder = model_folder("llama")
    config = read_model_config(folder)
    params = load_params(folder, config, "float32")
    batch = make_batch(examples(6), [[0, 1], [2, 3], [4, 5]], 80, 64)

    def loss(lora):
        hidden = forward(params, prepare(lora, 1.0, jnp.float32), batch.tokens, batch.mask, config)
        return supervised_loss(hidden, head_matrix(params), batch.supervision)

    text = jax.jit(jax.grad(loss)).lower(init_lora(LORA, config, 0)).compile().as_text()
    assert "3,80,96]" not in text
    assert "240,96]" not in text

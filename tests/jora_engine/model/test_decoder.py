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
from jora_engine.model.parameters import param_shapes
from jora_engine.training.loop import Trainer
from jora_engine.training.loss import supervised_loss
from jora_engine.training.packing import Example, make_batch
from jora_engine.training.step import Weights

pytestmark = pytest.mark.usefixtures("light_compilation")

LORA = LoraConfig(rank=4, alpha=6.0)
SOME_LAYERS = dataclasses.replace(LORA, layers_to_transform=(0, 2))


def whole(tokens):
    """Each row one segment."""
    positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    return Mask(np.ones(tokens.shape, np.int32), positions)


def logits(params, lora, tokens, config, **options):
    hidden = forward(params, lora, tokens, whole(tokens), config, **options)
    return finish_logits(hidden @ head_matrix(params).T, config)


def random_lora(config, lora_config=LORA, seed=3):
    """An adapter whose B is not zero, so that it changes the function."""
    rng = np.random.default_rng(seed)
    lora = init_lora(lora_config, config, seed)
    return {n: {"a": ab["a"], "b": rng.normal(0, 0.1, ab["b"].shape).astype(np.float32)} for n, ab in lora.items()}


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_gradients_of_whole_rows_equal_pefts_where_layers_are_computed_twice(model_folder):
    folder = model_folder("llama")
    config = read_model_config(folder)
    params = load_params(folder, config, "float32")
    lora_config = LoraConfig(rank=4, alpha=6.0, target_modules=("q_proj", "v_proj"))
    lora = random_lora(config, lora_config)
    tokens = np.random.default_rng(1).integers(3, 96, (2, 17)).astype(np.int32)

    @jax.jit
    @jax.value_and_grad
    def loss(lora, params):
        prepared = prepare(lora, lora_config.scale, jnp.float32)
        out = logits(params, prepared, tokens[:, :-1], config, remat="layer")
        logp = jax.nn.log_softmax(out)
        return -jnp.take_along_axis(logp, tokens[:, 1:, None], axis=-1).mean()

    model = peft_model(folder, lora, lora_config, config)
    ids = torch.tensor(tokens).long()
    theirs = model(ids, labels=ids).loss
    theirs.backward()
    value, gradient = loss(lora, params)
    np.testing.assert_allclose(value, theirs.item(), rtol=1e-5)
    assert_gradient(gradient, model, config)


def assert_gradient(ours, model, config):
    """Each tensor of the adapter has the gradient that PEFT's has."""
    ours = adapter_tensors(ours, config, range(config.num_layers))
    theirs = {n.replace(".default", ""): p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}
    assert set(ours) == set(theirs)
    for key, grad in theirs.items():
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


@pytest.mark.slow
def test_packed_rows_have_the_loss_of_rows_of_their_own(any_layer, model_folder):
    folder = model_folder(any_layer)
    config = read_model_config(folder)
    params = load_params(folder, config, "float32")
    lora = prepare(random_lora(config), LORA.scale, jnp.float32)
    rows = examples(4)

    @jax.jit
    def loss(params, lora, batch):
        hidden = forward(params, lora, batch.tokens, batch.mask, config, places=batch.supervision.places)
        head = head_matrix(params)
        return supervised_loss(hidden, head, batch.supervision, config.logit_divisor, config.logit_softcap)

    packed = loss(params, lora, make_batch(rows, [[0, 1, 2, 3], [], [], []], 128, 64))
    alone = loss(params, lora, make_batch(rows, [[0], [1], [2], [3]], 128, 64))
    np.testing.assert_allclose(packed, alone, rtol=1e-5)


@pytest.mark.slow
def test_twenty_steps_of_an_adapter_on_two_of_three_layers_follow_pefts_with_adamw(model_folder):
    trainer, model = trainer_and_peft(model_folder("smollm2"), SOME_LAYERS, 20)
    follow(trainer, model)


@pytest.mark.slow
def test_the_gradient_is_pefts_and_ten_steps_follow_it_for_every_family(any_layer, model_folder):
    """Of the program that trains: records packed into rows, from an adapter that changes the function."""
    folder = model_folder(any_layer)
    start = random_lora(read_model_config(folder))
    trainer, model = trainer_and_peft(folder, LORA, 10, start)
    packing = trainer.schedule.packings[0]
    batch = make_batch(trainer.examples, packing.rows[:2], packing.length, trainer.schedule.capacity)
    zeros = jax.tree.map(jnp.zeros_like, start)
    one = Weights(np.float32(1), np.float32(1))
    gradient, loss = trainer.compile()(zeros, start, trainer.params, batch, one, jax.random.key(0))
    theirs = sum(completion_loss(model, trainer.examples[i]) for row in packing.rows[:2] for i in row)
    theirs.backward()
    np.testing.assert_allclose(loss, theirs.item(), rtol=1e-5)
    assert_gradient(gradient, model, trainer.model)
    follow(trainer, model)


def trainer_and_peft(folder, lora_config, steps, start=None):
    """The engine's trainer and PEFT's model, of one base and one adapter, `start` or a fresh one."""
    config = read_model_config(folder)
    train = TrainConfig(
        learning_rate=5e-3, max_steps=steps, epochs=steps, accumulation=2, micro_batch_rows=2, sequence_length=64,
        dtype="float32", weight_decay=0.01, schedule="linear", warmup_ratio=0.1,
    )  # fmt: skip
    params = load_params(folder, config, "float32")
    trainer = Trainer(params, config, lora_config, train, examples(24, seed=5), start=start)
    return trainer, peft_model(folder, start or init_lora(lora_config, config, train.seed), lora_config, config)


def completion_loss(model, example):
    """Summed loss of one record's completion: no padding, no packing."""
    ids = torch.tensor(example.tokens)[None].long()
    out, start = torch.log_softmax(model(ids).logits[0, :-1], -1), len(example.prompt)
    return -out[torch.arange(start - 1, ids.shape[1] - 1), ids[0, start:]].sum()


def follow(trainer, model):
    """Both train; their losses are the same at every step."""
    train = trainer.config
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    theirs = []
    for step, (epoch, rows) in enumerate(trainer.schedule.steps):
        for group in optimizer.param_groups:
            group["lr"] = float(trainer.rate(step))
        records = [trainer.examples[i] for row in rows for i in trainer.schedule.packings[epoch].rows[row]]
        weight = sum(len(record.completion) for record in records)
        total = sum(completion_loss(model, record) for record in records) / weight
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(parameters, train.clip_norm)
        optimizer.step()
        theirs.append(float(total.detach()))
    _, progress = trainer.run()
    ours = [row["loss"] for row in progress.history]
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    assert ours[-1] < ours[0]


@pytest.mark.parametrize("family", [pytest.param("llama", marks=pytest.mark.wide), "gemma2"])
@pytest.mark.slow
def test_hidden_states_at_places_are_those_of_whole_rows_and_so_are_gradients(family, model_folder):
    """gemma2 has layers of two kinds, norms on both sides of a sublayer, and a cap."""
    folder = model_folder(family)
    config = read_model_config(folder)
    params, lora = load_params(folder, config, "float32"), random_lora(config)
    batch = make_batch(examples(6), [[0, 1], [2, 3], [4, 5]], 80, 64)
    places = batch.supervision.places
    weight = np.random.default_rng(2).normal(size=(3, 64, config.hidden_size)) * places.used[..., None]

    def value(lora, at):
        prepared = prepare(lora, LORA.scale, jnp.float32)
        hidden = forward(params, prepared, batch.tokens, batch.mask, config, remat="names", places=at)
        hidden = jnp.take_along_axis(hidden, places.position[..., None], axis=1) if at is None else hidden
        return (hidden * weight).sum(), hidden * places.used[..., None]

    run = jax.jit(jax.value_and_grad(value, has_aux=True))
    for ours, theirs in zip(jax.tree.leaves(run(lora, places)), jax.tree.leaves(run(lora, None)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())


def test_the_last_layer_s_mlp_is_not_computed_for_whole_rows(model_folder):
    config = dataclasses.replace(read_model_config(model_folder("llama")), num_layers=1)
    params = param_shapes(config, "float32")
    batch = make_batch(examples(6), [[0, 1], [2, 3], [4, 5]], 80, 64)

    def text(places):
        function = functools.partial(forward, config=config, places=places)
        return jax.jit(function).lower(params, {}, batch.tokens, batch.mask).as_text()

    whole = f"tensor<3x80x{config.intermediate_size}xf32>"
    assert whole in text(None)
    assert whole not in text(batch.supervision.places)


@pytest.mark.slow
def test_names_compute_no_product_with_the_base_a_second_time(model_folder):
    folder = model_folder("llama")
    config = read_model_config(folder)
    params, lora = load_params(folder, config, "float32"), random_lora(config)
    tokens = np.random.default_rng(1).integers(3, 96, (2, 64)).astype(np.int32)

    def products(remat):
        def value(lora):
            hidden = forward(params, prepare(lora, 1.0, jnp.float32), tokens, whole(tokens), config, remat=remat)
            return (hidden * hidden).sum()

        text = jax.jit(jax.grad(value)).lower(lora).as_text()
        shape = f"tensor<{config.num_kv_heads * config.head_dim}x{config.hidden_size}xf32>"  # of the weights of k and v
        return sum("dot_general" in line and shape in line for line in text.splitlines())

    assert products("layer") > products("names") == products("none")


def test_adapter_size_is_pefts(model_folder):
    folder = model_folder("llama")
    config = read_model_config(folder)
    lora = init_lora(LORA, config, 0)
    model = peft_model(folder, lora, LORA, config)
    assert parameter_count(LORA, config) == sum(leaf.size for leaf in jax.tree.leaves(lora))
    assert parameter_count(LORA, config) == sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.slow
def test_the_compiled_step_holds_no_logits_and_no_base_gradient(model_folder):
    """No [batch, seq, vocab], and no output of a base weight's shape: only the adapter has gradients."""
    folder = model_folder("llama")
    config = read_model_config(folder)
    params = load_params(folder, config, "float32")
    batch = make_batch(examples(6), [[0, 1], [2, 3], [4, 5]], 80, 64)

    def loss(lora):
        prepared, places = prepare(lora, 1.0, jnp.float32), batch.supervision.places
        hidden = forward(params, prepared, batch.tokens, batch.mask, config, places=places)
        return supervised_loss(hidden, head_matrix(params), batch.supervision)

    text = jax.jit(jax.grad(loss)).lower(init_lora(LORA, config, 0)).compile().as_text()
    assert "3,80,96]" not in text
    assert "240,96]" not in text

"""A packed base computes what the weights that it stands for compute, both ways, and is never kept in full."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jora_engine.config.architecture import ModelConfig
from jora_engine.config.lora import LoraConfig
from jora_engine.config.parameters import parameters
from jora_engine.config.recipe import TrainConfig
from jora_engine.files.quantiser import pack
from jora_engine.files.weights import load_params, packed_leaves, read_model_config
from jora_engine.model.attention import Mask
from jora_engine.model.decoder import forward
from jora_engine.model.ggml_blocks import Blocks, tile_of
from jora_engine.model.lora import init_lora, linear, prepare
from jora_engine.model.parameters import param_shapes
from jora_engine.model.quantised import is_packed, packed_shape, untrained_packed
from jora_engine.model.sharding import Placement, make_mesh
from jora_engine.training.loop import Trainer
from jora_engine.training.packing import Example
from jora_engine.training.plan import abstract_params, plan, weights_in_full

RNG = np.random.default_rng(0)
pytestmark = pytest.mark.usefixtures("light_compilation")
PRECISIONS = ("int8", "nf4")
WIDE = ModelConfig("llama", 96, 256, 512, 6, 4, 2, 64)


def in_full(params):
    """The tree with plain weights where packed ones were."""
    layers = {
        name: jax.vmap(lambda w: w.dense("float32"))(leaf) if is_packed(leaf) else leaf
        for name, leaf in params["layers"].items()
    }
    return {**params, "layers": layers}


@pytest.mark.parametrize(("precision", "dtype"), [("int8", "bfloat16"), ("nf4", "float32")])
@pytest.mark.slow
def test_a_linear_layer_and_its_gradient_are_those_of_the_plain_weight(precision, dtype):
    weight = pack(RNG.normal(size=(48, 128)).astype(np.float32), precision)
    plain = jax.tree.map(jnp.asarray, weight).dense(dtype)
    x = jnp.asarray(RNG.normal(size=(2, 5, 128)), dtype)
    lora = {"q": {"a": jnp.asarray(RNG.normal(size=(4, 128)), "float32"), "b": jnp.ones((48, 4), "float32")}}

    def value(x, lora, w):
        return (linear(x, ("q",), {"q": w}, lora)[0].astype("float32") ** 2).sum()

    packed, ours = jax.jit(jax.value_and_grad(value, argnums=(0, 1)))(x, lora, jax.tree.map(jnp.asarray, weight))
    other, theirs = jax.jit(jax.value_and_grad(value, argnums=(0, 1)))(x, lora, plain)
    scale = 1e-6 if dtype == "float32" else 1e-2
    np.testing.assert_allclose(packed, other, rtol=scale)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        assert np.abs(a - b).max() <= scale * np.abs(b).max()


@pytest.mark.slow
def test_nf4_is_unfolded_through_memory_as_bfloat16_alone():
    """A decode step reads each weight once: half a byte, then its bfloat16 written twice, as halves and in order."""
    weight = untrained_packed(packed_shape("nf4", (512, 1024)), jax.random.key(0))
    product = jax.jit(lambda x, w: linear(x, ("q",), {"q": w}, {})[0])
    compiled = product.lower(jnp.ones((1, 8, 1024), "bfloat16"), weight).compile()
    assert compiled.cost_analysis()["bytes accessed"] / (512 * 1024) < 5.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "precision"), [("smollm2", "nf4"), pytest.param("phi3", "int8", marks=pytest.mark.wide)]
)
def test_logits_are_those_of_the_weights_that_are_stood_for(precision, family, model_folder):
    folder = model_folder(family)
    config = read_model_config(folder)
    packed = load_params(folder, config, "float32", precision=precision)
    tokens = RNG.integers(3, 96, (2, 24)).astype(np.int32)
    mask = Mask(np.ones((2, 24), np.int32), np.tile(np.arange(24, dtype=np.int32), (2, 1)))
    lora = prepare(init_lora(LoraConfig(rank=4), config, 0), 1.0, jnp.float32)
    run = jax.jit(lambda params: forward(params, lora, tokens, mask, config))
    ours, theirs = (np.asarray(run(params)) for params in (packed, in_full(packed)))
    assert np.abs(ours - theirs).max() <= 2e-6 * np.abs(theirs).max()
    full = np.asarray(run(load_params(folder, config, "float32")))
    assert np.abs(ours - full).max() > 1e-4 * np.abs(full).max(), "something was packed at all"


@pytest.mark.slow
def test_embeddings_norms_and_the_head_are_not_packed(model_folder):
    folder = model_folder("llama")
    config = read_model_config(folder)
    tree = load_params(folder, config, "bfloat16", precision="nf4")
    packed = {name for name, leaf in tree["layers"].items() if is_packed(leaf)}
    assert packed == {"q", "k", "v", "o", "gate", "up", "down"}
    assert {tree[name].dtype for name in ("embed", "final_norm", "head")} == {jnp.dtype("bfloat16")}
    declared = param_shapes(config, "bfloat16", packed=packed_leaves(folder, config, "nf4"))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), tree) == jax.tree.map(lambda x: (x.shape, x.dtype), declared)


def shape_of(precision, shape):
    if precision in PRECISIONS:
        return packed_shape(precision, shape, WIDE.num_layers)
    tile = tile_of(kinds := tuple(precision.split("+")))
    size = (WIDE.num_layers, shape[0], shape[1] // tile.numbers, tile.bytes)
    return Blocks(jax.ShapeDtypeStruct(size, jnp.uint8), jax.ShapeDtypeStruct(size[:1], jnp.int32), kinds)


def trainer(precision, remat, dtype="bfloat16"):
    quantisable = [p for p in parameters(WIDE) if p.quantisable and precision != "bfloat16"]
    packed = {p.name: shape_of(precision, p.shape) for p in quantisable}
    config = TrainConfig(micro_batch_rows=1, sequence_length=64, dtype=dtype, remat=remat, max_steps=1)
    rows = [Example(np.zeros(50, np.int32), np.zeros(10, np.int32))] * 4
    return Trainer(abstract_params(WIDE, dtype, None, packed), WIDE, LoraConfig(rank=4), config, rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "remat"),
    [
        ("nf4", "none"),
        pytest.param("Q4_K+Q6_K", "names", marks=pytest.mark.wide),
        *(
            pytest.param(*case, marks=pytest.mark.heavy)
            for case in (("int8", "none"), ("nf4", "names"), ("Q4_1", "none"))
        ),
    ],
)
def test_no_weight_in_full_is_kept_for_the_backward_pass(precision, remat):
    """No array of the compiled program holds all layers of a weight in a floating type; its memory says the same."""
    one = trainer(precision, remat)
    text = one.compile().as_text()
    assert re.search(rf"(s8|u8)\[{WIDE.num_layers},512,", text), "packed weights of all layers are its arguments"
    assert not weights_in_full(text, {p.shape for p in parameters(WIDE) if p.quantisable}, WIDE.num_layers)
    numbers = sum(np.prod(p.shape) for p in parameters(WIDE) if p.quantisable)
    packed, plain = (plan(t).bytes["temporaries"] for t in (one, trainer("bfloat16", remat)))
    # one layer, and what the last one's own program, behind the loop, needs beside it
    assert packed - plain < 2.5 * numbers, f"{packed - plain} bytes more than with plain weights"


def test_packed_weights_take_what_they_should():
    def held(precision):
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(trainer(precision, "names").params))

    sizes = {precision: held(precision) for precision in ("bfloat16", *PRECISIONS)}
    numbers = WIDE.num_layers * sum(np.prod(p.shape) for p in parameters(WIDE) if p.quantisable)
    rest = sizes["bfloat16"] - 2 * numbers
    assert (sizes["int8"] - rest) / numbers == pytest.approx(1, abs=0.02)
    assert (sizes["nf4"] - rest) / numbers == pytest.approx(0.5 + 1 / 64, abs=0.03)


@pytest.mark.slow
def test_arrays_are_cut_as_the_weight_is_and_blocks_that_a_mesh_does_not_divide_stay_whole():
    model = dataclasses.replace(WIDE, intermediate_size=320)
    devices = np.asarray(jax.devices()[:1])
    placement = Placement(make_mesh((1, 1, 1, 1), devices), model)
    # what a larger mesh would do: `size` alone is asked
    object.__setattr__(placement, "size", lambda axis: {"tensor": 4, "fsdp": 2}.get(axis, 1))
    shapes = {"layers": {"down": packed_shape("nf4", (256, 320), 6), "up": packed_shape("int8", (320, 256), 6)}}
    cut = jax.tree.map(lambda s: tuple(s.spec), placement.params(shapes))["layers"]
    assert cut["down"].codes == (None, "fsdp", None, None), "5 blocks are not cut in 4"
    assert cut["down"].scales == (None, "fsdp", None)
    assert cut["down"].nested == (None, None)
    assert cut["up"].codes == (None, "tensor", "fsdp")
    assert cut["up"].scale == (None, "tensor")

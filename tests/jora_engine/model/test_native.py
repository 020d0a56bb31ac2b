"""The native kernels compute what the blocked form computes, and without them everything runs as before."""

import dataclasses
import functools
import json
import os
import stat
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jora_engine.config.lora import LoraConfig
from jora_engine.config.recipe import TrainConfig
from jora_engine.files.weights import load_params, read_model_config
from jora_engine.model import attention_backends, ops
from jora_engine.model import lora as lora_module
from jora_engine.model.attention import Mask, attention
from jora_engine.model.attention_backends import CHECKED, choose
from jora_engine.model.native import calls
from jora_engine.model.native import library as native
from jora_engine.model.native.linear import linear as native_linear
from jora_engine.model.places import Places, asked
from jora_engine.training.loop import Trainer
from jora_engine.training.packing import Example

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("light_compilation")]

SHAPES = {  # (tokens of each segment, tokens of the row, heads, KV heads, channels of a head, options)
    "a few tokens": ([7], 7, 2, 1, 8, {}),
    "segments that cross tiles, then tiles of padding": ([100, 90, 170], 600, 6, 2, 64, {}),
    "a window shorter than a vector": ([150], 150, 2, 1, 40, {"window": 5}),
    "a window longer than a tile, segments, wide heads": ([200, 250], 500, 4, 2, 80, {"window": 140}),
    "a scale and a cap": ([100, 90], 200, 4, 2, 32, {"scale": 0.7, "softcap": 1.5}),
}


@pytest.fixture
def fresh(monkeypatch):
    """Nothing remembered of a library, before and after."""
    native.library.cache_clear()
    choose.cache_clear()
    monkeypatch.delenv("RAFT_NATIVE", raising=False)
    yield monkeypatch
    native.library.cache_clear()
    choose.cache_clear()


def case(name, dtype=jnp.float32):
    lengths, total, heads, kv_heads, width, options = SHAPES[name]
    segments, positions = np.zeros((2, total), np.int32), np.zeros((2, total), np.int32)
    for row, order in enumerate((lengths, lengths[::-1])):
        at = 0
        for number, length in enumerate(order, 1):
            segments[row, at : at + length] = number
            positions[row, at : at + length] = np.arange(length)
            at += length
        positions[row, at:] = np.arange(total - at)
    keys = jax.random.split(jax.random.key(0), 3)
    inputs = [
        jax.random.normal(key, (2, total, n, width)).astype(dtype) for key, n in zip(keys, (heads, kv_heads, kv_heads))
    ]
    return inputs, Mask(segments, positions), options


def values_and_gradients(function, inputs, mask, options):
    real = (mask.segments > 0)[:, :, None, None]
    weight = jax.random.normal(jax.random.key(1), inputs[0].shape) * real

    def value(q, k, v, mask):
        out = function(q, k, v, mask, **options).astype(jnp.float32)
        return (out * weight).sum(), out * real

    (_, out), grads = jax.jit(jax.value_and_grad(value, argnums=(0, 1, 2), has_aux=True))(*inputs, mask)
    return [np.asarray(x, np.float32) for x in (out, *grads)]


@pytest.mark.parametrize("name", SHAPES)
def test_in_float32_values_and_gradients_are_those_of_the_blocked_form(name, kernels):
    arguments = case(name)
    ours, theirs = (values_and_gradients(f, *arguments) for f in (calls.attention, attention))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5 * max(1.0, np.abs(b).max()))


@pytest.mark.wide
@pytest.mark.parametrize("name", SHAPES)
def test_in_bfloat16_they_are_as_near_to_float32_as_the_blocked_form_s(name, kernels):
    if "bfloat16" not in kernels.dtypes:
        pytest.skip("this processor multiplies no bfloat16")
    inputs, *rest = case(name, jnp.bfloat16)
    exact = values_and_gradients(attention, [x.astype(jnp.float32) for x in inputs], *rest)
    ours, theirs = (values_and_gradients(f, inputs, *rest) for f in (calls.attention, attention))
    for a, b, c in zip(ours, theirs, exact, strict=True):
        assert np.sqrt(np.mean((a - c) ** 2)) <= 1.1 * np.sqrt(np.mean((b - c) ** 2)) + 1e-6


ELEMENTWISE = {  # ours, theirs, shapes of the arguments
    "norm": (lambda x, w: calls.rms_norm(x, w, 1e-5), lambda x, w: ops.rms_norm(x, w, 1e-5), [(2, 9, 40), (40,)]),
    "swiglu": (calls.swiglu, ops.swiglu, [(2, 9, 40)] * 2),
    "swiglu of no whole vectors": (calls.swiglu, ops.swiglu, [(1, 3, 7)] * 2),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_norm_and_activation_with_their_gradients_are_those_of_ops(name, dtype, kernels):
    if dtype not in kernels.dtypes:
        pytest.skip("this processor multiplies no bfloat16")
    ours, theirs, shapes = ELEMENTWISE[name]
    keys = jax.random.split(jax.random.key(0), len(shapes) + 1)
    inputs = [3.0 * jax.random.normal(key, shape) for key, shape in zip(keys, shapes)]
    weight = jax.random.normal(keys[-1], shapes[0])

    def run(function, dtype):
        def value(*inputs):
            out = function(*inputs)
            return (out.astype(jnp.float32) * weight).sum(), out

        step = jax.jit(jax.value_and_grad(value, argnums=range(len(shapes)), has_aux=True))
        (_, out), grads = step(*(x.astype(dtype) for x in inputs))
        return [np.asarray(x, np.float32) for x in (out, *grads)]

    exact = run(theirs, "float32")
    for a, b, c in zip(run(ours, dtype), run(theirs, dtype), exact, strict=True):
        if dtype == "float32":
            np.testing.assert_allclose(a, b, rtol=5e-6, atol=1e-6)
        else:
            assert np.sqrt(np.mean((a - c) ** 2)) <= 1.1 * np.sqrt(np.mean((b - c) ** 2)) + 1e-6


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rank", [4, 0])
def test_linear_layers_that_share_an_input_with_their_adapters_are_those_of_lora(dtype, rank, kernels):
    if dtype not in kernels.dtypes:
        pytest.skip("this processor multiplies no bfloat16")
    rng = np.random.default_rng(0)
    outs = {"q": 70, "k": 16, "v": 132}
    x = rng.normal(size=(2, 13, 36)).astype(np.float32)
    layer = {name: rng.normal(size=(out, 36)).astype(np.float32) for name, out in outs.items()}
    layer["k_bias"] = rng.normal(size=16).astype(np.float32)
    lora = {
        name: {
            "a": rng.normal(size=(rank, 36)).astype(np.float32),
            "b": rng.normal(size=(outs[name], rank)).astype("f4"),
        }
        for name in ("q", "v")
        if rank
    }
    weight = {name: rng.normal(size=(2, 13, out)).astype(np.float32) for name, out in outs.items()}

    def run(function, dtype):
        def value(x, lora, layer):
            out = dict(zip(outs, function(x, tuple(outs), layer, lora), strict=True))
            return sum((out[name].astype(jnp.float32) * weight[name]).sum() for name in outs), out

        cast = [jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree) for tree in (x, lora, layer)]
        (_, out), grads = jax.jit(jax.value_and_grad(value, argnums=(0, 1), has_aux=True))(*cast)
        return [np.asarray(leaf, np.float32) for leaf in jax.tree.leaves((out, grads))]

    ours = functools.partial(native_linear, on_rows=lambda function: function)
    exact = run(lora_module.linear, "float32")
    for a, b, c in zip(run(ours, dtype), run(lora_module.linear, dtype), exact, strict=True):
        if dtype == "float32":
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())
        else:
            assert np.sqrt(np.mean((a - c) ** 2)) <= 1.1 * np.sqrt(np.mean((b - c) ** 2)) + 1e-6


def test_what_the_kernel_does_not_multiply_goes_to_xla(kernels):
    x = jnp.ones((1, 4, 6), jnp.bfloat16)
    ours = functools.partial(native_linear, on_rows=lambda function: pytest.fail("the kernel was called"))
    layer = {"o": jnp.ones((3, 6), jnp.bfloat16)}  # an odd number of rows is no whole pairs in the backward pass
    np.testing.assert_array_equal(ours(x, ("o",), layer, {})[0], lora_module.linear(x, ("o",), layer, {})[0])


def test_a_part_of_the_queries_and_queries_that_are_not_asked_for(kernels):
    (q, k, v), mask, _ = case("segments that cross tiles, then tiles of padding")
    whole = calls.attention(q, k, v, mask)
    part = calls.attention(q[:, 96:224], k, v, mask, offset=96)
    np.testing.assert_array_equal(part, whole[:, 96:224])
    index = np.array([[3, 99, 350], [0, 200, 359]])
    some = calls.attention(q, k, v, asked(mask, Places(index, np.ones_like(index, bool))))
    for row, places in enumerate(index):
        np.testing.assert_array_equal(some[row, places], whole[row, places])
    assert np.isfinite(some).all()


def test_a_library_is_made_once_and_its_check_is_kept(fresh, tmp_path, kernels):
    fresh.setenv("RAFT_CACHE", str(tmp_path))
    (tmp_path / "native").mkdir(mode=0o700)
    built = tmp_path / "native" / kernels.file.name
    built.write_bytes(kernels.file.read_bytes())  # as compiled: compiling takes long
    built.chmod(0o700)
    native.library.cache_clear()
    fresh.setattr(native, "_compile", lambda *_: pytest.fail("compiled again"))
    fresh.setattr(native, "_register", lambda file: None)  # XLA has the functions from `kernels`, once a process
    checks = []
    fault = attention_backends.fault
    fresh.setattr(attention_backends, "fault", lambda *a: checks.append(a) or fault(*a))
    assert choose(CHECKED).backend == "native"
    choose.cache_clear()
    assert choose(CHECKED) == ("native", "agrees with the blocked form", kernels.name)
    assert len(checks) == 1


def test_a_library_that_computes_something_else_is_not_used(fresh, tmp_path, kernels):
    fresh.setattr(attention_backends, "library", lambda: kernels._replace(file=tmp_path / "x.so"))
    wrong = calls.attention
    fresh.setattr(calls, "attention", lambda q, k, v, mask, **options: 1.01 * wrong(q, k, v, mask, **options))
    choice = choose(CHECKED)
    assert choice.backend == "blocked"
    assert "native: output is off by" in choice.reason


def test_a_run_that_the_library_has_nothing_for_still_names_it(fresh, tmp_path):
    """What is made again on the same machine, in a type without kernels, is not made `on other kernels`."""
    older = native.Library("avx512-1", tmp_path / "x.so", ("float32",))
    fresh.setattr(attention_backends, "library", lambda: older)
    for shape in (dataclasses.replace(CHECKED, dtype="bfloat16"), dataclasses.replace(CHECKED, head_dim=41)):
        choice = choose(shape)
        assert (choice.backend, choice.kernels) == ("blocked", "avx512-1")
    (tmp_path / "x.float32.txt").write_text("output is off\n")
    assert choose(CHECKED) == ("blocked", "native: output is off", "avx512-1")


@pytest.mark.parametrize(
    ("kernel", "what"),
    [
        ("swiglu", "norm, activation and linear layers: the output"),
        ("rms_norm", "norm, activation and linear layers: the output"),
        ("cached_attention", "attention over a cache"),
        ("reply_attention", "attention over a cache"),
    ],
)
def test_a_library_whose_other_kernels_compute_something_else_is_not_used(fresh, tmp_path, kernels, kernel, what):
    fresh.setattr(attention_backends, "library", lambda: kernels._replace(file=tmp_path / "x.so"))
    own = getattr(calls, kernel)
    fresh.setattr(calls, kernel, lambda *operands, **options: 1.02 * own(*operands, **options))
    choice = choose(CHECKED)
    assert choice.backend == "blocked"
    assert f"native: {what} is off by" in choice.reason


@pytest.mark.parametrize(
    ("flags", "environment", "reason"),
    [
        ("fma avx2", {}, "no AVX-512"),
        (" ".join(sorted(native.LEVELS["avx512_bf16"].features | {"amx_bf16"})), {}, "matrix tiles"),
        (" ".join(sorted(native.LEVELS["avx512"].features)), {"PATH": "/nowhere"}, "no C++ compiler"),
        (" ".join(sorted(native.LEVELS["avx512"].features)), {"CXX": "false"}, "failed"),
        (" ".join(sorted(native.LEVELS["avx512"].features)), {"RAFT_NATIVE": "off"}, "switches native kernels off"),
    ],
)
def test_without_a_library_attention_is_the_blocked_form_and_the_reason_is_told(
    fresh, tmp_path, flags, environment, reason
):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t\t: {flags}\n")
    fresh.setattr(native, "_CPU_INFO", tmp_path / "cpuinfo")
    fresh.setenv("RAFT_CACHE", str(tmp_path / "cache"))
    for name, value in environment.items():
        fresh.setenv(name, value)
    choice = choose(CHECKED)
    assert choice.backend == "blocked"
    assert reason in choice.reason
    assert native.name_here() == "xla"


def test_what_did_not_compile_is_not_tried_again(fresh, tmp_path):
    fresh.setattr(native, "_features", lambda: native.LEVELS["avx512"].features)
    fresh.setenv("RAFT_CACHE", str(tmp_path))
    fresh.setenv("CXX", "false")
    with pytest.raises(native.Unavailable, match="failed"):
        native.library()
    fresh.setattr(native, "_compile", lambda *_: pytest.fail("compiled again"))
    with pytest.raises(native.Unavailable, match="keeps it from being tried"):
        native.library()


def test_a_library_that_others_can_write_is_not_loaded(fresh, tmp_path):
    fresh.setattr(native, "_level_and_name", lambda: ("avx512", "avx512-0"))
    fresh.setenv("RAFT_CACHE", str(tmp_path))
    file = tmp_path / "native" / "avx512-0.so"
    file.parent.mkdir(mode=0o700)
    file.write_bytes(b"")
    os.chmod(file, 0o700 | stat.S_IWOTH)
    with pytest.raises(native.Unavailable, match="can be written by others"):
        native.library()


def test_a_model_that_the_kernels_have_no_room_for_keeps_the_blocked_form(kernels):
    assert choose(dataclasses.replace(CHECKED, head_dim=7)).backend == "blocked"
    assert choose(dataclasses.replace(CHECKED, dtype="float16")).backend == "blocked"


@pytest.mark.parametrize("family", ["llama", pytest.param("gemma2", marks=pytest.mark.heavy)])
def test_a_training_with_native_attention_follows_the_one_without(family, fresh, kernels, model_folder):
    folder = model_folder(family)
    config = read_model_config(folder)
    params = load_params(folder, config, "float32")
    rng = np.random.default_rng(0)
    records = [Example(*(rng.integers(3, 96, n).astype(np.int32) for n in (20, 6))) for _ in range(8)]
    train = TrainConfig(max_steps=3, epochs=3, micro_batch_rows=2, accumulation=1, sequence_length=64, dtype="float32")
    losses = {}
    for switch in ("off", ""):
        fresh.setenv("RAFT_NATIVE", switch)
        native.library.cache_clear()
        choose.cache_clear()
        trainer = Trainer(params, config, LoraConfig(rank=2), train, records)
        losses[trainer.backend.backend] = [row["loss"] for row in trainer.run()[1].history]
    np.testing.assert_allclose(losses["native"], losses["blocked"], rtol=1e-5)


@pytest.mark.heavy
def test_on_two_devices_each_computes_its_rows(kernels, tmp_path):
    """In a process of its own: how many devices a CPU is can be said once."""
    program = """
import jax
jax.config.update("jax_num_cpu_devices", 2)
import numpy as np
from jora_engine.config.architecture import ModelConfig
from jora_engine.config.lora import LoraConfig
from jora_engine.config.recipe import TrainConfig
from jora_engine.model.parameters import untrained_params
from jora_engine.model.sharding import place
from jora_engine.training.loop import Trainer
from jora_engine.training.packing import Example

model = ModelConfig("llama", 96, 32, 56, 2, 4, 2, 8)
rng = np.random.default_rng(0)
records = [Example(*(rng.integers(3, 96, n).astype(np.int32) for n in (20, 6))) for _ in range(8)]
train = TrainConfig(max_steps=2, micro_batch_rows=2, accumulation=1, sequence_length=64, dtype="float32")
for placement in (None, place(model)):
    trainer = Trainer(untrained_params(model, 0, "float32"), model, LoraConfig(rank=2), train, records, (), placement)
    assert trainer.backend.backend == "native", trainer.backend
    assert all(name in trainer.compile().as_text() for name in ("raft_swiglu_backward", "raft_linear"))
    print([row["loss"] for row in trainer.run()[1].history])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    one, two = map(json.loads, done.stdout.splitlines())
    np.testing.assert_allclose(one, two, rtol=1e-6)

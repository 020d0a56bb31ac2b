"""int8 and NF4 as they are packed: against the definition here, and bit for bit against bitsandbytes."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from jora_engine.files import quantiser
from jora_engine.files.packed_weights import dense_weight
from jora_engine.files.quantiser import dynamic_map, in_pairs, pack, pack_int8, pack_nf4, pack_scales
from jora_engine.files.tensor_files import TensorFolder
from jora_engine.model.quantised import NF4, packed_shape

RNG = np.random.default_rng(0)
WEIGHT = (RNG.normal(size=(96, 192)) * 0.05).astype(np.float32)
BITSANDBYTES = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


def real_weights():
    """Weights of SmolLM2-135M-Instruct: linear layers of the first, a middle and the last layer."""
    kept = Path.home() / ".cache" / "raft" / "models"
    folder = os.environ.get("RAFT_TEST_BASE") or next(kept.glob("HuggingFaceTB--SmolLM2-135M-Instruct@*[!k]"), None)
    if folder is None:
        pytest.skip("SmolLM2-135M-Instruct is not on this machine (raft models --fetch, or RAFT_TEST_BASE)")
    tensors = TensorFolder(Path(folder))
    for layer in (0, 14, 29):
        for module in ("self_attn.q_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.down_proj"):
            name = f"model.layers.{layer}.{module}.weight"
            yield name, tensors.read(name)


def test_int8_is_within_half_a_step_of_each_row():
    packed = pack_int8(WEIGHT)
    assert packed.codes.dtype == np.int8
    np.testing.assert_array_equal(np.abs(packed.codes).max(axis=1), 127)
    error = np.abs(dense_weight(packed) - WEIGHT)
    assert (error <= packed.scale[:, None] * 0.5001).all()
    assert not dense_weight(pack_int8(np.zeros((2, 8), np.float32))).any()


def test_nf4_takes_the_nearest_of_its_values():
    packed = pack_nf4(WEIGHT)
    blocks = WEIGHT.reshape(96, 3, 64)
    largest = np.abs(blocks).max(-1, keepdims=True)
    distance = np.abs((blocks / largest)[..., None] - np.asarray(NF4, np.float32))
    codes = np.concatenate([packed.codes >> 4, packed.codes & 15], axis=-1)
    chosen = np.take_along_axis(distance, codes[..., None].astype(int), -1)[..., 0]
    np.testing.assert_allclose(chosen, distance.min(-1), atol=1e-6)
    error = np.sqrt(np.mean((dense_weight(packed) - WEIGHT) ** 2) / np.mean(WEIGHT**2))
    assert 0.08 < error < 0.10  # 0.092 on normal weights (shared facts, measured with qwix)


def test_the_eight_bit_scales_are_the_nearest_of_their_map():
    scales = RNG.normal(size=700).astype(np.float32)
    codes, nested = pack_scales(scales)
    levels = dynamic_map()
    assert levels.shape == (256,)
    assert (np.diff(levels) > 0).all()
    own = np.repeat(nested, 256)[:700]
    distance = np.abs((scales / own)[:, None] - levels)
    np.testing.assert_allclose(distance[np.arange(700), codes], distance.min(1), atol=2 / 65535)


@pytest.mark.parametrize("precision", ["int8", "nf4"])
@pytest.mark.parametrize("shape", [(48, 56), (7, 64), (33, 320)])
def test_a_packed_weight_has_the_declared_shape_and_is_the_same_in_parts(precision, shape, monkeypatch):
    weight = RNG.normal(size=shape).astype(np.float32)
    packed, declared = pack(weight, precision), packed_shape(precision, shape)
    for name in declared.AXES:
        array, expected = np.asarray(getattr(packed, name)), getattr(declared, name)
        assert (array.shape, array.dtype) == (expected.shape, expected.dtype), name
    monkeypatch.setattr(quantiser, "CHUNK", 1)
    for name in declared.AXES:
        np.testing.assert_array_equal(getattr(pack(weight, precision), name), getattr(packed, name))


@BITSANDBYTES
def test_codes_and_scales_are_those_of_bitsandbytes_bit_for_bit_on_real_weights():
    from bitsandbytes.functional import quantize_4bit

    torch.set_num_threads(1)
    same_mean = count = 0
    for name, weight in real_weights():
        source = torch.from_numpy(weight.astype(np.float32)).to(torch.bfloat16)
        codes, state = quantize_4bit(source, blocksize=64, compress_statistics=True, quant_type="nf4")
        ours = pack_nf4(source.float().numpy())
        np.testing.assert_array_equal(in_pairs(ours), codes.numpy().reshape(-1), err_msg=name)
        np.testing.assert_array_equal(ours.levels, state.state2.code.numpy())
        # torch's mean depends on how it cuts the sum: it is the exact one to a few units in the last place
        theirs = state.offset.numpy()
        assert abs(theirs - ours.offset) <= 8 * np.spacing(ours.offset)
        largest = np.abs(source.float().numpy().reshape(-1, 64)).max(1)
        scales, nested = pack_scales(largest - theirs)
        np.testing.assert_array_equal(scales, state.absmax.numpy(), err_msg=name)
        np.testing.assert_array_equal(nested, state.state2.absmax.numpy(), err_msg=name)
        count += 1
        if theirs == ours.offset:
            same_mean += 1
            np.testing.assert_array_equal(ours.scales.reshape(-1), state.absmax.numpy())
            np.testing.assert_array_equal(ours.nested, state.state2.absmax.numpy())
    assert count == 12
    assert same_mean


@BITSANDBYTES
@pytest.mark.slow
def test_what_it_comes_to_is_what_bitsandbytes_makes_of_it():
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    for name, weight in real_weights():
        source = torch.from_numpy(weight.astype(np.float32))
        codes, state = quantize_4bit(source, blocksize=64, compress_statistics=True, quant_type="nf4")
        theirs = dequantize_4bit(codes, state).numpy()
        ours = pack_nf4(weight)
        scales = torch.from_numpy(ours.scales.reshape(-1))
        same = np.repeat((scales == state.absmax).numpy(), 64).reshape(weight.shape)  # all but where the means differ
        assert same.mean() > 0.999
        np.testing.assert_allclose(dense_weight(ours)[same], theirs[same], rtol=4e-6, atol=1e-8, err_msg=name)

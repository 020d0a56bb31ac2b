"""Every type of GGUF unfolds to what the `gguf` package makes of the same bytes."""

import math
import re

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gguf.quants import dequantize

from jora_engine.model.ggml_blocks import KINDS, Blocks, tile_of

SCALES = {"Q2_K": (80, 84), "Q3_K": (108, 110), "Q6_K": (208, 210), "Q4_1": (0, 4), "Q5_1": (0, 4)}
SCALES |= {"Q4_K": (0, 4), "Q5_K": (0, 4)}


def random_blocks(kind, rows, columns, seed=0):
    """Bytes `[rows, blocks, bytes]` that may stand in a file: any codes, scales that are finite."""
    rng, size = np.random.default_rng(seed), KINDS[kind]
    data = rng.integers(0, 256, (rows, columns // size.numbers, size.bytes), dtype=np.uint8)
    if kind.startswith("Q"):
        begin, end = SCALES.get(kind, (0, 2))
        scales = rng.normal(size=(*data.shape[:2], (end - begin) // 2)).astype(np.float16)
        data[..., begin:end] = scales.view(np.uint8)
    else:
        values = rng.normal(size=data.shape[:2]).astype(np.float32)
        if kind == "BF16":
            return (values.view(np.uint32) >> 16).astype("<u2").view(np.uint8).reshape(data.shape)
        return values.astype({"F32": "<f4", "F16": "<f2"}[kind]).view(np.uint8).reshape(data.shape)
    return data


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_a_kind_is_read_as_the_gguf_package_reads_it(kind):
    data = random_blocks(kind, 6, 512)
    theirs = dequantize(data.reshape(6, -1), gguf.GGMLQuantizationType[kind]).reshape(6, 512)
    assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]] == KINDS[kind][:2]
    ours = Blocks(jnp.asarray(data), jnp.int32(0), (kind,)).dense("float32")
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=1e-6, atol=1e-6 * np.abs(theirs).max())


def test_layers_of_several_kinds_each_take_their_own():
    kinds = ("Q4_K", "Q6_K", "Q8_0")
    tile = tile_of(kinds)
    assert tile == (256, 8 * 34)
    unfold = jax.jit(lambda w: w.dense("float32"))
    for number, kind in enumerate(kinds):
        own = random_blocks(kind, 4, 512, number).reshape(4, 2, -1)
        data = np.zeros((4, 2, tile.bytes), np.uint8)
        data[..., : own.shape[-1]] = own
        theirs = dequantize(own.reshape(4, -1), gguf.GGMLQuantizationType[kind])
        ours = unfold(Blocks(jnp.asarray(data), jnp.int32(number), kinds))
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6 * np.abs(theirs).max())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K"])
def test_the_pieces_of_a_block_are_laid_side_by_side_as_bfloat16_alone(kind):
    """XLA:CPU would ask of each number to which piece it belongs, at three to nine times the cost."""
    rows, columns = 64, 1024
    weight = Blocks(jnp.asarray(random_blocks(kind, rows, columns)), jnp.int32(0), (kind,))
    text = jax.jit(lambda w: w.dense("bfloat16")).lower(weight).compile().as_text()
    joined = re.findall(r"= (\w+)\[([\d,]+)\]\S* concatenate\(", text)
    whole = {dtype for dtype, shape in joined if math.prod(map(int, shape.split(","))) == rows * columns}
    assert whole in ({"u16"}, {"bf16"}), "no codes, and no float32"

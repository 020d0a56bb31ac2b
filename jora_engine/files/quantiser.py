"""Packs plain weights: int8 with a scale for each output channel, and NF4 with double quantisation.

Done on the host in float32, a weight at a time, so that the same file gives the same codes on every machine. NF4 is
bitsandbytes' (0.50): the same block of 64, the same rounding, the same map of 8 bits for the scales. The mean of the
scales is the exact one rounded once, where bitsandbytes' depends on how many threads torch sums with.
"""

from __future__ import annotations

import functools

import numpy as np

from jora_engine.model.quantised import BLOCK, NESTED, NF4, Int8, NormalFloat, block_of

CHUNK = 1 << 16  # numbers worked on at a time: they stay in a core's cache


def pack(weight: np.ndarray, precision: str) -> Int8 | NormalFloat:
    """A weight `[out, in]` in `int8` or `nf4`, as numpy arrays."""
    return pack_int8(weight) if precision == "int8" else pack_nf4(weight)


def pack_int8(weight: np.ndarray) -> Int8:
    """Symmetric, by the largest absolute value of each row; a row of zeros stays one."""
    values = weight.astype(np.float32)
    largest = np.abs(values).max(axis=1)
    factor = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
    return Int8(np.rint(values * factor[:, None]).astype(np.int8), largest / np.float32(127))


def pack_nf4(weight: np.ndarray) -> NormalFloat:
    """4 bits a number, 8 a scale."""
    rows, columns = weight.shape
    block = block_of(columns)
    codes = np.empty((rows, columns // block, block), np.uint8)
    largest = np.empty((rows, columns // block), np.float32)
    step = max(1, CHUNK // columns)
    for at in range(0, rows, step):
        values = weight[at : at + step].astype(np.float32).reshape(-1, columns // block, block)
        part = np.abs(values).max(axis=-1)
        values *= (np.float32(1) / np.maximum(part, np.float32(1e-38)))[..., None]
        np.clip(values, -1, 1, out=values)
        codes[at : at + step] = nearest_nf4(values)
        largest[at : at + step] = part
    offset = np.float32(largest.mean(dtype=np.float64))
    scales, nested = pack_scales(largest.reshape(-1) - offset)
    values = np.asarray(NF4, np.float32)
    return NormalFloat(in_halves(codes), scales.reshape(largest.shape), values, dynamic_map(), nested, offset)  # type: ignore[arg-type]


def nearest_nf4(values: np.ndarray) -> np.ndarray:
    """The number of the nearest of NF4's values, uint8; the lower one of two that are equally near."""
    levels = np.asarray(NF4, np.float32)
    codes = np.zeros(values.shape, np.uint8)
    for bound in (levels[:-1] + levels[1:]) / np.float32(2):
        codes += values > bound
    return codes


def pack_scales(scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Float32 `[n]` as numbers of `dynamic_map`, uint8 `[n]`, and a float32 scale for each 256 of them.

    As bitsandbytes does it on a CPU: rounded to one of 65536 equal steps, then the level nearest to that.
    """
    count = scales.shape[0]
    padded = np.zeros(-(-count // NESTED) * NESTED, np.float32)
    padded[:count] = scales
    padded = padded.reshape(-1, NESTED)
    nested = np.abs(padded).max(axis=1)
    values = np.divide(padded, nested[:, None], out=np.zeros_like(padded), where=nested[:, None] > 0)
    step = np.floor((values + np.float32(1)) * np.float32(32767.5) + np.float32(0.5)).astype(np.int64)
    return _nearest_level()[np.clip(step, 0, 65535)].reshape(-1)[:count], nested


@functools.cache
def _nearest_level() -> np.ndarray:
    """The number of the level that is nearest to each of 65536 steps from -1 to 1, uint8."""
    levels = dynamic_map().astype(np.float64)
    steps = np.arange(65536) / 32767.5 - 1
    return np.searchsorted((levels[:-1] + levels[1:]) / 2, steps, side="left").astype(np.uint8)


@functools.cache
def dynamic_map() -> np.ndarray:
    """The 256 values of bitsandbytes' signed dynamic type, ascending float32 (arXiv 1511.04561).

    Of each of seven decades twice as many as of the one below, in equal steps.
    """
    values: list[np.float32] = []
    for exponent in range(7):
        edges = _edges(2**exponent + 1)
        means = (edges[:-1] + edges[1:]) / np.float32(2)
        scaled = np.float32(10.0 ** (exponent - 6)) * means
        values += [*scaled, *-scaled]
    return np.sort(np.asarray([*values, 0.0, 1.0], np.float32))


def _edges(count: int) -> np.ndarray:
    """torch's `linspace(0.1, 1, count)` in float32: from both ends towards the middle, multiplied and added in one."""
    first, last = np.float32(0.1), np.float32(1)
    step, index = np.float64((last - first) / np.float32(count - 1)), np.arange(count)
    return np.where(index < count // 2, first + step * index, last - step * (count - 1 - index)).astype(np.float32)


def in_halves(codes: np.ndarray) -> np.ndarray:
    """Codes `[out, blocks, block]` two a byte, as `NormalFloat.codes` has them."""
    half = codes.shape[-1] // 2
    return codes[..., :half] << 4 | codes[..., half:]


def in_pairs(weight: NormalFloat) -> np.ndarray:
    """The codes as bitsandbytes packs them, `[numbers / 2]` uint8: neighbours share a byte, the first above."""
    codes = np.asarray(weight.codes)
    flat = np.concatenate([codes >> 4, codes & 15], axis=-1).reshape(-1, 2)
    return flat[:, 0] << 4 | flat[:, 1]


def from_pairs(pairs: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Undoes `in_pairs` for a weight `[rows, columns]`: `NormalFloat.codes`."""
    codes = np.stack([pairs >> 4, pairs & 15], axis=-1)
    return in_halves(codes.reshape(rows, columns // BLOCK, BLOCK))

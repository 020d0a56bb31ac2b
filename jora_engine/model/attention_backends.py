"""Attention kernels beside the blocked form, and the choice among them by a check on the device.

A kernel of an accelerator is used only where it has just computed, for the very shape, mask and dtype of the run, what
the blocked form computes: any exception or difference means the blocked form, with the reason. On a CPU it is the
native kernel or the blocked form; there the check is made once for a library, with shapes that have every kind of tile.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from jora_engine.model.agreement import Valued, disagreement, drawn
from jora_engine.model.arithmetic import fault_beside_attention
from jora_engine.model.attention import Mask, attention
from jora_engine.model.kv_cache import PromptCache, ReplyCache, Stretch, stored
from jora_engine.model.native import calls
from jora_engine.model.native.library import Library, Unavailable, library
from jora_engine.model.ops_cpu import to_bits
from jora_engine.model.target import platform

log = logging.getLogger("raft.engine")

Kernel = Callable[[jax.Array, jax.Array, jax.Array, Mask, "int | None"], jax.Array]
"""`kernel(q, k, v, mask, window)` with the meaning of `attention.attention`."""

MASKED_TOKENS = 8192  # a dense mask grows with the square: 128 MiB a row at this length


@dataclass(frozen=True)
class Shape:
    """What a kernel is chosen for: one device's part of a micro batch.

    Attributes:
        packed: whether a row may hold several segments; else each is one segment, then padding.
    """

    rows: int
    length: int
    heads: int
    kv_heads: int
    head_dim: int
    window: int | None
    packed: bool
    dtype: str


class Choice(NamedTuple):
    """A back end and why it was taken, with why others were not.

    Attributes:
        kernels: name of this machine's native library, also where it has nothing for the shape; `xla` without one.
    """

    backend: str
    reason: str
    kernels: str = "xla"


def cudnn(q, k, v, mask, window, *, implementation="cudnn"):
    """cuDNN's fused attention for rows of one segment each, padded on the right."""
    lengths = (jnp.asarray(mask.segments) > 0).sum(1).astype(jnp.int32)
    return jax.nn.dot_product_attention(
        q,
        k,
        v,
        is_causal=True,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        local_window_size=None if window is None else (window - 1, 0),  # JAX counts the tokens before, HF all
        implementation=implementation,
    )


def cudnn_masked(q, k, v, mask, window, *, implementation="cudnn"):
    """cuDNN's fused attention with a dense mask `[rows, 1, length, length]`, for packed rows that are not too long."""
    if q.shape[1] > MASKED_TOKENS:
        raise ValueError(f"a dense mask of {q.shape[1]} tokens is too large")
    index = jnp.arange(q.shape[1])
    seen = (mask.segments[:, :, None] == mask.segments[:, None, :]) & (index[:, None] >= index)
    if window is not None:
        seen &= index[:, None] - index < window
    return jax.nn.dot_product_attention(q, k, v, mask=seen[:, None], implementation=implementation)


def pallas(q, k, v, mask, window, *, interpret=False):
    """The Triton flash attention that comes with JAX: segments, equal heads (keys and values are repeated)."""
    from jax.experimental.pallas.ops.gpu.attention import mha  # warns on import in newer versions: only where used

    if window is not None and window < q.shape[1]:
        raise ValueError("this kernel has no window")
    group = q.shape[2] // k.shape[2]
    k, v = jnp.repeat(k, group, axis=2), jnp.repeat(v, group, axis=2)
    return mha(q, k, v, mask.segments, sm_scale=q.shape[-1] ** -0.5, causal=True, interpret=interpret)


KERNELS: dict[str, Kernel] = {"cudnn": cudnn, "pallas": pallas, "cudnn_masked": cudnn_masked}
"""In the order they are tried; a fixed order, not the clock, so that a resumed run takes the same one."""


def attend_with(
    backend: str, window: int | None, scale: float | None = None, softcap: float | None = None
) -> Callable[..., jax.Array]:
    """`attention(q, k, v, mask, offset=0)` for a back end: a kernel by its name, `native`, `blocked` or `reference`.

    An accelerator's kernels know neither `scale` nor `softcap` (see `attention`): `choose` is told where there is one.
    """
    if backend == "native":
        return functools.partial(calls.attention, window=window, scale=scale, softcap=softcap)
    if backend not in KERNELS:
        return functools.partial(attention, window=window, backend=backend, scale=scale, softcap=softcap)
    kernel = KERNELS[backend]

    def run(q, k, v, mask, offset=0):
        return checkpoint_name(kernel(q, k, v, mask, window), "attention_out")

    return run


@functools.lru_cache
def choose(shape: Shape, barred: str = "") -> Choice:
    """The back end for a shape on the first device; told to the log.

    Args:
        barred: why none of an accelerator's kernels can be taken; "" where one can.
    """
    if platform() == "cpu":
        choice = _on_cpu(shape)
    elif barred or platform() != "gpu":
        return Choice("blocked", barred or f"the only one on {platform()}")
    else:
        kernels = {name: kernel for name, kernel in KERNELS.items() if not (shape.packed and kernel is cudnn)}
        choice = first_right(shape, kernels)
    log.info("attention: %s (%s)", choice.backend, choice.reason)
    return choice


CHECKED = Shape(rows=2, length=200, heads=4, kv_heads=2, head_dim=40, window=70, packed=True, dtype="float32")
"""What a native library is checked with: segments that cross tiles, a window, a head that is no whole vectors."""


def _on_cpu(shape: Shape) -> Choice:
    try:
        kernels = library()
    except Unavailable as reason:
        return Choice("blocked", f"no native kernel: {reason}")
    if shape.dtype not in kernels.dtypes or shape.head_dim % 2 or shape.head_dim > calls.WIDEST:
        absent = f"no native kernel for {shape.dtype} and heads of {shape.head_dim}"
        return Choice("blocked", absent, kernels.name)
    if wrong := _verdict(kernels, shape.dtype):
        return Choice("blocked", f"native: {wrong}", kernels.name)
    return Choice("native", "agrees with the blocked form", kernels.name)


def _verdict(kernels: Library, dtype: str) -> str:
    """What the check of a library found, made at its first use and kept beside it; empty where it is right."""
    kept = kernels.file.with_suffix(f".{dtype}.txt")
    with contextlib.suppress(OSError):
        if (text := kept.read_text(encoding="utf-8")).endswith("\n"):
            return text.strip()

    def kernel(q, k, v, mask, window):
        return calls.attention(q, k, v, mask, window=window)

    wrong = fault(dataclasses.replace(CHECKED, dtype=dtype), kernel) or fault_beside_attention(dtype)
    wrong = wrong or fault_over_cache(dtype)
    with contextlib.suppress(OSError):  # without it the next process checks again
        kept.write_text(f"{wrong}\n", encoding="utf-8", newline="\n")
    return wrong


def native_over_cache(heads: int, kv_heads: int, head_dim: int, dtype: str) -> bool:
    """Whether prompts and replies attend over a cache by the native kernels."""
    one = Shape(1, CHECKED.length, heads, kv_heads, head_dim, window=None, packed=False, dtype=dtype)
    return choose(one).backend == "native"


def fault_over_cache(dtype: str) -> str:
    """What is wrong with the native attention over a cache, by `disagreement` with XLA's; empty where it is right.
    Three segments, a start inside a tile, a window that ends in one; a part of a prompt, and a reply's next token."""
    heads, kv_heads, width, columns, start = 4, 2, 40, 512, 200
    shapes = [(2, 100, heads, width), (2, kv_heads, width, columns), (2, kv_heads, columns, width)]
    inputs = [drawn(key, shape, dtype) for key, shape in zip(jax.random.split(jax.random.key(0), 3), shapes)]

    def valued(native: bool) -> Valued:
        def value(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
            q, k, v = map(jax.lax.stop_gradient, (q, k, v))  # generation has no gradients
            whole = stored(Stretch(k, v), to_bits(q).dtype if native else jnp.dtype("float32"))
            ends = itertools.pairwise((0, 128, 256, columns))
            segments = tuple(Stretch(whole.k[..., a:b], whole.v[:, :, a:b]) for a, b in ends)
            asked = {"window": CHECKED.window, "scale": None, "softcap": None}
            prompt = PromptCache(segments, jnp.int32(1), jnp.int32(start), native)
            positions = start + jnp.arange(shapes[0][1])[None]
            mixes = [prompt.attention(q[1:], positions, **asked)]
            recent = Stretch(segments[1].k[..., :8], segments[1].v[:, :, :8])
            begins = jnp.asarray([start, 77])
            reply = ReplyCache(segments, recent, begins, jnp.int32(4), jnp.ones(2, bool), native)
            mixes += [reply.attention(q[:, :1], begins[:, None] + 4, **asked)]
            out = jnp.concatenate([mix.astype(jnp.float32).ravel() for mix in mixes])
            return out.sum(), out

        return value

    names = ("attention over a cache", *("no gradient",) * 3)
    return disagreement(dtype, inputs, valued(True), valued(False), names)


def first_right(shape: Shape, kernels: Mapping[str, Kernel]) -> Choice:
    """The first kernel that computes on this device what the blocked form computes, else `blocked`."""
    told: list[str] = []
    for name, kernel in kernels.items():
        wrong = fault(shape, kernel)
        if not wrong:
            return Choice(name, "; ".join([*told, f"{name} agrees with the blocked form"]))
        told.append(f"{name}: {wrong}")
    return Choice("blocked", "; ".join(told) or "no kernel for this shape")


def fault(shape: Shape, kernel: Kernel) -> str:
    """What is wrong with a kernel for a shape, by `disagreement` with the blocked form; empty where it is right."""
    inputs, mask, weight = _draw(shape)

    def valued(function: Callable[..., jax.Array]) -> Valued:
        def value(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
            out = function(q, k, v).astype(jnp.float32)
            return (out * weight).sum(), out * (weight != 0)

        return value

    tried = valued(lambda q, k, v: kernel(q, k, v, mask, shape.window))
    plain = valued(lambda q, k, v: attention(q, k, v, mask, window=shape.window))
    return disagreement(shape.dtype, inputs, tried, plain, ("output", "dQ", "dK", "dV"))


def _draw(shape: Shape) -> tuple[list[jax.Array], Mask, jax.Array]:
    """Random inputs, a mask with segments (where packed) and padding, and a weight that is 0 at padding."""
    keys = jax.random.split(jax.random.key(0), 4)
    heads = (shape.heads, shape.kv_heads, shape.kv_heads)
    inputs = [drawn(key, (shape.rows, shape.length, n, shape.head_dim), shape.dtype) for key, n in zip(keys, heads)]
    segments, positions = (np.zeros((shape.rows, shape.length), np.int32) for _ in range(2))
    for row in range(shape.rows):
        end = shape.length - (row + 1) * (shape.length // 16)
        cuts = [0, end // 5 + row, end // 2, end] if shape.packed else [0, end]
        for number, (a, b) in enumerate(itertools.pairwise(cuts), 1):
            segments[row, a:b], positions[row, a:b] = number, np.arange(b - a)
        positions[row, end:] = np.arange(shape.length - end)
    weight = jax.random.normal(keys[3], inputs[0].shape) * (segments > 0)[:, :, None, None]
    return inputs, Mask(jnp.asarray(segments), jnp.asarray(positions)), weight

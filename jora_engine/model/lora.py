"""The trainable half: LoRA factors as a pytree in PEFT's shapes, and the linear layer that adds them to a frozen one.

`{"q": {"a": [L, r, in], "b": [L, out, r]}, ...}` in float32, one entry per adapted module, layers stacked. What is
adapted and at which scale is `LoraConfig`'s business; reading and writing PEFT folders is `adapters`'.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from jora_engine.config.architecture import ModelConfig
from jora_engine.config.lora import LoraConfig
from jora_engine.config.parameters import linear_layers
from jora_engine.model.dropout import Dropout, drop
from jora_engine.model.ops import accumulate
from jora_engine.model.ops_cpu import from_bits, to_bits
from jora_engine.model.quantised import fetched, is_packed

Adapter = dict[str, dict[str, jax.Array]]


def init_lora(config: LoraConfig, model: ModelConfig, seed: int) -> Adapter:
    """A ~ U(-1/sqrt(in), 1/sqrt(in)) (PEFT's kaiming_uniform with a = sqrt 5), B = 0: the base function unchanged.

    The same seed gives the same numbers on every device count. A layer that is to carry no adapter has A = 0 as well:
    both gradients are then 0 and it stays without one.
    """
    linear, out = linear_layers(model), {}
    bare = [i for i in range(model.num_layers) if i not in config.layers(model.num_layers)]
    for index, name in enumerate(config.targets(model)):
        rows, columns = linear[name].shape
        key = jax.random.fold_in(jax.random.key(seed), index)
        bound = columns**-0.5
        a = jax.random.uniform(key, (model.num_layers, config.rank, columns), jnp.float32, -bound, bound)
        if bare:
            a = a.at[jnp.asarray(bare)].set(0.0)
        out[name] = {"a": a, "b": jnp.zeros((model.num_layers, rows, config.rank), jnp.float32)}
    return out


def parameter_count(config: LoraConfig, model: ModelConfig) -> int:
    """Trainable numbers in the adapter."""
    linear = linear_layers(model)
    each = sum(config.rank * sum(linear[name].shape) for name in config.targets(model))
    return each * len(config.layers(model.num_layers))


def prepare(lora: Adapter, scale: float, dtype: jnp.dtype) -> Adapter:
    """The adapter as the forward pass wants it: the scale folded into B, then cast. Differentiable."""
    return {name: {"a": ab["a"].astype(dtype), "b": (ab["b"] * scale).astype(dtype)} for name, ab in lora.items()}


@struct.dataclass
class Joined:
    """Linear layers that share their input as one matrix, for generation: `[sum of outs, in]` and its bias."""

    weight: jax.Array
    bias: jax.Array | None
    outs: tuple[int, ...] = struct.field(pytree_node=False)


@struct.dataclass
class Slotted:
    """Adapters of the linear layers that share an input, one in each slot, for generation.

    Attributes:
        a: `[slots, modules, rank, in]`, as bits on a CPU (`ops_cpu.to_bits`).
        b: of each module `[slots, rank, out]`, the scale in it, as bits on a CPU.
        own: `[tokens, slots]` bool, the slot of each token; None where there is one slot and it is everybody's.
        names: the modules, in the order of `a`.
    """

    a: jax.Array
    b: tuple[jax.Array, ...]
    own: jax.Array | None
    names: tuple[str, ...] = struct.field(pytree_node=False)

    def of_slot(self, slot: jax.Array) -> Slotted:
        """One slot's adapter alone."""
        a, *b = (from_bits(lax.dynamic_slice_in_dim(to_bits(x), slot, 1, 0)) for x in (self.a, *self.b))
        return dataclasses.replace(self, a=a, b=tuple(b), own=None)

    def deltas(self, x: jax.Array) -> dict[str, jax.Array]:
        """What each module's adapter adds for x `[tokens, in]`, float32 `[tokens, out]`.

        One product over the factors of all slots, with what is another slot's set to 0: a slot of zeros adds 0 exactly,
        and a token's sum does not depend on what the other slots hold.
        """
        slots, modules, rank, width = self.a.shape
        low = accumulate("ti,ri->tr", x, self.a.astype(x.dtype).reshape(-1, width))
        low = low.reshape(-1, slots, modules, rank)
        if self.own is not None:
            low = jnp.where(self.own[:, :, None, None], low, 0.0)
        low = low.astype(x.dtype)
        return {
            name: accumulate(
                "tr,ro->to",
                low[:, :, number].reshape(-1, slots * rank),
                b.astype(x.dtype).reshape(slots * rank, -1),
            )
            for number, (name, b) in enumerate(zip(self.names, self.b, strict=True))
        }


def joined(
    layer: Mapping[str, Any], groups: Sequence[Sequence[str]], join: Callable[[list[Any]], Any]
) -> dict[str, Any]:
    """A layer's parameters with each group of linear layers (`linear` takes them by these names) as one `Joined`;
    packed weights stay apart, each with its own scales."""
    out, parted = {}, set()
    for names in groups:
        if any(is_packed(layer.get(name)) for name in names):
            continue
        parts, biases = ([layer[f"{name}{end}"] for name in names if f"{name}{end}" in layer] for end in ("", "_bias"))
        outs = tuple(part.shape[0] for part in parts)
        out["+".join(names)] = Joined(join(parts), join(biases) if biases else None, outs)
        parted |= {f"{name}{end}" for name in names for end in ("", "_bias")}
    return {name: value for name, value in layer.items() if name not in parted} | out


def linear(
    x: jax.Array,
    names: Sequence[str],
    layer: Mapping[str, Any],
    lora: Adapter,
    dropout: Dropout | None = None,
) -> list[jax.Array]:
    """The linear layers `names`, which share the input `x`, each with its adapter if it has one.

    Args:
        x: `[batch, seq, in]`, or `[tokens, in]` where nothing is trained: with three dimensions XLA:CPU would transpose
            a weight that a loop does not change, once per call.
        layer: one decoder layer's parameters, `name` -> `[out, in]` and optionally `name_bias` -> `[out]`, or `joined`.
        lora: one layer of a prepared adapter (`prepare`), `{"q": {"a": [r, in], "b": [out, r]}}`, or in generation
            `{"q+k+v": Slotted}`, by the names joined.
        dropout: what the adapters do not see of `x`; those that share an input drop the same of it, where PEFT draws
            for each.

    Returns:
        One `[..., out]` per name. The A factors of the group are multiplied as one matrix.
    """
    together = "+".join(names)
    slotted: Any = lora.get(together)
    if isinstance(whole := layer.get(together), Joined):
        y = accumulate("...i,oi->...o", x, whole.weight)
        if slotted is not None:
            deltas = slotted.deltas(x)
            outs = zip(names, whole.outs, strict=True)
            y += jnp.concatenate([deltas.get(n, jnp.zeros((*x.shape[:-1], o))) for n, o in outs], axis=-1)
        y = y.astype(x.dtype) if whole.bias is None else y.astype(x.dtype) + whole.bias
        return jnp.split(y, list(itertools.accumulate(whole.outs[:-1])), axis=-1)
    if isinstance(slotted, Slotted):
        deltas, out = slotted.deltas(x), {}
        for name in names:
            y = _product(x, layer[name])
            out[name] = (y + deltas[name] if name in deltas else y).astype(x.dtype)
        return [out[name] + layer[f"{name}_bias"] if f"{name}_bias" in layer else out[name] for name in names]
    group = {name: lora[name] for name in names if name in lora}
    out = _adapted(x, {name: layer[name] for name in names}, group, dropout if group else None)
    return [out[name] + layer[f"{name}_bias"] if f"{name}_bias" in layer else out[name] for name in names]


@jax.custom_vjp
def _adapted(
    x: jax.Array, weights: dict[str, jax.Array], lora: Adapter, dropout: Dropout | None
) -> dict[str, jax.Array]:
    """`x @ w.T + (drop(x) @ a.T) @ b.T` for each of `weights`, summed in float32 and rounded once, both ways."""
    return _adapted_forward(x, weights, lora, dropout)[0]


def _adapted_forward(x, weights, lora, dropout):
    low = {}
    if lora:
        joined = accumulate("bti,ri->btr", drop(x, dropout), _joined(lora, x.dtype)).astype(x.dtype)
        low = dict(zip(lora, jnp.split(joined, len(lora), axis=-1)))
    out = {}
    for name, w in weights.items():
        y = _product(x, w)
        if name in lora:
            y += accumulate("btr,or->bto", low[name], lora[name]["b"].astype(x.dtype))
        out[name] = y.astype(x.dtype)
    return out, (x, weights, lora, dropout, low)


def _adapted_backward(saved, g):
    # operands stay rank 3: XLA:CPU only takes its fast path for a weight gradient that contracts two dimensions
    x, weights, lora, dropout, low = saved
    g = {name: g[name].astype(x.dtype) for name in weights}
    dx = functools.reduce(operator.add, (_product_back(g[name], w) for name, w in weights.items()))
    dw = {  # XLA drops these
        name: None if is_packed(w) else accumulate("bto,bti->oi", g[name], x).astype(w.dtype)
        for name, w in weights.items()
    }
    if not lora:
        return dx.astype(x.dtype), dw, {}, None
    d_low = {name: accumulate("bto,or->btr", g[name], ab["b"].astype(x.dtype)) for name, ab in lora.items()}
    joined = jnp.concatenate([d_low[name] for name in lora], axis=-1).astype(x.dtype)
    dx += drop(accumulate("btr,ri->bti", joined, _joined(lora, x.dtype)), dropout)
    da = dict(zip(lora, jnp.split(accumulate("btr,bti->ri", joined, drop(x, dropout)), len(lora))))
    d_lora = {
        name: {
            "a": da[name].astype(ab["a"].dtype),
            # this way round XLA transposes the narrow operand; the barrier keeps the result's transpose out of the dot,
            # which XLA:CPU does not implement for bfloat16
            "b": lax.optimization_barrier(accumulate("btr,bto->ro", low[name], g[name])).T.astype(ab["b"].dtype),
        }
        for name, ab in lora.items()
    }
    return dx.astype(x.dtype), dw, d_lora, None


_adapted.defvjp(_adapted_forward, _adapted_backward)


def _product(x: jax.Array, weight: Any) -> jax.Array:
    """`x @ w.T`, float32 `[..., out]`; the weight may be packed."""
    w, x = fetched(weight, x)
    return accumulate("...i,oi->...o", x, w)


def _product_back(g: jax.Array, weight: Any) -> jax.Array:
    """The gradient of x for that of `_product`: a packed weight is unfolded anew, none was kept for it."""
    w, g = fetched(weight, g)
    return accumulate("bto,oi->bti", g, w)


def _joined(lora: Adapter, dtype: jnp.dtype) -> jax.Array:
    """The A factors of a group as one matrix `[sum of ranks, in]`."""
    return jnp.concatenate([ab["a"].astype(dtype) for ab in lora.values()])

"""What a training run will need, told before a weight is loaded: memory of each device, steps, FLOPs, time.

The step is compiled ahead of time from shapes alone, so the plan of a 70 B model on eight devices takes seconds on a
laptop. `choose` walks from the fastest setting to the leanest until one fits. Nothing here runs a step.
"""

from __future__ import annotations

import dataclasses
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jora_engine.config.architecture import ModelConfig
from jora_engine.config.lora import LoraConfig
from jora_engine.config.parameters import linear_layers
from jora_engine.config.recipe import TrainConfig
from jora_engine.model.parameters import param_shapes
from jora_engine.model.sharding import AXES, Placement, with_shardings
from jora_engine.model.target import platform
from jora_engine.training.loop import Trainer
from jora_engine.training.packing import Example
from raft_errors import BadInput, RaftError

REMAT_LADDER = ("none", "names", "layer", "offload")
"""What the backward pass computes again, from nothing (fastest, most memory) to a layer with its input on the host."""

GIB = 2**30
COLLECTIVES = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"


@dataclass(frozen=True)
class Plan:
    """The outlook for one run.

    Attributes:
        bytes: of one device, by what takes them; `temporaries` (activations above all) is the compiler's figure.
        available: bytes one device has, None where it is not known.
        compiled_for: platform whose compiler gave the figures.
        tokens: of all steps, without padding; `padding` is the share of row tokens that are none.
        flops: of all steps, recomputation excluded.
        seconds: of all steps, None where no speed is known.
        collectives: how often each occurs in the compiled program (a loop's body counts once).
    """

    devices: int
    compiled_for: str
    mesh: dict[str, int]
    training: TrainConfig
    bytes: dict[str, int]
    available: int | None
    steps: int
    tokens: int
    padding: float
    flops: float
    collectives: dict[str, int]
    notes: tuple[str, ...]
    seconds: float | None = None

    @property
    def total(self) -> int:
        return sum(self.bytes.values())

    @property
    def fits(self) -> bool:
        return self.available is None or self.total <= self.available

    def to_json(self) -> dict[str, Any]:
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "training"}
        setting = {
            n: getattr(self.training, n) for n in ("remat", "micro_batch_rows", "accumulation", "sequence_length")
        }
        return {**own, "notes": list(self.notes), **setting, "total": self.total, "fits": self.fits}


def abstract_params(
    model: ModelConfig, dtype: str, placement: Placement | None, packed: Mapping[str, Any] | None = None
) -> Any:
    """The base's parameters as shapes on their devices, held as training holds them there (`held_as_bits`).

    Args:
        packed: the leaves in fewer bits (`weights.packed_leaves`).
    """
    shapes = param_shapes(model, dtype, bits=held_as_bits(), packed=packed)
    return with_shardings(shapes, placement.params(shapes)) if placement else shapes


def held_as_bits() -> bool:
    """Whether training holds the base's layers as bits (`weights.load_params`) on the platform that is compiled for."""
    return platform() == "cpu"


def full_rows(config: TrainConfig, supervised: int = 64) -> list[Example]:
    """Examples that fill the rows of one step, for a plan without records: each has `supervised` target tokens."""
    supervised = min(supervised, config.sequence_length // 2)
    prompt = np.zeros(config.sequence_length - supervised, np.int32)
    rows = config.micro_batch_rows * config.accumulation
    return [Example(prompt, np.zeros(supervised, np.int32))] * rows


def plan(trainer: Trainer, available: int | None = None) -> Plan:
    """The plan of a trainer, whose base may be abstract (`abstract_params`). Compiles its step.

    Args:
        available: bytes one device has.
    """
    compiled = trainer.compile()
    figures, placement = compiled.memory_analysis(), trainer.placement
    if figures is None:
        raise RaftError("the compiler of this back end does not tell the memory of a program", do="set train.remat")
    state = jax.eval_shape(trainer.initial_state)
    if placement:
        state = with_shardings(state, placement.adapters(state))
    weights, adapter = _held(trainer.params), _held(state.lora)
    held = {
        "weights": weights,
        "adapter": adapter + _held(state.best_lora),
        "optimizer": _held(state.optimizer),
        "gradient": adapter,
        "batch": max(0, int(figures.argument_size_in_bytes) - weights - 2 * adapter),
        "temporaries": int(figures.temp_size_in_bytes + figures.output_size_in_bytes - figures.alias_size_in_bytes),
    }
    lengths = [e.length for e in trainer.examples]
    rows = [
        (p, r) for epoch, numbers in trainer.schedule.steps for p in [trainer.schedule.packings[epoch]] for r in numbers
    ]
    tokens = sum(lengths[i] for packing, row in rows for i in packing.rows[row])
    targets = sum(len(e.completion) for e in trainer.examples) / max(1, sum(lengths))
    document = sum(n * n for n in lengths) / max(1, sum(lengths))
    return Plan(
        devices=placement.mesh.size if placement else 1,
        compiled_for=platform(),
        mesh={axis: placement.size(axis) if placement else 1 for axis in AXES},
        training=trainer.config,
        bytes=held,
        available=available,
        steps=len(trainer.schedule.steps),
        tokens=tokens,
        padding=1 - tokens / max(1, sum(packing.length for packing, _ in rows)),
        flops=tokens * flops_per_token(trainer.model, trainer.lora_config, document, targets),
        collectives=census(compiled.as_text() or ""),
        notes=placement.notes if placement else (),
    )


def census(program: str) -> dict[str, int]:
    """How often each collective occurs in a compiled program's text."""
    found: dict[str, int] = {}
    for kind in re.findall(rf" ({COLLECTIVES})(?:-start)?\(", program):
        found[kind] = found.get(kind, 0) + 1
    return dict(sorted(found.items()))


def weights_in_full(program: str, shapes: Iterable[tuple[int, ...]], layers: int) -> list[str]:
    """The arrays of a compiled program, as its text names them, that hold plain numbers of a weight for all layers.

    With a packed base there should be none: one would be a residual that the backward pass was left.

    Args:
        shapes: `(out, in)` of the weights. An array of activations may be no weight's: leave out what is both.
        layers: of the model. The last one has a program of its own, so a residual holds all or all but one.
    """
    wanted = {side for rows, columns in shapes for side in ((rows, columns), (columns, rows))}
    arrays = []
    for kind, text in sorted(set(re.findall(r"\b(f32|bf16|f16|u16)\[([0-9,]+)\]", program))):
        count, *sizes = map(int, text.split(","))
        sides = {(math.prod(sizes[:at]), math.prod(sizes[at:])) for at in range(1, len(sizes))}
        if count in (layers, layers - 1) and count > 1 and sides & wanted:
            arrays.append(f"{kind}[{text}]")
    return arrays


def flops_per_token(model: ModelConfig, lora: LoraConfig, document_tokens: float, supervised: float = 1.0) -> float:
    """FLOPs of a training token: forward and backward through frozen matrices, adapters and causal attention.

    A frozen matrix costs 4 a parameter (its own gradient is not computed), an adapter 6; attention 7 per key, head
    and channel, half of the keys being masked. Recomputation is not counted.

    Args:
        document_tokens: mean length of the segment a token is in (attention does not cross segments).
        supervised: share of the tokens that go through the head.
    """
    linear = linear_layers(model)
    frozen = model.num_layers * sum(math.prod(parameter.shape) for parameter in linear.values())
    adapter = model.num_layers * lora.rank * sum(sum(linear[name].shape) for name in lora.targets(model))
    seen = [min(document_tokens, 2.0 * kind.window) if kind.window else document_tokens for kind in model.layer_kinds]
    attention = 7 * sum(seen) * model.num_heads * model.head_dim
    return 4 * (frozen + supervised * model.vocab_size * model.hidden_size) + 6 * adapter + attention


def device_memory() -> int | None:
    """Bytes that one of JAX's devices can hold: its limit, or its share of this machine's free memory on a CPU."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    free = _free_memory()
    return free and free // jax.local_device_count()


def _free_memory() -> int | None:
    """Free bytes of this machine or of the container it pretends to be; None where the system does not say."""
    try:
        said = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
        free = int(said[1]) * 1024 if said else None
    except OSError:
        return None
    try:
        limit, used = (Path("/sys/fs/cgroup", name).read_text().strip() for name in ("memory.max", "memory.current"))
        return min(free or sys.maxsize, int(limit) - int(used))
    except (OSError, ValueError):
        return free


def rungs(config: TrainConfig, *, cpu: bool) -> list[TrainConfig]:
    """The settings to try for `config.remat`, the fastest first: every rung of the ladder for `auto`, else that one.

    On a CPU `none` is not worth trying, as keeping everything writes more memory than recomputing costs in arithmetic,
    and `offload` is `layer`, as there is no other memory to offload to.
    """
    names: Sequence[str] = (config.remat,)
    if config.remat == "auto":
        names = ("names", "layer") if cpu else REMAT_LADDER
    elif config.remat == "offload" and cpu:
        names = ("layer",)
    return [dataclasses.replace(config, remat=name) for name in names]


def smaller_rows(config: TrainConfig, step: int) -> list[TrainConfig]:
    """The setting, then with its micro batch halved and accumulation doubled while rows stay a multiple of `step`."""
    found = [config]
    while (rows := found[-1].micro_batch_rows // 2) >= step and found[-1].micro_batch_rows % (2 * step) == 0:
        accumulation = config.accumulation * config.micro_batch_rows // rows
        found.append(dataclasses.replace(config, micro_batch_rows=rows, accumulation=accumulation))
    return found


def choose(
    make: Callable[[TrainConfig], Trainer], settings: Sequence[TrainConfig], available: int | None
) -> tuple[Trainer, list[Plan]]:
    """The trainer of the first setting that fits (else of the last one), and the plans of all that were tried.

    Args:
        make: a trainer for a setting, its base abstract.
        available: bytes one device has; None fits everything.
    """
    tried: list[Plan] = []
    for setting in settings:
        trainer = make(setting)
        tried.append(plan(trainer, available))
        if tried[-1].fits:
            break
    return trainer, tried


def refusal(made: Plan, first: str = "") -> BadInput:
    """The error for a run that cannot fit, with the plan's figures and what to lower; `first` is advised first."""
    parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in made.bytes.items() if size > GIB / 100)
    training, advice = made.training, [first] if first else []
    if training.micro_batch_rows > max(1, made.mesh["data"] * made.mesh["fsdp"]):
        advice.append(f"halve train.micro_batch_rows ({training.micro_batch_rows}) and double train.accumulation")
    if training.remat in ("none", "names"):
        advice.append("set train.remat to layer")
    if training.base_precision == "bfloat16" and made.bytes["weights"] > made.bytes["temporaries"]:
        advice.append("hold the base in fewer bits (train.base_precision nf4 or int8)")
    if made.bytes["temporaries"] > made.bytes["weights"]:
        advice.append(f"lower train.sequence_length ({training.sequence_length})")
    advice.append("use more devices or a smaller base")
    return BadInput(
        f"training would take {made.total / GIB:.2f} GiB on each of {made.devices} device(s) ({parts})",
        expected=f"at most {(made.available or 0) / GIB:.2f} GiB",
        do=", or ".join(advice),
    )


def _held(tree: Any) -> int:
    """Bytes of a tree on one device."""

    def size(leaf: Any) -> int:
        shape = leaf.sharding.shard_shape(leaf.shape) if getattr(leaf, "sharding", None) else leaf.shape
        return math.prod(shape) * jnp.dtype(leaf.dtype).itemsize

    return sum(size(leaf) for leaf in jax.tree.leaves(tree))

"""Tokenised examples into fixed-length rows, and rows into optimiser steps: a pure function of (examples, seed, epoch).

Rows hold whole examples side by side, told apart by segment ids and positions that restart, so packing changes no
loss. The order of everything is derived from the seed and the epoch alone: a resumed run needs only a step number.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from jora_engine.model.attention import Mask
from jora_engine.training.loss import Rehearsal, Supervision
from raft_errors import BadInput

CAPACITY_STEP = 64


class Example(NamedTuple):
    """A prompt and the completion that is trained on, as token ids; the completion ends with the stop token.

    Attributes:
        rehearsed: whether the base's own distribution at each token is learned, in place of the token.
    """

    prompt: np.ndarray
    completion: np.ndarray
    rehearsed: bool = False

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.completion)

    @property
    def tokens(self) -> np.ndarray:
        """`[length]` int32."""
        return np.concatenate([self.prompt, self.completion])


class Batch(NamedTuple):
    """Rows for one forward and backward pass: `[rows, seq]` arrays and the positions that carry loss."""

    tokens: np.ndarray
    mask: Mask
    supervision: Supervision


@dataclass(frozen=True)
class BaseStates:
    """The base's hidden states at the completion tokens of rehearsed examples.

    Attributes:
        of: `[tokens, width]` by the example's number; zeros stand for what is not there (a plan needs shapes alone).
    """

    width: int
    dtype: str
    of: dict[int, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Packing:
    """Rows of example numbers, in training order.

    Attributes:
        rows: example numbers of each row; every packed example appears once.
        length: tokens of a row.
        capacity: most supervised positions in a row, rounded up so that batches share one compiled shape.
        fill: share of row tokens that are not padding.
    """

    rows: tuple[tuple[int, ...], ...]
    length: int
    capacity: int
    fill: float


def fitting(examples: Sequence[Example], length: int) -> list[int]:
    """Numbers of the examples that fit a row of `length` tokens.

    Raises:
        BadInput: none fits.
    """
    kept = [i for i, example in enumerate(examples) if example.length <= length]
    if examples and not kept:
        raise BadInput(
            f"no training example fits: the shortest has {min(e.length for e in examples)} tokens,"
            f" train.sequence_length is {length}",
            expected="rows longer than the examples",
            do="raise train.sequence_length, or lower records.max_tokens",
        )
    return kept


def pack(examples: Sequence[Example], length: int, *, seed: int, epoch: int) -> Packing:
    """First-fit decreasing by length over a seeded shuffle; the rows are shuffled again afterwards.

    Examples longer than `length` are left out; count them with `fitting`.
    """
    rng = np.random.default_rng((seed, epoch))
    kept = fitting(examples, length)
    shuffled = [kept[i] for i in rng.permutation(len(kept))]
    numbers = sorted(shuffled, key=lambda i: -examples[i].length)  # stable: equal lengths keep the shuffle
    rows: list[list[int]] = []
    lengths = [examples[i].length for i in numbers]
    for number, row in zip(numbers, first_fit(lengths, length), strict=True):
        if row == len(rows):
            rows.append([])
        rows[row].append(number)
    order = rng.permutation(len(rows))
    supervised = max((sum(len(examples[i].completion) for i in row) for row in rows), default=0)
    return Packing(
        rows=tuple(tuple(rows[i]) for i in order),
        length=length,
        capacity=min(length, -(-max(supervised, 1) // CAPACITY_STEP) * CAPACITY_STEP),
        fill=1 - (length * len(rows) - sum(lengths)) / max(1, length * len(rows)),
    )


def first_fit(lengths: Sequence[int], size: int) -> list[int]:
    """For each length in turn the first row of `size` that still has room for it, none above `size`.

    A tree whose nodes hold the most room of any row below them leads to the row, so n lengths take n log n looks.
    """
    leaves = 1 << max(0, len(lengths) - 1).bit_length()
    most = [size] * (2 * leaves)  # node n has the children 2n and 2n + 1; leaf `leaves + r` is row r
    rows = []
    for length in lengths:
        node = 1
        while node < leaves:
            node = 2 * node if most[2 * node] >= length else 2 * node + 1
        rows.append(node - leaves)
        most[node] -= length
        while node > 1:
            node //= 2
            most[node] = max(most[2 * node], most[2 * node + 1])
    return rows


def make_batch(
    examples: Sequence[Example],
    rows: Sequence[Sequence[int]],
    length: int,
    capacity: int,
    base: BaseStates | None = None,
) -> Batch:
    """Arrays for the given rows of example numbers.

    The hidden state at position t predicts token t + 1; a completion's tokens are the targets, so the first
    supervised position of an example is the last token of its prompt, and the last token of an example has no loss.

    Args:
        base: for rehearsed examples; without it they are trained as any other.
    """
    shape = (len(rows), length)
    tokens, segments, positions = (np.zeros(shape, np.int32) for _ in range(3))
    position, target = (np.zeros((len(rows), capacity), np.int32) for _ in range(2))
    weight = np.zeros((len(rows), capacity), np.float32)
    rehearsal = None
    if base:
        rehearsal = Rehearsal(np.zeros_like(weight), np.zeros((*weight.shape, base.width), base.dtype))
    for r, row in enumerate(rows):
        at = slot = 0
        for segment, number in enumerate(row, 1):
            example = examples[number]
            completion, end = example.completion, at + example.length
            tokens[r, at:end] = example.tokens
            segments[r, at:end] = segment
            positions[r, at:end] = np.arange(end - at)
            stop = slot + len(completion)
            position[r, slot:stop] = np.arange(end - len(completion) - 1, end - 1)
            target[r, slot:stop] = completion
            if base and rehearsal and example.rehearsed:
                rehearsal.weight[r, slot:stop] = 1.0
                if number in base.of:
                    rehearsal.base[r, slot:stop] = base.of[number]
            else:
                weight[r, slot:stop] = 1.0
            at, slot = end, stop
        positions[r, at:] = np.arange(length - at)
    return Batch(tokens, Mask(segments, positions), Supervision(position, target, weight, rehearsal))


def split_steps(rows: int, rows_per_step: int) -> list[range]:
    """Rows of each optimiser step: as even as whole rows allow, never more than `rows_per_step`."""
    steps = -(-rows // rows_per_step)
    cuts = [rows * i // steps for i in range(steps + 1)] if steps else [0]
    return [range(a, b) for a, b in itertools.pairwise(cuts)]

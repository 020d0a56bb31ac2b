"""Packing keeps every example whole and once, follows seed and epoch, and supervises exactly the completion."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jora_engine.training.packing import Example, first_fit, fitting, make_batch, pack, split_steps
from raft_errors import BadInput


def example(prompt, completion, start=10):
    tokens = np.arange(start, start + prompt + completion, dtype=np.int32)
    return Example(tokens[:prompt], tokens[prompt:])


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 20), st.integers(1, 9)), min_size=1, max_size=40),
    length=st.integers(20, 64),
    seed=st.integers(0, 5),
)
def test_every_fitting_example_is_packed_once_and_whole(sizes, length, seed):
    examples = [example(p, c, 100 * i) for i, (p, c) in enumerate(sizes)]
    try:
        kept = fitting(examples, length)
    except BadInput:
        assert min(e.length for e in examples) > length
        return
    packing = pack(examples, length, seed=seed, epoch=0)
    assert sorted(i for row in packing.rows for i in row) == kept
    assert packing == pack(examples, length, seed=seed, epoch=0)
    batch = make_batch(examples, packing.rows, length, packing.capacity)
    assert 0 < packing.fill <= 1
    assert (batch.mask.segments > 0).sum() == sum(examples[i].length for i in kept)
    for r, row in enumerate(packing.rows):
        for segment, number in enumerate(row, 1):
            inside = batch.mask.segments[r] == segment
            np.testing.assert_array_equal(batch.tokens[r][inside], examples[number].tokens)
            np.testing.assert_array_equal(batch.mask.positions[r][inside], np.arange(examples[number].length))


def test_the_loss_falls_on_the_completion_alone_and_on_its_stop_token():
    examples = [example(3, 2), example(4, 1, 50)]
    batch = make_batch(examples, [[0, 1]], 16, 8)
    used = batch.supervision.weight[0] > 0
    position, target = batch.supervision.position[0][used], batch.supervision.target[0][used]
    np.testing.assert_array_equal(target, [13, 14, 54])
    np.testing.assert_array_equal(batch.tokens[0][position + 1], target)  # each is predicted from the token before it
    assert set(batch.mask.segments[0][position]) == {1, 2}  # and never across a border


def test_epochs_and_seeds_reorder():
    examples = [example(5, 3) for _ in range(30)]
    orders = {pack(examples, 32, seed=s, epoch=e).rows for s, e in ((0, 0), (0, 1), (1, 0))}
    assert len(orders) == 3


@settings(max_examples=80, deadline=None)
@given(lengths=st.lists(st.integers(1, 30), max_size=60), size=st.integers(30, 50))
def test_each_example_goes_to_the_first_row_with_room(lengths, size):
    room: list[int] = []
    for length, row in zip(lengths, first_fit(lengths, size), strict=True):
        room += [size] * (len(room) == row)
        assert next(r for r, left in enumerate(room) if left >= length) == row
        room[row] -= length


class Tokens(int):
    """A length that counts how often it is compared with a row's room."""

    looks = 0

    def __le__(self, other):
        Tokens.looks += 1
        return int(self) <= other


@dataclasses.dataclass
class Measured:
    length: Tokens
    completion: range = range(1)


def test_ten_times_the_records_take_ten_times_the_looks_and_not_a_hundred_times():
    def looks(count):
        rng = np.random.default_rng(1)
        examples = [Measured(Tokens(n)) for n in rng.integers(300, 700, count)]
        Tokens.looks = 0
        packing = pack(examples, 1024, seed=0, epoch=0)
        assert sum(map(len, packing.rows)) == count
        return Tokens.looks

    assert looks(3000) < 20 * looks(300)


def test_a_row_too_short_for_every_example_is_refused_with_the_numbers():
    with pytest.raises(BadInput, match=r"shortest has 12 tokens.*sequence_length is 8"):
        pack([example(9, 3)], 8, seed=0, epoch=0)


def test_steps_share_rows_evenly():
    assert [len(r) for r in split_steps(17, 8)] == [5, 6, 6]
    assert [i for r in split_steps(17, 8) for i in r] == list(range(17))
    assert split_steps(0, 8) == []

"""A safetensors file as views: what the library reads from it, and no file that the library would refuse."""

import json
import random

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jora_engine.files.mapped_tensors import mapped_tensors
from raft_errors import BadInput

TENSORS = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.arange(4, dtype=np.float16),
    "scalar": np.array(3.0),
    "empty": np.zeros((0, 5), np.float32),
}


@pytest.fixture
def file(tmp_path):
    save_file(TENSORS, tmp_path / "x.safetensors", metadata={"format": "pt"})
    return tmp_path / "x.safetensors"


def test_the_numbers_are_those_that_the_library_reads(file):
    ours, theirs = mapped_tensors(file), load_file(file)
    assert ours.keys() == theirs.keys() == TENSORS.keys()
    for name, array in theirs.items():
        assert (ours[name].dtype, ours[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(ours[name], array)


def test_a_type_that_is_no_floating_one_is_refused_by_the_tensor_s_name(tmp_path):
    save_file({"codes": np.zeros(3, np.int8)}, tmp_path / "x.safetensors")
    with pytest.raises(BadInput, match="codes is stored as I8"):
        mapped_tensors(tmp_path / "x.safetensors")


@pytest.mark.parametrize("size", [0, 3, 8, 40, -1, -9])
def test_a_file_that_is_cut_is_refused(file, size):
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(BadInput, match="cannot be read as safetensors"):
        mapped_tensors(file)


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 23]}, "does not fill its place"),
        ({"dtype": "F32", "shape": [2, 3], "data_offsets": [8, 32]}, "does not fill its place"),
        ({"dtype": "F32", "shape": [-2, -3], "data_offsets": [0, 24]}, "does not fill its place"),
        ({"dtype": "F32", "shape": [2.0, 3], "data_offsets": [0, 24]}, "does not fill its place"),
        ({"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}, "behind byte 16 of 24"),
        ({"dtype": "F32", "shape": [2, 3]}, "not described as a tensor"),
        ({"dtype": "F32", "shape": 6, "data_offsets": [0, 24]}, "not described as a tensor"),
        (7, "not described as a tensor"),
        ({"dtype": ["F32"], "shape": [2, 3], "data_offsets": [0, 24]}, "w is stored as"),
        ([[[]]] * 3, "not described as a tensor"),
    ],
)
def test_what_is_said_of_a_tensor_is_held_against_the_file(tmp_path, entry, why):
    header = json.dumps({"w": entry}).encode()
    file = tmp_path / "x.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(24))
    with pytest.raises(BadInput, match=why):
        mapped_tensors(file)


def test_tensors_that_overlap_and_leave_a_gap_are_refused(tmp_path):
    places = {"a": [0, 16], "b": [8, 16]}  # 24 bytes in all, as the file has
    entries = {
        name: {"dtype": "F32", "shape": [(b - a) // 4], "data_offsets": [a, b]} for name, (a, b) in places.items()
    }
    header = json.dumps(entries).encode()
    file = tmp_path / "x.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(24))
    with pytest.raises(BadInput, match="overlap or leave a gap"):
        mapped_tensors(file)


@pytest.mark.parametrize("header", [b"[" * 100_000, b"[]", b"{", b"\xff\xfe", b""])
def test_a_header_that_is_no_object_is_refused(tmp_path, header):
    file = tmp_path / "x.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(BadInput, match="cannot be read as safetensors"):
        mapped_tensors(file)


def test_no_altered_header_gives_anything_but_arrays_or_a_clear_error(file):
    whole, draw = file.read_bytes(), random.Random(0)
    length = int.from_bytes(whole[:8], "little")
    for _ in range(400):
        altered = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            altered[draw.randrange(8 + length)] = draw.randrange(256)
        file.write_bytes(altered)
        try:
            arrays = mapped_tensors(file)
        except BadInput:
            continue
        assert all(np.isfinite(array.astype(np.float64)).size == array.size for array in arrays.values())

"""A GGUF file's header is read as llama.cpp's own reader reads it, and held against the file's size before anything is
made by it: whatever is cut off or altered, the refusal is the house's and costs nothing."""

import random
import resource
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from jora_engine.files import gguf_reader
from jora_engine.files.gguf import convert
from jora_engine.files.gguf_reader import open_gguf
from raft_errors import BadInput

Q = gguf.GGMLQuantizationType
KINDS = (Q.F32, Q.F16, Q.BF16, Q.Q8_0, Q.Q4_K, Q.I8, Q.I32, Q.F64)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Bytes of a small file that has a value of every kind and tensors of several types."""
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    for kind in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"):
        getattr(writer, f"add_{kind}")(f"a.{kind}", 77)
    writer.add_float32("a.float32", 0.1)
    writer.add_float64("a.float64", 0.1)
    writer.add_bool("a.bool", True)
    writer.add_string("a.text", "Bj\u00f6rk \u2603")
    writer.add_array("a.numbers", [1, 2, 300])
    writer.add_array("a.scores", [0.5, -1.5])
    writer.add_array("a.texts", ["one", "", "tw\u00f6"])
    writer.add_array("a.switches", [True, False])
    rng = np.random.default_rng(0)
    for number, kind in enumerate(KINDS):
        if kind in (Q.F32, Q.F16, Q.F64, Q.I8, Q.I32):
            dtype = {Q.F32: "f4", Q.F16: "f2", Q.F64: "f8", Q.I8: "i1", Q.I32: "i4"}[kind]
            writer.add_tensor(f"blk.{number}.x", rng.normal(size=(3, 5)).astype(dtype))
        else:
            block, size = gguf.GGML_QUANT_SIZES[kind]
            raw = rng.integers(0, 255, (4, 2 * max(block, 16) // block * size), dtype=np.uint8)
            writer.add_tensor(f"blk.{number}.x", raw, raw_dtype=kind)
    writer.add_tensor("flat", np.arange(6, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@pytest.fixture
def file(tmp_path, whole):
    path = tmp_path / "m.gguf"
    path.write_bytes(whole)
    return path


def test_everything_is_read_as_the_gguf_package_reads_it(file):
    ours, theirs = open_gguf(file), gguf.GGUFReader(file)
    fields = {name: field.contents() for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert ours.meta == fields
    assert [type(value) for value in ours.meta.values()] == [type(value) for value in fields.values()]
    assert [tensor.name for tensor in ours.tensors] == [tensor.name for tensor in theirs.tensors]
    for own, other in zip(ours.tensors, theirs.tensors, strict=True):
        assert own.tensor_type == other.tensor_type
        assert own.shape == tuple(other.shape.tolist())
        assert (own.data_offset, own.n_bytes) == (other.data_offset, other.n_bytes)
        assert own.data.dtype == other.data.dtype
        assert own.data.tobytes() == other.data.tobytes()
        assert own.data.shape == other.data.shape


def test_a_file_that_is_cut_anywhere_is_refused_in_words_of_the_house(file, whole):
    tensors = open_gguf(file).tensors
    data, end = tensors[0].data_offset, tensors[-1].data_offset + tensors[-1].n_bytes
    for length in [*range(data + 1), end - 1]:
        file.write_bytes(whole[:length])
        with pytest.raises(BadInput, match="cannot be read") as error:
            open_gguf(file)
        assert str(file) in error.value.what
        assert error.value.expected == "a complete GGUF file"
        assert error.value.do
        if 24 <= length < data:
            assert "the file ends" in error.value.what, length


@pytest.fixture
def little_memory():
    """A limit on what may be allocated beside what is in use already."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("no /proc here, which says what is in use")
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(statm.read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (256 << 20), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def test_altered_counts_and_lengths_cost_nothing_and_end_in_a_refusal_or_a_reading(file, whole, little_memory):
    header = open_gguf(file).tensors[0].data_offset
    dice = random.Random(7)
    values = [0, 1, 255, 2**31 - 1, 2**32 - 1, 2**40, 2**63, 2**64 - 1]
    refused = 0
    for _ in range(3000):
        bad = bytearray(whole)
        at = dice.randrange(header)
        if dice.random() < 0.5:
            bad[at] = dice.randrange(256)
        else:
            size = dice.choice([4, 8])
            bad[at : at + size] = (dice.choice(values) % 2 ** (8 * size)).to_bytes(size, "little")
        file.write_bytes(bad)
        try:
            contents = open_gguf(file)
        except BadInput:
            refused += 1
        else:
            assert all(tensor.data.nbytes == tensor.n_bytes for tensor in contents.tensors)
    assert refused > 1000


def header(*pairs, version=3, tensors=0):
    parts = [b"GGUF", struct.pack("<IQQ", version, tensors, len(pairs))]
    for key, kind, value in pairs:
        parts += [struct.pack("<Q", len(key)), key, struct.pack("<I", kind), value]
    return b"".join(parts)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"GG", "does not begin as a GGUF file does"),
        (b"PK\x03\x04" + bytes(40), "does not begin as a GGUF file does"),
        (header(version=1), "of version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "in the other order"),
        (header(), "holds no tensor"),
        (header((b"a", 4, bytes(4)), (b"a", 4, bytes(4))), "the metadata a is there twice"),
        (header((b"a", 13, bytes(4))), "the metadata a is of kind 13"),
        (header((b"a", 9, struct.pack("<IQ", 9, 1) + bytes(12))), "the metadata a is of kind 9"),  # lists of lists
        (header((b"a", 9, struct.pack("<IQ", 8, 2**60) + bytes(64))), "1152921504606846976 values are to follow"),
        (header((b"a", 8, struct.pack("<Q", 2**64 - 1) + bytes(64))), "the file ends within the metadata a"),
        (header((b"a", 8, struct.pack("<Q", 1) + b"\xff")), "no UTF-8"),
        (header((b"a\n\x1b", 8, struct.pack("<Q", 99))), r"the metadata a\\n\\x1b"),
        (header((b"a", 4, bytes(4)), tensors=2**62), "within the description of tensor 1 of"),
        (header(tensors=1) + struct.pack("<Q1sI", 1, b"x", 2**31), "tensor x: it has 2147483648 dimensions"),
        (header(tensors=1) + struct.pack("<Q1sIQIQ", 1, b"x", 1, 0, 0, 0), "tensor x: its shape"),
        (header(tensors=1) + struct.pack("<Q1sIQIQ", 1, b"x", 1, 33, int(Q.Q8_0), 0) + bytes(99), "none of Q8_0"),
        (header(tensors=1) + struct.pack("<Q1sIQIQ", 1, b"x", 1, 2**62, 0, 0), "tensor x: the file ends before"),
        (header(tensors=1) + struct.pack("<Q1sIQIQ", 1, b"x", 1, 4, 999, 0), "999 is not a valid type"),
        (header(tensors=2) + struct.pack("<Q1sIQIQ", 1, b"x", 1, 8, 0, 0)
         + struct.pack("<Q1sIQIQ", 1, b"y", 1, 8, 0, 0) + bytes(99), "tensor y: it follows x of 32 bytes, and begins"),
        (header(tensors=1) + struct.pack("<Q1sIQIQ", 1, b"x", 1, 4, 0, 32) + bytes(99), "tensor x: it begins at byte"),
        (header((b"general.alignment", 4, b"\3\0\0\0"), tensors=1) + struct.pack("<Q1sIQIQ", 1, b"x", 1, 4, 0, 0),
         "general.alignment is 3"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(tmp_path, content, words):
    file = tmp_path / "m.gguf"
    file.write_bytes(content)
    for read in (open_gguf, lambda file: convert(file, tmp_path / "out")):
        with pytest.raises(BadInput, match=words):
            read(file)


def test_lists_have_an_end(file, monkeypatch):
    monkeypatch.setattr(gguf_reader, "MOST_VALUES", 2)
    with pytest.raises(BadInput, match=r"a\.numbers has 3 values, and at most 2"):
        open_gguf(file)


def test_what_may_not_be_read_is_said_without_words_of_the_library(tmp_path):
    with pytest.raises(BadInput, match="is not there"):
        open_gguf(tmp_path)

"""A cross-encoder that comes as ONNX with eight-bit weights becomes a folder that torch runs and trains."""

import struct

import numpy as np
import pytest
from retrieval_samples import make_tiny_reranker

from raft_errors import BadInput
from retrieval.onnx_weights import convert, read_weights
from retrieval.rerank import Reranker

FLOAT, UINT8, INT8 = 1, 2, 3


def varint(value):
    out = bytearray()
    while True:
        value, byte = value >> 7, value & 127
        out.append(byte | (128 if value else 0))
        if not value:
            return bytes(out)


def entry(number, value):
    """One field of a protobuf message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(name, array, kind):
    body = b"".join(entry(1, size) for size in array.shape) + entry(2, kind) + entry(8, name)
    if not array.shape:  # scalars stand in the typed fields, as onnxruntime's quantiser writes them
        typed = entry(4, struct.pack("<f", array)) if kind == FLOAT else entry(5, varint(int(array) & (1 << 64) - 1))
        return entry(5, body + typed)
    return entry(5, body + entry(9, array.tobytes()))


def node(kind, inputs, outputs):
    return entry(1, b"".join(entry(1, i) for i in inputs) + b"".join(entry(2, o) for o in outputs) + entry(4, kind))


def quantised(name, weight, kind):
    """The three tensors that stand for one weight, and what they stand for."""
    low, high = (0, 255) if kind == UINT8 else (-127, 127)
    scale = np.float32((weight.max() - weight.min()) / 254)
    zero = np.clip(np.round(low - weight.min() / scale), low, high) if kind == UINT8 else np.float64(3)
    values = np.clip(np.round(weight / scale) + zero, low, high).astype("u1" if kind == UINT8 else "i1")
    parts = tensor(f"{name}_scale", scale, FLOAT) + tensor(f"{name}_zero_point", np.int64(zero), kind)
    parts += tensor(f"{name}_quantized", values, kind)
    return parts, (values.astype(np.float32) - np.float32(zero)) * scale


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(ONNX bytes, the weights they hold, the folder that they were made from)."""
    from safetensors.numpy import load_file

    folder = make_tiny_reranker(tmp_path_factory.mktemp("onnx") / "cross", seed=3)
    graph, expected = b"", {}
    for number, (name, weight) in enumerate(sorted(load_file(folder / "model.safetensors").items())):
        module = name.rpartition(".")[0]
        if "embeddings" in name and name.endswith("embeddings.weight"):
            parts, expected[name] = quantised(name, weight, UINT8)
        elif name.endswith("weight") and weight.ndim == 2:
            # the exporter folds the transposition in and, within the encoder, loses the name
            stored = name if module in ("bert.pooler.dense", "classifier") else f"onnx::MatMul_{number}"
            parts, back = quantised(stored, np.ascontiguousarray(weight.T), INT8)
            expected[name] = back.T
            output = f"/{module.replace('.', '/').replace('layer/', 'layer.')}/MatMul_output_0_output_quantized"
            parts += node("MatMulInteger", ["x", f"{stored}_quantized", "z", f"{stored}_zero_point"], [output])
        else:
            parts, expected[name] = tensor(name, weight, FLOAT), weight
        graph += parts
    return entry(1, 8) + entry(7, graph), expected, folder


def test_every_weight_comes_back_under_its_own_name_and_the_right_way_round(exported):
    data, expected, _ = exported
    weights = read_weights(data)
    assert weights.keys() == expected.keys()
    for name, weight in expected.items():
        np.testing.assert_array_equal(weights[name], weight, err_msg=name)


def test_the_folder_scores_like_the_model_it_was_exported_from(exported, town, tmp_path):
    import json
    import shutil

    data, _, source = exported
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, tmp_path / name)
    (tmp_path / "model.onnx").write_bytes(data)
    convert(tmp_path / "model.onnx", tmp_path)
    first = (tmp_path / "model.safetensors").read_bytes()
    convert(tmp_path / "model.onnx", tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == first
    config, original = (json.loads((f / "config.json").read_text()) for f in (tmp_path, source))
    same = ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size", "max_position_embeddings")
    assert {name: config[name] for name in same} == {name: original[name] for name in same}
    config["num_attention_heads"] = original["num_attention_heads"]  # heads of 32 are the MiniLM family's
    (tmp_path / "config.json").write_text(json.dumps(config))
    pairs = [("the iron bridge", c.text) for c in town]
    scores = [np.array(Reranker.load(folder, device="cpu").score(pairs)) for folder in (tmp_path, source)]
    assert np.corrcoef(*scores)[0, 1] > 0.99, scores


def test_what_is_no_such_file_is_bad_input(exported, tmp_path):
    data, _, _ = exported
    for name, body in {"text": b"no model at all", "cut": data[: len(data) // 2], "empty": b""}.items():
        (tmp_path / name).write_bytes(body)
        with pytest.raises(BadInput, match="cannot be converted"):
            convert(tmp_path / name, tmp_path)
    assert not (tmp_path / "model.safetensors").exists()

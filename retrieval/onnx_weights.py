"""Turns an ONNX file of a BERT cross-encoder into a Hugging Face folder, once and deterministically.

Weights that dynamic quantisation stored in eight bits are multiplied out to float32, so that torch runs, and can train,
the numbers that the file holds. The file is data: its graph tells which weight belongs to which layer and is never run,
so neither `onnx` nor `onnxruntime` is needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from raft_errors import BadInput

_TYPES = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 9: "?"}
"""ONNX's TensorProto.DataType -> numpy, as far as such files hold weights in it."""

_FLOATS, _INTS, _NAME, _RAW = 4, 5, 8, 9  # field numbers of TensorProto
_HEADS_OF = 32  # width of an attention head of the MiniLM family
_LIMIT = 512  # tokens that a BERT with learnt positions reads


def convert(onnx_file: Path, folder: Path) -> None:
    """Writes config.json and model.safetensors into `folder`, which holds the tokenizer already.

    Raises:
        BadInput: not an ONNX file, damaged, or not a BERT with one output.
    """
    from safetensors.numpy import save_file

    try:
        weights = read_weights(onnx_file.read_bytes())
        config = _config(weights)
    except (ValueError, LookupError, IndexError, UnicodeDecodeError) as error:
        raise BadInput(
            f"{onnx_file} cannot be converted ({type(error).__name__}: {error})",
            expected="an ONNX file of a BERT cross-encoder with one output",
            do="fetch it again, or choose another cross-encoder",
        ) from error
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8", newline="\n")


def read_weights(data: bytes) -> dict[str, np.ndarray]:
    """The weights of a graph by their names in transformers, in float32 and in order of name."""
    graph = next((value for number, value in _fields(data) if number == 7), None)
    if graph is None:
        raise ValueError("it holds no graph")
    tensors: dict[str, np.ndarray] = {}
    layers: dict[str, str] = {}
    for number, value in _fields(graph):
        if number == 5:
            name, tensor = _tensor(value)
            tensors[name] = tensor
        elif number == 1:
            inputs, outputs, kind = _node(value)
            if kind in ("MatMul", "MatMulInteger", "Gemm") and len(inputs) > 1:
                layers[inputs[1]] = outputs[0]
    weights = {}
    for name, tensor in tensors.items():
        if name.endswith(("_scale", "_zero_point")):
            continue
        plain = name.removesuffix("_quantized")
        if plain != name:
            scale, zero = tensors[f"{plain}_scale"], tensors[f"{plain}_zero_point"]
            tensor = (tensor.astype(np.float32) - zero.astype(np.float32)) * scale
        if name in layers:  # a product x @ W; transformers keeps W as [out, in]
            tensor = tensor.T
            plain = _module(layers[name]) + ".weight" if plain.startswith("onnx::") else plain
        if tensor.dtype == np.float32 and not plain.startswith("onnx::"):
            weights[plain] = np.ascontiguousarray(tensor)
    return dict(sorted(weights.items()))


def _module(output: str) -> str:
    """`/bert/encoder/layer.0/attention/self/query/MatMul_output_0...` -> the module's dotted name."""
    return output.strip("/").rpartition("/MatMul")[0].replace("/", ".")


def _config(weights: dict[str, np.ndarray]) -> dict[str, Any]:
    """What transformers has to know, read off the shapes. Raises KeyError or ValueError where a weight is missing."""
    vocabulary, width = weights["bert.embeddings.word_embeddings.weight"].shape
    layers = 1 + max(int(found[1]) for name in weights if (found := re.match(r"bert\.encoder\.layer\.(\d+)\.", name)))
    if weights["classifier.weight"].shape != (1, width):
        raise ValueError(f"its classifier has the shape {weights['classifier.weight'].shape}")
    for layer in range(layers):
        for part in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            if weights[f"bert.encoder.layer.{layer}.{part}.weight"].shape != (width, width):
                raise ValueError(f"layer {layer} has no {part} of [{width}, {width}]")
    return {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // _HEADS_OF,
        "intermediate_size": weights["bert.encoder.layer.0.intermediate.dense.weight"].shape[0],
        "max_position_embeddings": weights["bert.embeddings.position_embeddings.weight"].shape[0],
        "type_vocab_size": weights["bert.embeddings.token_type_embeddings.weight"].shape[0],
        "vocab_size": vocabulary,
        "layer_norm_eps": 1e-12,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "pad_token_id": 0,
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
    }


# ---- protobuf, as much of it as an ONNX file needs


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(field number, value) of a message: an int, or the bytes of a text, a message or a packed list."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire not in (1, 2, 5):
            raise ValueError(f"a field of wire type {wire}")
        size, at = _varint(data, at) if wire == 2 else (8 if wire == 1 else 4, at)
        if at + size > len(data):
            raise ValueError("it ends within a field")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _varints(data: bytes) -> list[int]:
    values, at = [], 0
    while at < len(data):
        value, at = _varint(data, at)
        values.append(value)
    return values


def _tensor(data: bytes) -> tuple[str, np.ndarray]:
    name, kind, shape, raw, floats, ints = "", 0, [], None, b"", []
    for number, value in _fields(data):
        if number == 1:
            shape += [value] if isinstance(value, int) else _varints(value)
        elif number == 2:
            kind = value
        elif number == _NAME:
            name = value.decode()
        elif number == _RAW:
            raw = value
        elif number == _FLOATS:
            floats += value
        elif number == _INTS:
            ints += [value] if isinstance(value, int) else _varints(value)
    dtype = np.dtype(_TYPES[kind])
    if raw is not None:
        flat = np.frombuffer(raw, dtype)
    elif floats:
        flat = np.frombuffer(floats, "<f4")
    else:  # negative numbers are varints of 64 bits
        flat = np.array([i - (1 << 64) if i >> 63 else i for i in ints]).astype(dtype)
    return name, flat.reshape(shape)


def _node(data: bytes) -> tuple[list[str], list[str], str]:
    inputs, outputs, kind = [], [], ""
    for number, value in _fields(data):
        if number == 1:
            inputs.append(value.decode())
        elif number == 2:
            outputs.append(value.decode())
        elif number == 4:
            kind = value.decode()
    return inputs, outputs, kind

"""Writes a Hugging Face folder as a GGUF file for llama.cpp: Llama, Mistral, Qwen2, Qwen3 and Gemma 3, unquantised.

Weights are streamed one at a time; matrices keep their dtype or get the one that is asked for, norms and biases are
float32, as llama.cpp wants them. The bytes of a file go through the `gguf` package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jora_engine.config.architecture import ModelConfig
from jora_engine.config.parameters import EMBED
from jora_engine.files.gguf_layout import ARCHITECTURES, ROPE_FACTORS, gguf_name, to_gguf
from jora_engine.files.gguf_vocabulary import vocabulary
from jora_engine.files.tensor_sources import open_tensors
from jora_engine.files.tokenizer import Tokenizer
from jora_engine.files.weights import check_tensors, hf_tensors, read_model_config
from jora_engine.model.rope_table import inv_freq
from raft_errors import BadInput

if TYPE_CHECKING:
    from gguf import GGUFWriter

KINDS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""numpy's name of a dtype -> GGUF's."""

_FILE_TYPES = {"float32": 0, "float16": 1, "bfloat16": 32}  # llama.cpp's `llama_ftype`


def write_gguf(folder: Path, file: Path, dtype: str | None = None, *, chat: Mapping[str, Any] | None = None) -> Path:
    """Writes a model's folder as one GGUF file, replacing one that is there; returns it.

    Args:
        dtype: of matrices, "float32", "float16" or "bfloat16"; None keeps that of the embedding.
        chat: what the chat template is told, the keywords of `Tokenizer.load`.

    Raises:
        BadInput: llama.cpp has no such model, RoPE or tokenizer, or none that can be written here.
    """
    model = read_model_config(folder)
    tensors = open_tensors(folder, model)
    check_tensors(tensors, model)
    stored = tensors.dtype(EMBED).name
    kind = dtype or (stored if stored in KINDS else "float32")
    if kind not in KINDS:
        raise BadInput(f"no dtype {kind!r} for GGUF", expected="one of " + ", ".join(KINDS), do="name one of them")
    metadata = {**model_metadata(model), **vocabulary(Tokenizer.load(folder, **(chat or {})), model.vocab_size)}
    metadata |= {"general.file_type": _FILE_TYPES[kind], "general.quantization_version": 2}
    sources: dict[str, tuple[tuple[int, ...], str, Callable[[], np.ndarray]]] = {}
    for name, (parameter, layer) in hf_tensors(model).items():

        def read(name: str = name, leaf: str = parameter.name) -> np.ndarray:
            return to_gguf(model, leaf, tensors.read(name).astype(np.float32))

        own = kind if len(parameter.shape) > 1 else "float32"
        sources[gguf_name(parameter, layer)] = (parameter.shape, own, read)
    if model.rope.kind == "llama3":
        factors = _rope_factors(model)
        sources[ROPE_FACTORS] = (factors.shape, "float32", lambda: factors)
    return write_file(file, ARCHITECTURES[model.family], metadata, sources)


def write_file(
    file: Path,
    arch: str,
    metadata: Mapping[str, Any],
    sources: Mapping[str, tuple[tuple[int, ...], str, Callable[[], np.ndarray]]],
) -> Path:
    """Writes a GGUF file, one tensor in memory at a time, and renames it into place.

    Args:
        sources: shape, dtype and float32 values of each tensor by name.
    """
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quantize

    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    writer = GGUFWriter(str(part), arch)
    try:
        for name, value in metadata.items():
            _add(writer, name, value)
        kinds = {name: GGMLQuantizationType[KINDS[kind]] for name, (_, kind, _) in sources.items()}
        widths = {"float32": 4, "float16": 2, "bfloat16": 2}
        for name, (shape, kind, _) in sources.items():
            size = int(np.prod(shape)) * widths[kind]
            writer.add_tensor_info(name, shape, np.dtype(np.float32), size, raw_dtype=kinds[name])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, (_, _, read) in sources.items():
            writer.write_tensor_data(np.ascontiguousarray(quantize(read(), kinds[name])))
    finally:
        writer.close()
    part.replace(file)
    return file


def _add(writer: GGUFWriter, name: str, value: Any) -> None:
    """A value under the type that llama.cpp wants: whole numbers of 32 bits, floats of 32."""
    if isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, int):
        writer.add_uint32(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    else:
        writer.add_array(name, value)


def model_metadata(model: ModelConfig) -> dict[str, Any]:
    """The model's shape as GGUF metadata.

    Raises:
        BadInput: llama.cpp has no such model, or has it in another form than is written here.
    """
    arch = ARCHITECTURES.get(model.family)
    if arch is None:
        raise _refusal(f"the family {model.family}", "one of " + ", ".join(ARCHITECTURES))
    if model.sliding_window is not None and arch != "gemma3":
        raise _refusal(f"{model.family} with a sliding window, which llama.cpp passes over", "no window")
    metadata = {
        "general.type": "model",
        f"{arch}.context_length": model.max_position_embeddings,
        f"{arch}.embedding_length": model.hidden_size,
        f"{arch}.block_count": model.num_layers,
        f"{arch}.feed_forward_length": model.intermediate_size,
        f"{arch}.attention.head_count": model.num_heads,
        f"{arch}.attention.head_count_kv": model.num_kv_heads,
        f"{arch}.attention.layer_norm_rms_epsilon": model.rms_norm_eps,
        f"{arch}.attention.key_length": model.head_dim,
        f"{arch}.attention.value_length": model.head_dim,
        f"{arch}.rope.dimension_count": model.head_dim,
        f"{arch}.rope.freq_base": model.rope.theta,
        f"{arch}.vocab_size": model.vocab_size,
        **{f"{arch}.rope.scaling.{name}": value for name, value in _scaling(model).items()},
    }
    if arch == "gemma3":
        metadata |= _gemma3(model)
    return metadata


def _scaling(model: ModelConfig) -> dict[str, Any]:
    rope = model.rope
    if rope.kind in ("default", "llama3"):  # llama3's is a tensor
        return {}
    plain = rope.attention_factor is None and rope.mscale is None and (rope.beta_fast, rope.beta_slow) == (32.0, 1.0)
    if rope.kind == "linear":
        return {"type": "linear", "factor": rope.factor}
    if rope.kind == "yarn" and plain and rope.truncate and rope.factor:
        return {"type": "yarn", "factor": rope.factor, "original_context_length": rope.original_max_positions}
    raise _refusal(f"RoPE of the kind {rope.kind} with these settings", "default, linear, llama3, or yarn's defaults")


def _gemma3(model: ModelConfig) -> dict[str, Any]:
    """What is Gemma 3's own. llama.cpp itself knows which layers have a window, their RoPE and the scale of scores."""
    windowed = tuple(bool((i + 1) % 6) for i in range(model.num_layers))
    by_width = model.num_layers == 62
    scalar = model.hidden_size // model.num_heads if by_width else model.head_dim
    local = model.window_rope
    same = model.attention_scale is not None and abs(model.attention_scale - scalar**-0.5) < 1e-9
    if (
        (model.windowed or (True,) * model.num_layers) != windowed
        or not same
        or local is None
        or (local.kind, local.theta) != ("default", 1e4)
    ):
        raise _refusal("a Gemma 3 of another form than Google's", "its windows, RoPE and scale")
    caps = {} if model.logit_softcap is None else {"gemma3.final_logit_softcapping": model.logit_softcap}
    return {"gemma3.attention.sliding_window": model.sliding_window, **caps}


def _rope_factors(model: ModelConfig) -> np.ndarray:
    """Llama 3.1's scaling as llama.cpp has it: a divisor of each frequency, `[head_dim / 2]` float32."""
    plain = model.rope.theta ** -(np.arange(0, model.head_dim, 2, dtype=np.float64) / model.head_dim)
    scaled, _ = inv_freq(model.rope, model.head_dim)
    return (plain / np.asarray(scaled, np.float64)).astype(np.float32)


def _refusal(what: str, expected: str) -> BadInput:
    return BadInput(
        f"{what} cannot be written as GGUF",
        expected=expected,
        do="convert the merged model with llama.cpp's own convert_hf_to_gguf.py",
    )

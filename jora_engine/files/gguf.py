"""Makes a model folder of a GGUF file (Llama, Qwen2, Qwen3, Gemma 3), once and deterministically.

`convert` dequantises all blocks by the `gguf` package and stores them in one dtype, so that the engine, transformers
and PEFT read the same numbers afterwards; `keep_blocks` leaves them in the file, for `gguf_blocks` to read.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from jora_engine.config.architecture import ModelConfig
from jora_engine.config.families import FAMILIES as DECLARATIONS
from jora_engine.config.families import FULL, SLIDING
from jora_engine.config.parameters import Parameter
from jora_engine.config.rope import RopeConfig
from jora_engine.files.gguf_layout import FAMILIES, ROPE_FACTORS, find_parameter, from_gguf
from jora_engine.files.gguf_reader import GgufContents, damaged, open_gguf
from jora_engine.files.gguf_tokenizer import build_tokenizer, end_ids, tokenizer_config
from jora_engine.files.tensor_files import GGUF_FILE, TensorSpec, dtype_named, write_json, write_model, write_text
from jora_engine.model.rope_table import inv_freq
from raft_errors import BadInput

log = logging.getLogger("raft.jora_engine")


def convert(gguf_file: Path, folder: Path, dtype: str = "bfloat16") -> ModelConfig:
    """Writes config.json, generation_config.json, model.safetensors and the tokenizer files into `folder`.

    Args:
        dtype: of the stored weights; the same file and dtype give the same bytes.

    Raises:
        BadInput: not a GGUF file, damaged, or an architecture, quantisation or tokenizer that is not supported.
    """
    reader = open_gguf(gguf_file)
    config, rest = _description(gguf_file, reader)
    places = _places(gguf_file, config, reader)
    tensors = {places[t.name][0].hf_name(places[t.name][1]): t for t in reader.tensors if t.name in places}
    target = dtype_named(dtype)
    specs = [
        TensorSpec(name, tuple(int(n) for n in reversed(tensors[name].shape)), target)
        for name in _canonical_order(config, set(tensors))
    ]

    def read(name: str) -> np.ndarray:
        parameter, _ = places[tensors[name].name]
        return from_gguf(config, parameter.name, dequantise(gguf_file, tensors[name])).astype(target)

    folder.mkdir(parents=True, exist_ok=True)
    write_model(folder, specs, read)
    _write_rest(folder, rest, config, dtype)
    log.info("converted %s (%d tensors) to %s as %s", gguf_file.name, len(specs), folder, dtype)
    return config


def keep_blocks(gguf_file: Path, folder: Path) -> ModelConfig:
    """Writes config.json, generation_config.json and the tokenizer files into `folder`, beside the file as it is
    (`model.gguf`, a hard link where the disk allows one): a base for `train.base_precision: as_stored`.

    Raises:
        BadInput: as for `convert`; or the folder holds safetensors.
    """
    reader = open_gguf(gguf_file)
    config, rest = _description(gguf_file, reader)
    places = _places(gguf_file, config, reader).values()
    _canonical_order(config, {parameter.hf_name(layer) for parameter, layer in places})
    if plain := sorted(folder.glob("*.safetensors")):
        raise BadInput(
            f"{folder} holds {plain[0].name} already, whose weights come before a GGUF file's",
            expected="a folder without safetensors",
            do="choose another folder",
        )
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / GGUF_FILE
    if not (place.exists() and place.samefile(gguf_file)):
        place.unlink(missing_ok=True)
        try:
            os.link(gguf_file, place)
        except OSError:
            shutil.copyfile(gguf_file, place)
    _write_rest(folder, rest, config, "bfloat16")
    return config


def _description(gguf_file: Path, reader: GgufContents) -> tuple[ModelConfig, tuple[str, dict[str, Any]]]:
    """The model's shape, tokenizer.json and tokenizer_config.json: all that the file's metadata says.

    Raises:
        BadInput: something of it is not supported, missing or damaged.
    """
    try:
        meta = reader.meta
        config = read_config(meta, {t.name: t for t in reader.tensors})
        tokenizer = build_tokenizer(meta).to_str(pretty=True)
        return config, (tokenizer, tokenizer_config(meta, config.max_position_embeddings))
    except BadInput:
        raise
    except KeyError as error:
        raise damaged(gguf_file, f"its metadata lacks {error}") from error
    except Exception as error:  # of text, numbers, ids and merges, the last of which the tokenizers library raises
        raise damaged(gguf_file, f"its metadata is damaged: {error}") from error


def _places(gguf_file: Path, config: ModelConfig, reader: GgufContents) -> dict[str, tuple[Parameter, int | None]]:
    """GGUF's name of each tensor -> (parameter, layer), all of them of the shapes that the metadata calls for."""
    places = {}
    for tensor in reader.tensors:
        if tensor.name == ROPE_FACTORS:
            continue
        parameter, _ = places[tensor.name] = find_parameter(config, tensor.name)
        if tensor.shape[::-1] != parameter.shape:
            why = f"{tensor.name} has shape {list(tensor.shape[::-1])}, and the metadata calls for {[*parameter.shape]}"
            raise damaged(gguf_file, why)
    return places


def _write_rest(folder: Path, rest: tuple[str, dict[str, Any]], config: ModelConfig, dtype: str) -> None:
    """What a folder holds beside its weights."""
    tokenizer, settings = rest
    write_text(folder / "tokenizer.json", tokenizer)
    write_json(folder / "tokenizer_config.json", settings)
    if "chat_template" in settings:
        write_text(folder / "chat_template.jinja", settings["chat_template"])
    hf = config.to_hf(dtype)
    generation = {key: hf[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if hf[key] is not None}
    write_json(folder / "generation_config.json", generation)
    write_json(folder / "config.json", hf)  # last: a folder with config.json is complete


def read_config(meta: dict[str, Any], tensors: dict[str, Any]) -> ModelConfig:
    """The model's shape from GGUF metadata and its tensors by GGUF name."""
    arch = meta.get("general.architecture")
    if arch not in FAMILIES:
        raise BadInput(
            f"the GGUF architecture {arch!r} is not supported",
            expected="one of " + ", ".join(FAMILIES),
            do="choose a base model of one of these families",
        )

    def key(name: str, default: Any = None) -> Any:
        value = meta.get(f"{arch}.{name}", default)
        if value is None:
            raise BadInput(f"the GGUF file has no {arch}.{name}", expected="complete metadata", do="get the file again")
        return value

    if meta.get(f"{arch}.expert_count"):
        raise BadInput("the GGUF file holds a mixture of experts", expected="a dense model", do="choose another base")
    if key("block_count") > len(tensors):
        what = f"the GGUF file has {len(tensors)} tensors for {key('block_count')} layers"
        raise BadInput(what, expected="several for each layer", do="get the file again")
    heads, width = key("attention.head_count"), key("embedding_length")
    head_dim = int(key("attention.key_length", width // heads))
    if int(key("rope.dimension_count", head_dim)) != head_dim:
        raise BadInput(
            "the GGUF model rotates only a part of each head", expected="all of it", do="choose another base"
        )
    eos = end_ids(meta)
    hf: dict[str, Any] = {
        "architectures": [DECLARATIONS[FAMILIES[arch]].architecture],
        "vocab_size": len(meta["tokenizer.ggml.tokens"]),
        "hidden_size": width,
        "intermediate_size": key("feed_forward_length"),
        "num_hidden_layers": key("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": key("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "rms_norm_eps": _shortest(key("attention.layer_norm_rms_epsilon")),
        "tie_word_embeddings": "output.weight" not in tensors,
        "max_position_embeddings": key("context_length"),
        "rope_parameters": _rope(meta, arch, tensors, head_dim).to_hf(),
        "bos_token_id": meta.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": eos[0] if len(eos) == 1 else eos or None,
        "pad_token_id": meta.get("tokenizer.ggml.padding_token_id"),
    }
    if arch == "gemma3":
        hf |= _gemma3(meta, hf)
    elif meta.get(f"{arch}.attention.sliding_window"):
        raise BadInput("the GGUF file gives layers a window", expected="none, or Gemma 3", do="choose another base")
    return ModelConfig.from_hf(hf)


def _gemma3(meta: dict[str, Any], hf: dict[str, Any]) -> dict[str, Any]:
    """What is Gemma 3's own. What the file does not say is llama.cpp's: a window in five of six layers, where RoPE's
    base is 10000, and the scale of the 27B model, which is that of its width."""
    layers, pattern = hf["num_hidden_layers"], meta.get("gemma3.attention.sliding_window_pattern", 6)
    types = pattern if isinstance(pattern, list) else [bool((i + 1) % pattern) for i in range(layers)]
    by_width = layers == 62
    return {
        "sliding_window": meta.get("gemma3.attention.sliding_window"),
        "layer_types": [SLIDING if slides else FULL for slides in types],
        "query_pre_attn_scalar": hf["hidden_size"] // hf["num_attention_heads"] if by_width else hf["head_dim"],
        "final_logit_softcapping": meta.get("gemma3.final_logit_softcapping"),
        "rope_parameters": {
            FULL: hf["rope_parameters"],
            SLIDING: {"rope_type": "default", "rope_theta": _shortest(meta.get("gemma3.rope.freq_base_swa", 1e4))},
        },
    }


def dequantise(gguf_file: Path, tensor: Any) -> np.ndarray:
    """A tensor's numbers, float32.

    Raises:
        BadInput: its type is not known, or one is NaN or infinite.
    """
    values = _dequantised(gguf_file, tensor, tensor.data)
    values = np.asarray(values, np.float32).reshape([int(n) for n in reversed(tensor.shape)])
    if not np.isfinite(values).all():
        raise damaged(gguf_file, f"{tensor.name} holds NaN or infinite values")
    return values


def require_type(gguf_file: Path, tensor: Any) -> None:
    """Raises:
    BadInput: a tensor's type cannot be dequantised.
    """
    _dequantised(gguf_file, tensor, tensor.data.reshape(-1, tensor.data.shape[-1])[:1])


def _dequantised(gguf_file: Path, tensor: Any, data: np.ndarray) -> np.ndarray:
    """Rows of a tensor as floats."""
    from gguf.quants import dequantize

    try:
        return np.asarray(dequantize(data, tensor.tensor_type))
    except NotImplementedError as error:
        raise BadInput(
            f"{gguf_file}: {tensor.name} is stored as {tensor.tensor_type.name}, which cannot be dequantised",
            expected="a quantisation that the gguf package knows",
            do="use another quantisation of the same model, e.g. Q8_0",
        ) from error


def _canonical_order(config: ModelConfig, names: set[str]) -> list[str]:
    """Embedding, layers in order, final norm, head."""
    order = ["model.embed_tokens.weight"]
    for layer in range(config.num_layers):
        order += sorted(n for n in names if n.startswith(f"model.layers.{layer}."))
    order += ["model.norm.weight"] + (["lm_head.weight"] if "lm_head.weight" in names else [])
    if set(order) != names or len(order) != len(names):
        odd = sorted(set(order) ^ names)
        raise BadInput(f"the GGUF file's tensors do not fit its layers: {odd[0]}", do="download it again")
    return order


def _rope(meta: dict[str, Any], arch: str, tensors: dict[str, Any], head_dim: int) -> RopeConfig:
    theta = _shortest(meta.get(f"{arch}.rope.freq_base", 10000.0))
    length = int(meta[f"{arch}.context_length"])
    kind = meta.get(f"{arch}.rope.scaling.type", "none")
    factor = meta.get(f"{arch}.rope.scaling.factor")
    original = meta.get(f"{arch}.rope.scaling.original_context_length")
    if ROPE_FACTORS in tensors:
        return _llama3_rope(np.asarray(tensors[ROPE_FACTORS].data, np.float32), theta, length, head_dim)
    if kind == "none":
        return RopeConfig(theta=theta)
    shape = {"theta": theta, "kind": kind, "factor": _shortest(factor or 1.0), "max_positions": length}
    return RopeConfig(**shape, original_max_positions=original if kind == "yarn" else None)


def _llama3_rope(factors: np.ndarray, theta: float, length: int, head_dim: int) -> RopeConfig:
    """Llama 3.1 and 3.2 models keep their scaling as a table of divisors; find the parameters that give it."""
    if 2 * factors.size != head_dim:
        what = f"the GGUF file has {factors.size} RoPE factors for heads of {head_dim}"
        raise BadInput(what, expected="one for two dimensions", do="get the file again")
    plain, _ = inv_freq(RopeConfig(theta=theta), head_dim)
    for factor in (8.0, 32.0, 16.0, 4.0, 2.0):
        rope = RopeConfig(theta, "llama3", factor, original_max_positions=8192, max_positions=length)
        scaled, _ = inv_freq(rope, head_dim)
        if np.allclose(plain / scaled, factors, rtol=1e-4):
            return rope
    raise BadInput(
        "the GGUF file's RoPE factors are not those of a Llama 3.1 or 3.2 model",
        expected="llama3 scaling with low 1, high 4 and 8192 positions",
        do="use the model's Hugging Face folder instead",
    )


def _shortest(value: float) -> float:
    """The shortest decimal that is the same float32: 1e-05 for 9.999999747378752e-06."""
    return float(str(np.float32(value)))

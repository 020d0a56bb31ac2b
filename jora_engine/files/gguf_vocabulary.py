"""The other way round of `gguf_tokenizer`: a folder's tokenizer as the metadata of a GGUF file.

What is written is read again and compared with the folder's own tokenizer on texts that pre-tokenizers split
differently: where no known rule gives the same tokens, the tokenizer is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import tokenizers

from jora_engine.files.gguf_tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, build_tokenizer
from jora_engine.files.tokenizer import Tokenizer
from raft_errors import BadInput

SPLITS = ("smollm", "gpt-2", "llama-bpe", "qwen2", "tekken")
"""Pre-tokenizers of llama.cpp, one for each rule that `gguf_tokenizer` knows."""

PROBES = (
    "The quick brown fox, it's 12345 years; WE'LL see 3.14 and a1b2 don't",
    "  two leading spaces\n\n\n\tand tabs\t\t \r\n \n end ",
    "Ünïcödé 漢字かな 😀🦙 naïve café ½ ² किताब нещо camelCase HTTPServer2",
    "def f(x):\n    return x ** 2  # [1]/(2)=={3}!!??...``''\"\"",
    "",
)


def vocabulary(tokenizer: Tokenizer, size: int) -> dict[str, Any]:
    """The `tokenizer.*` metadata of a GGUF file.

    Args:
        size: rows of the model's embedding; the vocabulary is filled up to it.

    Raises:
        BadInput: it cannot be said in a form that llama.cpp reads as the same tokens.
    """
    spec = json.loads(tokenizer.backend.to_str())
    if spec["model"].get("type") != "BPE" or max(tokenizer.backend.get_vocab().values()) >= size:
        raise _refusal(f"{spec['model'].get('type')} with {len(tokenizer.backend.get_vocab())} tokens")
    common = _special(tokenizer)
    for kind in _pieces(spec, size) if spec["model"].get("byte_fallback") else _byte_level(spec, size):
        meta = {**common, **kind}
        if _same(build_tokenizer(meta), tokenizer.backend):
            return meta
    raise _refusal("a way to split text that is not known here")


def _refusal(what: str) -> BadInput:
    return BadInput(
        f"the tokenizer cannot be written as GGUF ({what})",
        expected="byte-level BPE split as SmolLM2, GPT-2, Llama 3, Qwen2 or Tekken do, or SentencePiece BPE",
        do="convert the merged model with llama.cpp's own convert_hf_to_gguf.py",
    )


def _same(one: tokenizers.Tokenizer, other: tokenizers.Tokenizer) -> bool:
    texts = [*PROBES, *(t.content + "x" for t in other.get_added_tokens_decoder().values() if t.content.strip())]
    return all(one.encode(text).ids == other.encode(text).ids for text in texts)


def _special(tokenizer: Tokenizer) -> dict[str, Any]:
    """Named special tokens, what a text begins with, and the chat template."""
    to_id = tokenizer.backend.token_to_id
    names = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
    ids = {name: to_id(tokenizer.special[ours]) for name, ours in names.items() if ours in tokenizer.special}
    meta = {f"tokenizer.ggml.{name}_token_id": number for name, number in ids.items() if number is not None}
    if tokenizer.eos_ids[0] != ids["eos"]:
        meta["tokenizer.ggml.eot_token_id"] = tokenizer.eos_ids[0]  # the end of a turn
    text = tokenizer.backend.encode("a").ids
    meta["tokenizer.ggml.add_bos_token"] = "bos" in ids and text[0] == ids["bos"]
    meta["tokenizer.ggml.add_eos_token"] = len(text) > 1 and text[-1] == ids["eos"]
    return meta | {"tokenizer.chat_template": tokenizer.portable_template()}


def _tokens(spec: dict[str, Any], size: int) -> tuple[list[str], list[int]]:
    """Every token by its number and llama.cpp's type of each."""
    tokens, types = [f"[PAD{i}]" for i in range(size)], [UNUSED] * size
    for text, number in spec["model"]["vocab"].items():
        tokens[number], types[number] = text, NORMAL
    for row in spec["added_tokens"]:
        tokens[row["id"]], types[row["id"]] = row["content"], CONTROL if row["special"] else USER_DEFINED
    return tokens, types


def _merges(spec: dict[str, Any]) -> Iterator[Sequence[str]]:
    """Pairs of a BPE model; older files write a pair as one string."""
    return (pair.split(" ") if isinstance(pair, str) else pair for pair in spec["model"]["merges"])


def _byte_level(spec: dict[str, Any], size: int) -> Iterator[dict[str, Any]]:
    tokens, types = _tokens(spec, size)
    parts = (spec.get("pre_tokenizer") or {}).get("pretokenizers") or [spec.get("pre_tokenizer") or {}]
    for split in SPLITS:
        yield {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": split,
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": types,
            "tokenizer.ggml.merges": [" ".join(pair) for pair in _merges(spec)],
            "tokenizer.ggml.add_space_prefix": any(part.get("add_prefix_space") for part in parts),
        }


def _pieces(spec: dict[str, Any], size: int) -> Iterator[dict[str, Any]]:
    """SentencePiece's form: a piece's score is minus the rank of the first merge that makes it."""
    tokens, types = _tokens(spec, size)
    scores = [0.0] * size
    for rank, (left, right) in enumerate(_merges(spec)):
        number = spec["model"]["vocab"][left + right]
        scores[number] = scores[number] or -1.0 - rank
    for number, text in enumerate(tokens):
        if types[number] == NORMAL and len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            types[number] = BYTE
    if (unknown := spec["model"].get("unk_token")) is not None:
        types[spec["model"]["vocab"][unknown]] = UNKNOWN
    for prefix in (True, False):
        yield {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.pre": "default",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.scores": scores,
            "tokenizer.ggml.token_type": types,
            "tokenizer.ggml.add_space_prefix": prefix,
        }

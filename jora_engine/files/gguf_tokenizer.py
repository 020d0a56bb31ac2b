"""Rebuilds a tokenizer.json and its companions from the tokenizer metadata of a GGUF file.

GGUF stores vocabulary, merges (or scores) and the name of a pre-tokenizer; the splitting rules behind that name are
kept here. A name not listed is refused, because a wrong split would give other tokens than the model was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from raft_errors import BadInput

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # llama.cpp's token types

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DIGITS = "digits"  # every digit alone, then GPT-2's own pattern
_GPT2 = "gpt2"

PRE_TOKENIZERS = {
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "refact": _DIGITS,
    "command-r": _DIGITS,
    "gpt-2": _GPT2,
    "default": _GPT2,
    "olmo": _GPT2,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "smaug-bpe": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "tekken": _TEKKEN,
}
"""`tokenizer.ggml.pre` -> how text is split before the merges are applied."""

_BEGIN_WITH_BOS = ("llama-bpe", "llama3", "llama-v3", "tekken")


def build_tokenizer(meta: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that the metadata (`tokenizer.ggml.*` keys) describes.

    Raises:
        BadInput: the tokenizer model or its pre-tokenizer is not known here.
    """
    model = meta.get("tokenizer.ggml.model")
    if model == "gpt2":
        tokenizer = _byte_level(meta)
    elif model == "llama":
        tokenizer = _sentencepiece(meta)
    else:
        raise BadInput(
            f"the GGUF tokenizer model {model!r} is not supported",
            expected="gpt2 (byte-level BPE) or llama (SentencePiece BPE)",
            do="use the model's Hugging Face folder instead of its GGUF",
        )
    tokens, types = meta["tokenizer.ggml.tokens"], meta.get("tokenizer.ggml.token_type") or []
    for kind, special in ((CONTROL, True), (USER_DEFINED, False)):
        added = [AddedToken(t, special=special, normalized=False) for t, k in zip(tokens, types) if k == kind]
        tokenizer.add_special_tokens(added) if special else tokenizer.add_tokens(added)
    if model == "llama":
        # <unk> stands in text as it does in Hugging Face's conversion of the same vocabulary
        tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t, k in zip(tokens, types) if k == UNKNOWN])
    if meta.get("tokenizer.ggml.add_bos_token", _begins_by_default(meta)):
        bos = meta["tokenizer.ggml.bos_token_id"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{tokens[bos]}:0 $A:0",
            pair=f"{tokens[bos]}:0 $A:0 {tokens[bos]}:1 $B:1",
            special_tokens=[(tokens[bos], bos)],
        )
    return tokenizer


def tokenizer_config(meta: Mapping[str, Any], max_tokens: int) -> dict[str, Any]:
    """tokenizer_config.json: special tokens by name, chat template, and a class that keeps tokenizer.json as it is."""
    tokens = meta["tokenizer.ggml.tokens"]
    out: dict[str, Any] = {
        "add_bos_token": bool(meta.get("tokenizer.ggml.add_bos_token", _begins_by_default(meta))),
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_tokens,
        # the named classes (GPT2Tokenizer, LlamaTokenizer) build their own pre-tokenizer and would split differently
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    names = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
    for theirs, ours in names.items():
        token_id = meta.get(f"tokenizer.ggml.{theirs}_token_id")
        if token_id is not None:
            out[f"{ours}_token"] = tokens[token_id]
    if meta.get("tokenizer.chat_template"):
        out["chat_template"] = meta["tokenizer.chat_template"]
    return dict(sorted(out.items()))


def end_ids(meta: Mapping[str, Any]) -> list[int]:
    """Ids at which generation stops: end of sequence and, where it is another token, end of turn."""
    ids = [meta.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    return list(dict.fromkeys(i for i in ids if i is not None))


def _begins_by_default(meta: Mapping[str, Any]) -> bool:
    """Whether a text begins with BOS where the file does not say, as in llama.cpp."""
    return meta.get("tokenizer.ggml.model") == "llama" or meta.get("tokenizer.ggml.pre") in _BEGIN_WITH_BOS


def _byte_level(meta: Mapping[str, Any]) -> Tokenizer:
    name = meta.get("tokenizer.ggml.pre", "default")
    if name not in PRE_TOKENIZERS:
        raise BadInput(
            f"the GGUF pre-tokenizer {name!r} is not known",
            expected="one of " + ", ".join(PRE_TOKENIZERS),
            do="use the model's Hugging Face folder instead of its GGUF",
        )
    rule = PRE_TOKENIZERS[name]
    vocab = {token: i for i, token in enumerate(meta["tokenizer.ggml.tokens"])}
    merges = [_pair(line) for line in meta["tokenizer.ggml.merges"]]
    ignore = name in _BEGIN_WITH_BOS  # whole words of the vocabulary need no merges
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=merges, fuse_unk=False, ignore_merges=ignore))
    prefix = bool(meta.get("tokenizer.ggml.add_space_prefix", False))
    if rule == _GPT2:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=True)
    else:
        first: Any = pre_tokenizers.Digits(individual_digits=True)
        if rule != _DIGITS:
            first = pre_tokenizers.Split(Regex(rule), behavior="isolated")
        second = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=rule == _DIGITS)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([first, second])
    if rule == _QWEN2:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def _sentencepiece(meta: Mapping[str, Any]) -> Tokenizer:
    """SentencePiece BPE as Hugging Face converts it: spaces as U+2581, byte fallback, merges in order of score."""
    tokens, scores = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.scores"]
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = []
    for token, score in zip(tokens, scores):
        cuts = [(token[:i], token[i:]) for i in range(1, len(token))]
        found = [(left, right) for left, right in cuts if left in vocab and right in vocab]
        found.sort(key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
        merges += [(score, len(left), len(right), left, right) for left, right in found]
    merges.sort(key=lambda m: m[:3], reverse=True)
    pairs = [(left, right) for *_, left, right in merges]
    unknown = meta.get("tokenizer.ggml.unknown_token_id")
    unk = None if unknown is None else tokens[unknown]
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=pairs, unk_token=unk, fuse_unk=True, byte_fallback=True))
    prefix = bool(meta.get("tokenizer.ggml.add_space_prefix", True))
    steps: list[Any] = [normalizers.Prepend("▁")] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    parts: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)] if prefix else parts)
    return tokenizer


def _pair(line: str) -> tuple[str, str]:
    left, right = line.split(" ")
    return left, right

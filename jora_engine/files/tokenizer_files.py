"""What a model's folder says of its tokenizer: the backend, the names of its special tokens, ends and chat template.

Reads tokenizer.json, or a SentencePiece tokenizer.model where that is all there is. Renders and encodes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from jora_engine.files.gguf_tokenizer import build_tokenizer
from jora_engine.files.tensor_files import read_json
from raft_errors import BadInput


def read_backend(folder: Path, settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    if (folder / "tokenizer.json").exists():
        try:
            backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the package raises no narrower class
            raise BadInput(
                f"{folder / 'tokenizer.json'} cannot be read ({error})",
                expected="a tokenizers file",
                do="download it again",
            ) from error
        backend.no_padding()
        backend.no_truncation()
        return _with_added_tokens(backend, folder, settings)
    if (folder / "tokenizer.model").exists():
        return _with_added_tokens(_from_sentencepiece(folder / "tokenizer.model", settings), folder, settings)
    raise BadInput(
        f"{folder} holds no tokenizer",
        expected="tokenizer.json or a SentencePiece tokenizer.model",
        do="add the tokenizer files that belong to the model",
    )


def _from_sentencepiece(file: Path, settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """A SentencePiece BPE model as Hugging Face converts it, checked against SentencePiece itself."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor()
    try:
        model.Load(str(file))
    except (OSError, RuntimeError) as error:
        raise BadInput(
            f"{file} cannot be read ({error})", expected="a SentencePiece model", do="get it again"
        ) from error
    ids = range(model.GetPieceSize())
    tokenizer = build_tokenizer(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": [model.IdToPiece(i) for i in ids],
            "tokenizer.ggml.scores": [model.GetScore(i) for i in ids],
            "tokenizer.ggml.token_type": [2 if model.IsUnknown(i) else 3 if model.IsControl(i) else 1 for i in ids],
            "tokenizer.ggml.unknown_token_id": model.unk_id(),
            "tokenizer.ggml.bos_token_id": model.bos_id(),
            "tokenizer.ggml.add_bos_token": bool(settings.get("add_bos_token", True)) and model.bos_id() >= 0,
        }
    )
    for text in ("The quick brown fox, 12.5 %.", "naïve Café: 東京 😀", "def f(x):\n    return x"):
        if tokenizer.encode(text, add_special_tokens=False).ids != model.EncodeAsIds(text):
            raise BadInput(
                f"{file} is not a SentencePiece BPE model of the Llama kind",
                expected="BPE with spaces as U+2581 and byte fallback",
                do="add the model's tokenizer.json",
            )
    if settings.get("legacy") is False:  # then a text begins with a space, and what follows a special token does not
        tokenizer.normalizer = None
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace("\u2581", prepend_scheme="first", split=False)
    return tokenizer


def _with_added_tokens(
    backend: tokenizers.Tokenizer, folder: Path, settings: Mapping[str, Any]
) -> tokenizers.Tokenizer:
    """The backend with the tokens that the folder adds to its vocabulary in the files beside it.

    Raises:
        BadInput: one of them would get another id than its file says.
    """
    older = folder / "added_tokens.json"
    special = {*special_tokens(folder, settings).values(), *more_special_tokens(folder, settings)}
    added: dict[int, Mapping[str, Any]] = {
        int(i): {"content": t, "special": t in special} for t, i in (read_json(older) if older.exists() else {}).items()
    }
    added |= {int(i): row for i, row in (settings.get("added_tokens_decoder") or {}).items()}
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    for number, row in sorted(added.items()):
        if row["content"] in known:
            continue
        flags = {
            name: bool(row.get(name, False)) for name in ("lstrip", "rstrip", "single_word", "normalized", "special")
        }
        token = tokenizers.AddedToken(row["content"], **flags)
        backend.add_special_tokens([token]) if token.special else backend.add_tokens([token])
        if (got := backend.token_to_id(row["content"])) != number:
            raise BadInput(
                f"{folder}: the added token {row['content']!r} has the id {number} in its file, and {got} here",
                expected="added tokens numbered on from the vocabulary",
                do="add the model's tokenizer.json",
            )
    return backend


def special_tokens(folder: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """Special tokens by name; older folders keep them in special_tokens_map.json."""
    older = folder / "special_tokens_map.json"
    merged = {**(read_json(older) if older.exists() else {}), **settings}
    out = {}
    for name in ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"):
        value = merged.get(name)
        value = value.get("content") if isinstance(value, Mapping) else value
        if isinstance(value, str):
            out[name] = value
    return out


def more_special_tokens(folder: Path, settings: Mapping[str, Any]) -> list[str]:
    """The special tokens that have no name of their own (`additional_special_tokens`)."""
    older = folder / "special_tokens_map.json"
    merged = {**(read_json(older) if older.exists() else {}), **settings}
    rows = merged.get("additional_special_tokens") or merged.get("extra_special_tokens") or []
    values = rows.values() if isinstance(rows, Mapping) else rows
    return [value["content"] if isinstance(value, Mapping) else value for value in values]


def config_eos(folder: Path) -> list[int]:
    """End ids that generation_config.json and config.json name."""
    ids: list[int] = []
    for name in ("generation_config.json", "config.json"):
        value = read_json(folder / name).get("eos_token_id") if (folder / name).exists() else None
        ids += value if isinstance(value, list) else [] if value is None else [value]
    return list(dict.fromkeys(ids))


def read_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    if (folder / "chat_template.jinja").exists():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if (folder / "chat_template.json").exists():
        return read_json(folder / "chat_template.json").get("chat_template")
    template = settings.get("chat_template")
    if isinstance(template, list):  # several named ones
        named = {entry["name"]: entry["template"] for entry in template}
        template = named.get("default")
    return template

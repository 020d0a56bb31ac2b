"""Text to token ids and back, and chat templates, giving what transformers' tokenizers give for the same folder.

Reads tokenizer.json, or a SentencePiece tokenizer.model where that is all there is. A model without a chat template
gets a plain one, and `fallback_template` says so. Knows nothing of models or records.
"""

from __future__ import annotations

import datetime
import functools
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import tokenizers
from jinja2.sandbox import ImmutableSandboxedEnvironment

from jora_engine.files.gguf_tokenizer import build_tokenizer
from jora_engine.files.tensor_files import read_json
from raft_errors import BadInput

log = logging.getLogger("raft.jora_engine")

FALLBACK_NAME = "alpaca"
FALLBACK_TEMPLATE = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ '### Instruction:\n' + message['content'] + '\n\n' }}"
    "{% else %}{{ '### Response:\n' + message['content'] + eos_token + '\n\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
)

TEMPLATE_DATE = datetime.date(2024, 7, 26)
"""The day on which chat templates that print one are rendered, for ever: a model must be asked as it was trained, and a
training that is gone on with tomorrow must see today's prompts. It is the date that Llama 3's own template falls back
to. Changing it makes every adapter of a dated base one that was trained for another prompt."""

_DATE_CALL = re.compile(r"""\bstrftime_now\(\s*(?:format\s*=\s*)?(['"])([^'"\\]*)\1\s*\)""")

Message = Mapping[str, str]


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer with its chat template.

    Attributes:
        special: special tokens by name (`bos_token`, `eos_token`, ...), as templates see them.
        chat_template: the Jinja source in use.
        fallback_template: name of the built-in template where the model brings none, else None.
        eos_ids: ids at which generation stops, the end of a turn first.
        today: the date that a template's `strftime_now` sees.
    """

    backend: tokenizers.Tokenizer
    special: Mapping[str, str]
    chat_template: str
    fallback_template: str | None
    eos_ids: tuple[int, ...]
    today: datetime.date = field(default=TEMPLATE_DATE)

    @classmethod
    def load(cls, folder: Path, today: datetime.date = TEMPLATE_DATE) -> Tokenizer:
        """Reads the tokenizer files of a Hugging Face folder.

        Raises:
            BadInput: there is no tokenizer, it cannot be read, or it has no end-of-sequence token.
        """
        settings = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
        special = _special_tokens(folder, settings)
        backend = _backend(folder, settings)
        if "eos_token" not in special:
            named = [backend.id_to_token(i) for i in _config_eos(folder)]
            special |= {"eos_token": named[0]} if named and named[0] else {}
        eos = backend.token_to_id(special.get("eos_token", ""))
        if eos is None:
            raise BadInput(
                f"{folder}: the tokenizer has no end-of-sequence token",
                expected="eos_token in tokenizer_config.json",
                do="give the tokenizer files that belong to the model",
            )
        template = _template(folder, settings)
        fallback = None
        if template is None:
            bos = special.get("bos_token")
            starts = bool(bos) and backend.encode("a").ids[:1] == [backend.token_to_id(bos or "")]
            template = ("{{ bos_token }}" if starts else "") + FALLBACK_TEMPLATE
            fallback = FALLBACK_NAME
            log.warning("%s has no chat template: the plain %s template is used instead", folder, FALLBACK_NAME)
        plain = cls(backend, special, template, fallback, (eos,), today)
        ids = [plain._end_of_turn(), *_config_eos(folder), eos]
        return cls(backend, special, template, fallback, tuple(dict.fromkeys(ids)), today)

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    @property
    def pad_id(self) -> int:
        """The padding token, or the end-of-sequence token where there is none."""
        pad = self.backend.token_to_id(self.special.get("pad_token", ""))
        return self.eos_ids[-1] if pad is None else pad

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids; special tokens such as a leading BOS are added where the tokenizer does so."""
        return self.backend.encode(text, add_special_tokens=add_special_tokens).ids

    def encode_batch(self, texts: Sequence[str], add_special_tokens: bool = True) -> list[list[int]]:
        """`encode` of each text, in parallel."""
        return [e.ids for e in self.backend.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        return self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def token_bytes(self) -> list[bytes | None]:
        """What each id writes in the middle of a text; None for special tokens, and for ids that are not in use."""
        steps = _decoder_steps(json.loads(self.backend.to_str()).get("decoder") or {})
        added = self.backend.get_added_tokens_decoder()
        vocabulary = self.backend.get_vocab(with_added_tokens=True)
        out: list[bytes | None] = [None] * (max(vocabulary.values()) + 1)
        for text, i in vocabulary.items():
            if i in added:
                out[i] = None if added[i].special else text.encode()
            elif "ByteLevel" in steps:
                out[i] = bytes(_BYTE_LEVEL[c] for c in text) if _BYTE_LEVEL.keys() >= set(text) else None
            elif "ByteFallback" in steps and re.fullmatch(r"<0x[0-9A-F]{2}>", text):
                out[i] = bytes([int(text[3:5], 16)])
            else:
                out[i] = text.replace("\u2581", " ").encode()
        return out

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        """The chat template filled in.

        Raises:
            BadInput: the template rejects the messages or is not valid Jinja.
        """
        if not messages:
            raise BadInput("no messages for the chat template", expected="at least one", do="give a message")
        rows = [{k: v for k, v in message.items() if v is not None} for message in messages]
        try:
            compiled = _compile(self.chat_template, self.today)
            return compiled.render(
                messages=rows, tools=None, documents=None, add_generation_prompt=add_generation_prompt, **self.special
            )
        except jinja2.TemplateError as error:
            raise BadInput(
                f"the model's chat template failed ({error})",
                expected="roles and turns in the order that the template accepts",
                do="check the messages, or the template in tokenizer_config.json or chat_template.jinja",
            ) from error

    @property
    def template_date(self) -> str | None:
        """The date in the prompts, `2024-07-26`, where the chat template asks for one."""
        return self.today.isoformat() if is_dated(self.chat_template) else None

    def apply_chat_template(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> list[int]:
        """Token ids of the rendered template; it brings its own special tokens, so none are added."""
        return self.encode(self.render(messages, add_generation_prompt), add_special_tokens=False)

    def encode_example(self, messages: Sequence[Message], completion: str) -> tuple[list[int], list[int]]:
        """(prompt ids, completion ids) of a training example.

        The prompt is exactly what generation starts from; the completion ends with the token that generation stops at.
        """
        prompt = self.apply_chat_template(messages, add_generation_prompt=True)
        return prompt, [*self.encode(completion, add_special_tokens=False), self.eos_ids[0]]

    def _end_of_turn(self) -> int:
        """The special token that the template puts after an assistant's words, else the end-of-sequence token."""
        probe = "Probe answer."
        user = {"role": "user", "content": "Probe question."}
        eos = self.eos_ids[-1]
        try:
            text = self.render([user, {"role": "assistant", "content": probe}])
        except BadInput:
            return eos
        tail = text.rpartition(probe)[2].lstrip()
        specials = {t.content: i for i, t in self.backend.get_added_tokens_decoder().items() if t.special}
        specials.setdefault(self.special["eos_token"], eos)
        for content in sorted(specials, key=len, reverse=True):
            if tail.startswith(content):
                return specials[content]
        return eos


def is_dated(template: str) -> bool:
    """Whether what a chat template writes depends on the day."""
    return "strftime_now" in template


def with_fixed_date(template: str, today: datetime.date = TEMPLATE_DATE) -> str:
    """The chat template with each `strftime_now("...")` replaced by the date it gives, so that any program renders it
    as the engine does. A call whose format is not written out stays, with a warning."""
    fixed = _DATE_CALL.sub(lambda call: json.dumps(today.strftime(call[2]), ensure_ascii=False), template)
    if re.search(r"\bstrftime_now\s*\(", fixed):
        log.warning(
            "the chat template computes how it prints the date: other programs print the day they run, this one %s",
            today.isoformat(),
        )
    return fixed


def _decoder_steps(decoder: Mapping[str, Any]) -> set[str]:
    """The kinds of decoder that a tokenizer joins its tokens with."""
    return {decoder.get("type", "")}.union(*(_decoder_steps(d) for d in decoder.get("decoders", ())))


def _byte_level() -> dict[str, int]:
    """Byte-level BPE's letters and the bytes that they stand for (GPT-2): printable ones are themselves."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + n): b for n, b in enumerate(others)}


_BYTE_LEVEL = _byte_level()


def _backend(folder: Path, settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
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
        return backend
    if (folder / "tokenizer.model").exists():
        return _from_sentencepiece(folder / "tokenizer.model", settings)
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
    return tokenizer


def _special_tokens(folder: Path, settings: Mapping[str, Any]) -> dict[str, str]:
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


def _config_eos(folder: Path) -> list[int]:
    """End ids that generation_config.json and config.json name."""
    ids: list[int] = []
    for name in ("generation_config.json", "config.json"):
        value = read_json(folder / name).get("eos_token_id") if (folder / name).exists() else None
        ids += value if isinstance(value, list) else [] if value is None else [value]
    return list(dict.fromkeys(ids))


def _template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    if (folder / "chat_template.jinja").exists():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if (folder / "chat_template.json").exists():
        return read_json(folder / "chat_template.json").get("chat_template")
    template = settings.get("chat_template")
    if isinstance(template, list):  # several named ones
        named = {entry["name"]: entry["template"] for entry in template}
        template = named.get("default")
    return template


@functools.lru_cache(maxsize=16)
def _compile(source: str, today: datetime.date) -> jinja2.Template:
    """A template in transformers' sandbox: same options, filters and globals."""

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
        # Jinja's own filter escapes HTML characters, which would change the prompt
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def strftime_now(format: str) -> str:  # transformers' name for it
        return today.strftime(format)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _Generation]
    )
    environment.filters["tojson"] = tojson
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now}
    return environment.from_string(source)


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks the assistant's words for transformers' masks; here it only has to be accepted."""

    tags = {"generation"}  # noqa: RUF012  Jinja's interface

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)

"""Text to token ids and back, and chat prompts, giving what transformers' tokenizers give for the same folder.

One thing differs by design: control tokens in the words of users are plain text (`control_tokens`). A model without a
chat template gets a plain one, and `fallback_template` says so. Knows nothing of models or records.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import itertools
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers

from jora_engine.files.chat_template import (
    FALLBACK_NAME,
    FALLBACK_TEMPLATE,
    TEMPLATE_DATE,
    Message,
    is_dated,
    render_chat,
    with_defaults,
    with_fixed_date,
)
from jora_engine.files.control_tokens import ControlTokens
from jora_engine.files.tensor_files import read_json
from jora_engine.files.tokenizer_files import config_eos, read_backend, read_template, special_tokens
from raft_errors import BadInput

log = logging.getLogger("raft.jora_engine")

BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # name of a token that is one byte of a character
TAIL = 64  # characters of a prompt that decide how the text behind it is cut into tokens


class Spelling(NamedTuple):
    """How a token reads.

    Attributes:
        text: for people: U+FFFD stands for a part of a character, and a special token has its name.
        written: the bytes that it adds to a text; None for a special token, which adds nothing.
    """

    text: str
    written: bytes | None


@dataclass(frozen=True)
class AnswerForm:
    """How a chat template begins an answer.

    Attributes:
        before: its text before the question.
        prompt: behind the question, where an answer is to be generated.
        written: behind the question, where the answer is given.
    """

    before: str
    prompt: str
    written: str


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer with its chat template.

    Attributes:
        special: special tokens by name (`bos_token`, `eos_token`, ...), as templates see them.
        chat_template: the Jinja source in use.
        fallback_template: name of the built-in template where the model brings none, else None.
        eos_ids: ids at which generation stops, the end of a turn first.
        today: the date that a template's `strftime_now` sees.
        variables: what the template is told besides, e.g. `{"enable_thinking": False}`.
        prefill: text that follows the template's generation prompt; the answer begins behind it.
    """

    backend: tokenizers.Tokenizer
    special: Mapping[str, str]
    chat_template: str
    fallback_template: str | None
    eos_ids: tuple[int, ...]
    today: datetime.date = field(default=TEMPLATE_DATE)
    variables: Mapping[str, Any] = field(default_factory=dict)
    prefill: str = ""

    @classmethod
    def load(
        cls,
        folder: Path,
        today: datetime.date = TEMPLATE_DATE,
        *,
        variables: Mapping[str, Any] | None = None,
        prefill: str = "",
    ) -> Tokenizer:
        """Reads the tokenizer files of a Hugging Face folder; `variables` and `prefill` as in the attributes.

        Raises:
            BadInput: there is no tokenizer, it cannot be read, or it has no end-of-sequence token.
        """
        settings = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
        special = special_tokens(folder, settings)
        backend = read_backend(folder, settings)
        if "eos_token" not in special:
            named = [backend.id_to_token(i) for i in config_eos(folder)]
            special |= {"eos_token": named[0]} if named and named[0] else {}
        eos = backend.token_to_id(special.get("eos_token", ""))
        if eos is None:
            raise BadInput(
                f"{folder}: the tokenizer has no end-of-sequence token",
                expected="eos_token in tokenizer_config.json",
                do="give the tokenizer files that belong to the model",
            )
        template = read_template(folder, settings)
        fallback = None
        if template is None:
            bos = special.get("bos_token")
            starts = bool(bos) and backend.encode("a").ids[:1] == [backend.token_to_id(bos or "")]
            template = ("{{ bos_token }}" if starts else "") + FALLBACK_TEMPLATE
            fallback = FALLBACK_NAME
            log.warning("%s has no chat template: the plain %s template is used instead", folder, FALLBACK_NAME)
        plain = cls(backend, special, template, fallback, (eos,), today, variables or {}, prefill)
        ids = tuple(dict.fromkeys([plain._end_of_turn(), *config_eos(folder), eos]))
        return dataclasses.replace(plain, eos_ids=ids)

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
        """The text of ids; U+FFFD stands for a part of a character, as at an end that is cut inside one.

        Where characters are written as byte tokens, transformers then gives U+FFFD for every byte around it, those of
        whole characters too. Here these stay, as SentencePiece and byte-level tokenizers have it.
        """
        text = self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)
        steps, added = self._writing
        if "\ufffd" not in text or "ByteFallback" not in steps:
            return text
        shown = [i for i in ids if not (skip_special_tokens and i in added and added[i].special)]
        return self.backend.decoder.decode(_whole_characters(filter(None, map(self.backend.id_to_token, shown))))

    def token_bytes(self) -> list[bytes | None]:
        """What each id writes in the middle of a text; None for special tokens, and for ids that are not in use."""
        vocabulary = self.backend.get_vocab(with_added_tokens=True)
        out: list[bytes | None] = [None] * (max(vocabulary.values()) + 1)
        for text, i in vocabulary.items():
            out[i] = self._written(i, text)
        return out

    def spelling(self, token: int) -> Spelling:
        """One token by itself, in the middle of a text; an id that is not in use has no name and writes nothing."""
        name = self.backend.id_to_token(token) or ""
        written = self._written(token, name) if name else None
        return Spelling(name if written is None else written.decode("utf-8", "replace"), written)

    def _written(self, token: int, name: str) -> bytes | None:
        """The bytes that a token of this name in the vocabulary writes; None where it is special."""
        steps, added = self._writing
        if token in added:
            return None if added[token].special else name.encode()
        if "ByteLevel" in steps:
            return bytes(_BYTE_LEVEL[c] for c in name) if _BYTE_LEVEL.keys() >= set(name) else None
        if "ByteFallback" in steps and BYTE.fullmatch(name):
            return bytes([int(name[3:5], 16)])
        return name.replace("\u2581", " ").encode()

    @functools.cached_property
    def _writing(self) -> tuple[set[str], dict[int, tokenizers.AddedToken]]:
        """What decides how tokens are written: the kinds of decoder, and the added tokens by id."""
        decoder = json.loads(self.backend.decoder.__getstate__()) if self.backend.decoder else {}
        return _decoder_steps(decoder), self.backend.get_added_tokens_decoder()

    def encode_plain(self, text: str) -> list[int]:
        """Token ids of a user's text: what would be a control token in it is plain text."""
        return self._encode_parts(self.control.parts(text))

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        """The chat template filled in, with `prefill` behind a generation prompt.

        Raises:
            BadInput: the template rejects the messages or is not valid Jinja.
        """
        text = render_chat(
            self.chat_template,
            messages,
            add_generation_prompt=add_generation_prompt,
            special=self.special,
            variables=self.variables,
            today=self.today,
        )
        return text + self.prefill if add_generation_prompt else text

    @property
    def template_date(self) -> str | None:
        """The date in the prompts, `2024-07-26`, where the chat template asks for one."""
        return self.today.isoformat() if is_dated(self.chat_template) else None

    def apply_chat_template(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> list[int]:
        """Token ids of the rendered template; it brings its own special tokens, so none are added.

        The template's control tokens count, those in the contents of messages are plain text.
        """
        return self._encode_parts(self._prompt_parts(messages, add_generation_prompt))

    def encode_example(self, messages: Sequence[Message], completion: str) -> tuple[list[int], list[int]]:
        """(prompt ids, completion ids) of a training example.

        The prompt is exactly what generation starts from. The completion is tokenised as it stands behind the prompt,
        with the white space that the template writes before it, and ends with the token at which generation stops.
        """
        parts = self._prompt_parts(messages, add_generation_prompt=True)
        shown = "".join(message.get("content") or "" for message in messages)
        first, *others = self.control.parts(self.answer_lead + completion, shown)
        answer = [*self._behind("".join(parts)[-TAIL:], first), *self._encode_parts(others, first=False)]
        return self._encode_parts(parts), [*answer, self.eos_ids[0]]

    @functools.cached_property
    def control(self) -> ControlTokens:
        """The tokens that steer the model and not the reader."""
        return ControlTokens.of(self.backend)

    @functools.cached_property
    def answer_lead(self) -> str:
        """White space that the template writes between the generation prompt and an answer: " " in Llama 2's."""
        form = self.answer_form()
        between = form.written.removeprefix(form.prompt) if form and form.written.startswith(form.prompt) else ""
        return between if between.isspace() and not self.prefill else ""

    def answer_form(self) -> AnswerForm | None:
        """How the template begins an answer, seen on a probe; None where it takes no plain question and answer."""
        question, answer = "Probe question.", "Probe answer."
        asked = [{"role": "user", "content": question}]
        try:
            prompt = self.render(asked, add_generation_prompt=True).removesuffix(self.prefill)
            whole = self.render([*asked, {"role": "assistant", "content": answer}])
        except BadInput:
            return None
        before, found, written = whole.rpartition(answer)[0].partition(question)
        start, asked_too, behind = prompt.partition(question)
        return AnswerForm(before, behind, written) if found and asked_too and before == start else None

    def portable_template(self) -> str:
        """The chat template with all that decides these prompts written into it, for programs that are told nothing."""
        return with_defaults(with_fixed_date(self.chat_template, self.today), self.variables, self.prefill)

    def chat_contract(self) -> dict[str, Any]:
        """What a server needs to write the same prompts, as JSON values: the variables, and the form on a probe."""
        form = self.answer_form()
        return {
            "variables": dict(self.variables),
            "prefill": self.prefill,
            **({"before": form.before, "after": form.prompt + self.prefill} if form else {}),
        }

    def _prompt_parts(self, messages: Sequence[Message], add_generation_prompt: bool) -> list[str]:
        """The rendered prompt in parts, cut inside the control tokens that stand in contents."""
        marked, mark = self.control.marked(messages, self.chat_template + self.prefill)
        return self.render(marked, add_generation_prompt).split(mark)

    def _encode_parts(self, parts: Sequence[str], *, first: bool = True) -> list[int]:
        """Ids of a text that is given in parts between which no token may reach."""
        ids: list[int] = []
        for part in parts:
            ids += self.encode(part, add_special_tokens=False) if first else self._behind("\n", part)
            first = False
        return ids

    def _behind(self, before: str, text: str) -> list[int]:
        """Ids of `text` as it goes on behind `before`: SentencePiece begins a text of its own with a space."""
        context = self.encode(before, add_special_tokens=False)
        both = self.encode(before + text, add_special_tokens=False)
        return both[len(context) :] if both[: len(context)] == context else self.encode(text, add_special_tokens=False)

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


def _decoder_steps(decoder: Mapping[str, Any]) -> set[str]:
    """The kinds of decoder that a tokenizer joins its tokens with."""
    return {decoder.get("type", "")}.union(*(_decoder_steps(d) for d in decoder.get("decoders", ())))


def _whole_characters(names: Iterable[str]) -> list[str]:
    """Names of tokens with U+FFFD in the place of byte tokens that make no whole character."""
    out: list[str] = []
    for is_byte, run in itertools.groupby(names, lambda name: bool(BYTE.fullmatch(name))):
        if not is_byte:
            out += run
            continue
        for character in bytes(int(name[3:5], 16) for name in run).decode("utf-8", "replace"):
            out += ["\ufffd"] if character == "\ufffd" else [f"<0x{byte:02X}>" for byte in character.encode()]
    return out


def _byte_level() -> dict[str, int]:
    """Byte-level BPE's letters and the bytes that they stand for (GPT-2): printable ones are themselves."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + n): b for n, b in enumerate(others)}


_BYTE_LEVEL = _byte_level()

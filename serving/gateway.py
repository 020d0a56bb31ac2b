"""From a request to a prompt, and from the engine's words to an answer: what the API means, without HTTP.

`name` answers from retrieved passages by the adapter's contract: the last user message is the question, system messages
and earlier turns have no place in what was trained and are left out by name. `name@3` is version 3. `name/raw` and
`base` take all messages as they are and search nothing.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.prompting.copying import QuoteCopier, TokenBytes
from jora_engine.files.tokenizer import Tokenizer
from jora_engine.generation.adapter_memory import AdapterMemory
from jora_engine.generation.requests import Request
from raft_errors import BadInput
from serving.content import finished, growing
from serving.domain import Domain, Prompts, ServedVersion, ask_domain, fitting
from serving.errors import ApiError, no_model
from serving.schema import ChatRequest
from tasks.runtime.asking import Asked

DEFAULT_TOKENS = 256  # of an answer where the request does not say, as `raft ask` has it
BROKEN = {"x-should-retry": "false"}


@dataclass(frozen=True)
class Plan:
    """A request made ready for the engine.

    Attributes:
        model: the id of what answers (`faq@3`, `base`).
        request: for the engine; None where the answer is known already.
        asked: the question and its passages; None where nothing is searched.
        ignored: parts of the request that have no place in the contract.
    """

    model: str
    request: Request | None
    prompt_tokens: int
    asked: Asked | None = None
    ignored: tuple[str, ...] = ()
    passages_left_out: int = 0
    passage_url: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    def settled(self, text: str) -> str:
        """The content that stands fast while a text grows."""
        return growing(text, self.asked.template) if self.asked else text

    def content(self, text: str) -> tuple[str, list[dict[str, Any]]]:
        """The whole content and its annotations."""
        return finished(text, self.asked, self.passage_url) if self.asked else (text, [])


class Gateway:
    """The served models.

    Args:
        base: folder of the base model; chat: what its chat template is told.
        adapters: the engine's memory of adapters; versions are registered there as they are asked for.
        longest: tokens of prompt and answer together.
        fingerprint: stands for engine, dtype and base.
    """

    def __init__(
        self,
        base: Path,
        chat: Mapping[str, Any],
        domains: Mapping[str, Domain],
        adapters: AdapterMemory,
        longest: int,
        fingerprint: str,
    ) -> None:
        self.domains, self.longest = dict(domains), longest
        self._prompts = Prompts(base, chat)
        self._adapters = adapters
        self._fingerprint = fingerprint
        self._lock = threading.Lock()
        self._vocabulary: TokenBytes | None = None
        self.created = int(time.time())

    def names(self) -> list[str]:
        """What `/v1/models` lists: the base, and each adapter by its name; versions are not listed."""
        return ["base", *(name for name, domain in self.domains.items() if _in_use(domain))]

    def known(self, name: str) -> bool:
        """Whether a model can be asked for by that name."""
        try:
            self._resolved(name)
        except ApiError:
            return False
        return True

    def fingerprint(self, model: str) -> str:
        """Changes with the engine, the base and the adapter's version."""
        return "fp_" + hashlib.sha256(f"{self._fingerprint} {model}".encode()).hexdigest()[:16]

    def passage(self, domain: str, chunk_id: str) -> dict[str, Any] | None:
        """A passage by its id."""
        chunk = self.domains[domain].retriever.chunks.get(chunk_id) if domain in self.domains else None
        return None if chunk is None else {"id": chunk.id, "title": chunk.title, "page": chunk.page, "text": chunk.text}

    def plan(self, chat: ChatRequest, tenant: str = "") -> Plan:
        """Searches, renders and encodes; blocks, so call it off the event loop.

        Raises:
            ApiError: the model does not exist or cannot be used, or the request does not fit.
        """
        domain, version, raw = self._resolved(chat.name)
        adapter = self._registered(version)
        if domain is None or version is None or raw:
            messages = [
                {"role": m.role.replace("developer", "system"), "content": m.content or ""} for m in chat.messages
            ]
            tokenizer = self._prompts.tokenizer(version.contract if version else None)
            prompt = self._encoded(tokenizer, messages)
            name = f"{version.id}/raw" if version else "base"
            return Plan(name, self._request(chat, prompt, adapter, tenant), len(prompt))
        if chat.logprobs:
            raise ApiError(400, f"logprobs: of {domain.name}/raw only", code="unsupported", param="logprobs")
        question = chat.messages[-1].content if chat.messages[-1].role == "user" else None
        if not (question or "").strip():
            raise ApiError(400, "The last message must be the user's question", code="invalid_value", param="messages")
        assert question is not None
        ignored = [what for what in ("system", "history") if _has(chat, what)]
        whole = ask_domain(domain, version, question)
        tokenizer = self._prompts.tokenizer(version.contract)
        asked, prompt = fitting(whole, tokenizer, self.longest - (chat.new_tokens or DEFAULT_TOKENS))
        url = f"/v1/passages/{domain.name}"
        left_out = len(whole.citations) - len(asked.citations)
        if not asked.citations:
            if len(prompt) > self.longest - (chat.new_tokens or DEFAULT_TOKENS):
                raise self._too_long(len(prompt), chat)
            return Plan(version.id, None, len(prompt), asked, tuple(ignored), left_out, url)
        request = self._request(chat, prompt, adapter, tenant, asked, tokenizer)
        return Plan(version.id, request, len(prompt), asked, tuple(ignored), left_out, url)

    def _resolved(self, name: str) -> tuple[Domain | None, ServedVersion | None, bool]:
        """(domain, version, raw) of a model's name; names of the registry only, nothing is ever a path."""
        if name == "base":
            return None, None, True
        stem, slash, end = name.partition("/")
        stem, at, number = stem.partition("@")
        domain = self.domains.get(stem)
        if domain is None or (slash and end != "raw") or (at and not (number.isascii() and number.isdigit())):
            raise no_model(name)
        try:
            return domain, domain.find(int(number) if at else None), bool(slash)
        except BadInput as error:
            raise no_model(name) from error

    def _registered(self, version: ServedVersion | None) -> str | None:
        """The version's name in the engine, its adapter read and checked."""
        if version is None:
            return None
        name = f"{version.id} {version.folder}"
        with self._lock:
            if name not in self._adapters.names():
                self._adapters.register(name, version.folder)
        try:
            self._adapters.get(name)
            version.template  # noqa: B018  reads the contract
        except (BadInput, OSError, KeyError, ValueError) as error:
            message = f"The adapter {version.id} cannot be used; the server's log says why"
            raise ApiError(400, message, code="adapter_broken", param="model", headers=BROKEN) from error
        return name

    def _encoded(self, tokenizer: Tokenizer, messages: list[dict[str, str]]) -> list[int]:
        try:
            return tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        except BadInput as error:
            message = "The model's chat template does not take these messages"
            raise ApiError(400, message, code="invalid_value", param="messages") from error

    def _request(
        self,
        chat: ChatRequest,
        prompt: list[int],
        adapter: str | None,
        tenant: str,
        asked: Asked | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> Request:
        room = self.longest - len(prompt)
        if room < (chat.new_tokens or 1):
            raise self._too_long(len(prompt), chat)
        allowed = None
        if chat.copy_quotes and asked and tokenizer:
            with self._lock:
                self._vocabulary = self._vocabulary or TokenBytes(tokenizer.token_bytes())
            allowed = QuoteCopier(self._vocabulary, asked.template, asked.texts).allowed
        return Request(
            tuple(prompt),
            chat.new_tokens or min(DEFAULT_TOKENS, room),
            # an adapter is greedy unless it is asked otherwise, as it was evaluated; a chat is as OpenAI has it
            temperature=chat.temperature if chat.temperature is not None else 0.0 if asked else 1.0,
            top_p=chat.top_p if chat.top_p is not None else 1.0,
            top_k=chat.top_k or 0,
            seed=chat.seed if chat.seed is not None else time.time_ns() % 2**62,
            stop=tuple(chat.stop),
            logprobs=(chat.top_logprobs or 0) if chat.logprobs else None,
            ignore_eos=chat.ignore_eos,
            adapter=adapter,
            tenant=tenant,
            allowed=allowed,
        )

    def _too_long(self, tokens: int, chat: ChatRequest) -> ApiError:
        message = (
            f"The prompt has {tokens} tokens and {chat.new_tokens or 1} are to follow; this server's limit is "
            f"{self.longest} in all"
        )
        return ApiError(400, message, code="context_length_exceeded", param="messages")


def _in_use(domain: Domain) -> bool:
    try:
        domain.find(None)
    except BadInput:
        return False
    return True


def _has(chat: ChatRequest, what: str) -> bool:
    system = [message.role in ("system", "developer") for message in chat.messages]
    return any(system) if what == "system" else len(chat.messages) - sum(system) > 1

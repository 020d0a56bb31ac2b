"""From a request to a prompt, and from the engine's words to an answer: what the API means, without HTTP.

`name` answers from retrieved passages by the adapter's contract: the last user message, or the prompt of a completion,
is the question; system messages and earlier turns have no place in what was trained and are left out by name. `name@3`
is version 3. `name/raw` and `base` take all messages, or the prompt to be continued, as they are and search nothing.
What a chat page asks on its own (a title, tags, follow-up questions) is no question about the documents and goes to the
base. `auto` and `mix` leave the choice of adapters to `serving.routing`.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote as url_quote

from data.prompting.copying import QuoteCopier, TokenBytes
from jora_engine.files.tokenizer import Tokenizer
from jora_engine.generation.adapter_memory import AdapterMemory
from jora_engine.generation.requests import Request
from raft_errors import BadInput
from serving.content import Content, finished, growing
from serving.domain import RESERVED, Domain, Prompts, ServedVersion, ask_domain, fitting
from serving.errors import ApiError, no_model
from serving.routing import Route, Router, mixed_model
from serving.schema import ChatRequest, CompletionRequest, Sources, TextRequest
from serving.telemetry import SILENT, Trace
from tasks.runtime.asking import Asked

if TYPE_CHECKING:
    from jora_engine.generation.batching import Engine
    from retrieval.embedding.embedder import Embedder
    from serving.remote.loop import RemoteLoop

log = logging.getLogger("raft.serving")

DEFAULT_TOKENS = 256  # of an answer where the request does not say, as `raft ask` has it
BROKEN = {"x-should-retry": "false"}
NO_ROUTES = "no domain here is searched by vectors, by which one could be chosen"
NO_MIX = "this server makes no room for mixtures (serve.mix)"


@dataclass(frozen=True)
class Plan:
    """A request made ready for the engine.

    Attributes:
        model: the id of what answers (`faq@3`, `base`).
        request: for the engine; None where the answer is known already.
        asked: the question and its passages; None where nothing is searched.
        ignored: parts of the request that have no place in the contract; `retrieval` where a chat page's own prompt
            went to the base.
        sources: where the citations are to stand beside `annotations`.
        routes: the domains that `auto` or `mix` looked at, the nearest first.
    """

    model: str
    request: Request | None
    prompt_tokens: int
    asked: Asked | None = None
    ignored: tuple[str, ...] = ()
    passages_left_out: int = 0
    passage_url: str = ""
    sources: Sources = "annotations"
    routes: tuple[Route, ...] = ()
    created: int = field(default_factory=lambda: int(time.time()))

    def settled(self, text: str) -> str:
        """The content that stands fast while a text grows; of an answer that may be withheld, nothing does."""
        if self.asked is None:
            return text
        return "" if self.asked.citing else growing(text, self.asked.template)

    def content(self, text: str) -> Content:
        """The whole content and its annotations."""
        return finished(text, self.asked, self.passage_url, self.sources) if self.asked else Content(text)


class Gateway:
    """The served models.

    Args:
        base: folder of the base model; chat: what its chat template is told.
        adapters: the engine's memory of adapters; versions are registered there as they are asked for.
        longest: tokens of prompt and answer together.
        fingerprint: stands for engine, dtype and base.
        sources: where citations stand unless a request says otherwise.
        absent: domains that are not served, with the reason.
        router: for `auto` and `mix`; None = there are no such models.
    """

    def __init__(
        self,
        base: Path,
        chat: Mapping[str, Any],
        domains: Mapping[str, Domain],
        adapters: AdapterMemory,
        longest: int,
        fingerprint: str,
        sources: Sources = "annotations",
        absent: Mapping[str, str] | None = None,
        router: Router | None = None,
    ) -> None:
        self.router = router
        self.domains, self.longest = dict(domains), longest
        self.absent = dict(absent or {})
        self._sources = sources
        self._prompts = Prompts(base, chat)
        self._adapters = adapters
        self._fingerprint = fingerprint
        self._lock = threading.Lock()
        self._reported: set[str] = set()
        self._vocabulary: TokenBytes | None = None
        self.created = int(time.time())

    def names(self) -> list[str]:
        """What `/v1/models` lists: the base, each adapter by its name, and what chooses among them; no versions."""
        usable = [name for name, domain in self.domains.items() if self._usable(domain)]
        return ["base", *usable, *(self.router.names if self.router and usable else ())]

    def prepare(self) -> tuple[int, dict[str, str]]:
        """Reads and checks the adapters in use, so that none is listed that cannot be used.

        Returns:
            The largest rank, 0 without any; by domain why its adapter cannot be used.
        """
        rank, broken = 0, {}
        for name, domain in self.domains.items():
            try:
                key = self._registered(domain.find(None))
                rank = max(rank, self._adapters.get(key).rank if key else 0)
            except ApiError as error:
                broken[name] = str(error.__cause__)
            except BadInput as error:
                broken[name] = str(error)
        return rank, broken

    def probe(self, engine: Engine | RemoteLoop) -> dict[str, str]:
        """Has the engine answer through each adapter in use, while it serves nobody yet; one that changes nothing is
        not listed.

        Returns:
            By domain why its adapter cannot be used.
        """
        broken = {}
        for name, domain in self.domains.items():
            if self._usable(domain) and (key := self._registered(domain.find(None))):
                try:
                    engine.probe(key)
                except BadInput as error:
                    broken[name] = str(error)
        return broken

    def prepare_routes(self) -> None:
        """Makes the profiles of the versions in use, so that the first question to `auto` does not wait for them."""
        if self.router:
            self._routes(self.router, "a question")

    def check(self, name: str) -> None:
        """Raises `ApiError` where no model can be asked for by that name."""
        if self.router is None or name not in self.router.names:
            self._resolved(name)

    def fingerprint(self, model: str) -> str:
        """Changes with the engine, the base and the adapter's version."""
        return "fp_" + hashlib.sha256(f"{self._fingerprint} {model}".encode()).hexdigest()[:16]

    def passage(self, domain: str, chunk_id: str) -> dict[str, Any] | None:
        """A passage by its id."""
        chunk = self.domains[domain].retriever.chunks.get(chunk_id) if domain in self.domains else None
        return None if chunk is None else {"id": chunk.id, "title": chunk.title, "page": chunk.page, "text": chunk.text}

    def embedder(self, name: str) -> Embedder:
        """The embedder that a domain is searched with; versions of its adapter share it, so only the name is taken.

        Raises:
            ApiError: there is no such domain, or it is searched by words alone.
        """
        self._resolved(name)
        embedder = self.domains[name].retriever.embedder if name in self.domains else None
        if embedder is None:
            message = f"The model {name[:80]!r} has no embedder: ask for a domain that is searched by vectors"
            raise ApiError(400, message, code="unsupported", param="model")
        return cast("Embedder", embedder)

    def plan(self, request: TextRequest, tenant: str = "", address: str = "", trace: Trace = SILENT) -> Plan:
        """Searches, renders and encodes; blocks, so call it off the event loop.

        Args:
            address: of this server as the client calls it, for links to passages.

        Raises:
            ApiError: the model does not exist or cannot be used, or the request does not fit.
        """
        question = request.question
        if self.router and request.name in self.router.names:
            return self._routed(self.router, request, tenant, address, trace)
        domain, version, raw = self._resolved(request.name)
        if domain and not raw and isinstance(request, ChatRequest) and is_page_task(question or ""):
            return self._unsearched(request, None, tenant, ("retrieval",))
        if domain is None or version is None or raw:
            return self._unsearched(request, version, tenant)
        return self._searched(request, domain, version, self._registered(version), version.id, tenant, address, trace)

    def _routed(self, router: Router, request: TextRequest, tenant: str, address: str, trace: Trace) -> Plan:
        """The plan of a request that leaves the choice to the server: by its question, one domain's or several ones'
        adapters over the nearest domain's passages; the base where it fits no domain."""
        question = request.question
        if isinstance(request, ChatRequest) and is_page_task(question or ""):
            return self._unsearched(request, None, tenant, ("retrieval",))
        if not (question or "").strip():
            raise self._no_question(request)
        assert question is not None
        with trace.part("route"):
            routes = tuple(self._routes(router, question))
        fitting_routes = [route for route in routes if route.fits]
        if not fitting_routes:
            return replace(self._unsearched(request, None, tenant), routes=routes)
        best = fitting_routes[0]
        weights = router.weights(fitting_routes) if request.name == "mix" else {best.name: 1.0}
        parts = {route.name: route.version for route in fitting_routes if route.name in weights}
        registered = {name: self._registered(version) for name, version in parts.items()}
        if len(parts) == 1:
            adapter = registered[best.name]
        else:
            adapter = self._composed({key: weights[name] for name, key in registered.items() if key})
        model = mixed_model({version.id: weights[name] for name, version in parts.items()})
        domain = self.domains[best.name]
        plan = self._searched(request, domain, best.version, adapter, model, tenant, address, trace)
        return replace(plan, routes=routes)

    def _routes(self, router: Router, question: str) -> list[Route]:
        """The domains that can answer, nearest first."""
        usable = {name: domain for name, domain in self.domains.items() if self._usable(domain)}
        return router.routes(question, {name: domain.find(None) for name, domain in usable.items()})

    def _composed(self, weights: Mapping[str, float]) -> str:
        """The name of a mixture in the engine, which is read and has room."""
        try:
            name = self._adapters.compose(weights)
            self._adapters.get(name)
        except BadInput as error:
            message = f"These adapters cannot be mixed here: {error.what}"
            raise ApiError(400, message, code="unsupported", param="model", headers=BROKEN) from error
        return name

    def _searched(
        self,
        request: TextRequest,
        domain: Domain,
        version: ServedVersion,
        adapter: str | None,
        model: str,
        tenant: str,
        address: str,
        trace: Trace,
    ) -> Plan:
        """The plan of a question to a domain: its passages in the version's prompt.

        Args:
            adapter: that answers, by its name in the engine; model: by its name in the answer.
        """
        question = request.question
        if request.scored is not None:
            raise ApiError(400, f"logprobs: of {domain.name}/raw only", code="unsupported", param="logprobs")
        if not (question or "").strip():
            raise self._no_question(request)
        assert question is not None
        with trace.part("retrieve"):
            whole = ask_domain(domain, version, question)
        tokenizer = self._prompts.tokenizer(version.contract)
        room = self.longest - (request.new_tokens or DEFAULT_TOKENS)
        asked, prompt = fitting(whole, tokenizer, room)
        plan = Plan(
            model,
            None,
            len(prompt),
            asked,
            request.unheard,
            len(whole.citations) - len(asked.citations),
            f"{address}/v1/passages/{url_quote(domain.name, safe='')}",
            request.sources or self._sources,
        )
        if asked.citations:
            return replace(plan, request=self._request(request, prompt, adapter, tenant, asked, tokenizer))
        if len(prompt) > room:
            raise self._too_long(len(prompt), request)
        return plan

    def _usable(self, domain: Domain) -> bool:
        try:
            return _key(domain.find(None)) not in self._adapters.broken
        except BadInput:
            return False

    def _unsearched(
        self, request: TextRequest, version: ServedVersion | None, tenant: str, ignored: tuple[str, ...] = ()
    ) -> Plan:
        """The plan of a request to the base or to an adapter alone: all messages, or a text to be continued."""
        adapter = self._registered(version)
        tokenizer = self._prompts.tokenizer(version.contract if version else None)
        if isinstance(request, CompletionRequest):
            prompt = tokenizer.encode(request.prompt)
        else:
            turns = [(m.role.replace("developer", "system"), m.content or "") for m in request.turns]
            prompt = self._encoded(tokenizer, [{"role": role, "content": text} for role, text in turns], request)
        name = f"{version.id}/raw" if version else "base"
        return Plan(name, self._request(request, prompt, adapter, tenant), len(prompt), ignored=ignored)

    def _resolved(self, name: str) -> tuple[Domain | None, ServedVersion | None, bool]:
        """(domain, version, raw) of a model's name; names of the registry only, nothing is ever a path."""
        if name == "base":
            return None, None, True
        stem, slash, end = name.partition("/")
        stem, at, number = stem.partition("@")
        domain = self.domains.get(stem)
        if stem in self.absent:
            raise no_model(name, self.absent[stem])
        if name in RESERVED:
            raise no_model(name, NO_MIX if self.router else NO_ROUTES)
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
        name = _key(version)
        with self._lock:
            if name not in self._adapters.names():
                self._adapters.register(name, version.folder)
        try:
            self._adapters.get(name)
            version.template  # noqa: B018  reads the contract
        except (BadInput, OSError, KeyError, ValueError) as error:
            if name not in self._reported:
                self._reported.add(name)
                log.warning("the adapter %s cannot be used: %s", version.id, error)
            message = f"The adapter {version.id} cannot be used; the server's log says why"
            raise ApiError(400, message, code="adapter_broken", param="model", headers=BROKEN) from error
        return name

    def _encoded(self, tokenizer: Tokenizer, messages: list[dict[str, str]], request: TextRequest) -> list[int]:
        try:
            return tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        except BadInput as error:
            message = "The model's chat template does not take these messages"
            raise ApiError(400, message, code="invalid_value", param=request.text_field) from error

    def _request(
        self,
        request: TextRequest,
        prompt: list[int],
        adapter: str | None,
        tenant: str,
        asked: Asked | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> Request:
        room = self.longest - len(prompt)
        if room < (request.new_tokens or 1):
            raise self._too_long(len(prompt), request)
        allowed = None
        copied = request.copy_quotes
        if copied is None and asked:  # a threshold holds for answers that were written as those it was chosen on
            copied = bool(asked.citing.get("copy_quotes"))
        if copied and asked and tokenizer:
            with self._lock:
                self._vocabulary = self._vocabulary or TokenBytes(tokenizer.token_bytes())
            allowed = QuoteCopier(self._vocabulary, asked.template, asked.texts).allowed
        return Request(
            tuple(prompt),
            request.new_tokens or min(DEFAULT_TOKENS, room),
            # an adapter is greedy unless it is asked otherwise, as it was evaluated; a chat is as OpenAI has it
            temperature=request.temperature if request.temperature is not None else 0.0 if asked else 1.0,
            top_p=request.top_p if request.top_p is not None else 1.0,
            top_k=request.top_k or 0,
            seed=request.seed if request.seed is not None else time.time_ns() % 2**62,
            stop=tuple(request.stop),
            logprobs=request.scored,
            ignore_eos=request.ignore_eos,
            adapter=adapter,
            tenant=tenant,
            allowed=allowed,
        )

    def _no_question(self, request: TextRequest) -> ApiError:
        message = "The last message must be the user's question"
        return ApiError(400, message, code="invalid_value", param=request.text_field)

    def _too_long(self, tokens: int, request: TextRequest) -> ApiError:
        message = (
            f"The prompt has {tokens} tokens and {request.new_tokens or 1} are to follow; this server's limit is "
            f"{self.longest} in all"
        )
        return ApiError(400, message, code="context_length_exceeded", param=request.text_field)


def is_page_task(text: str) -> bool:
    """Whether a text is built as Open WebUI's own prompts are, in every language that they are translated to: a task,
    and the talk, or the text that is to be completed. In linear time, since anybody may send anything."""
    text = text.lstrip()
    if not text.startswith("### Task:"):
        return False
    return any(-1 < text.find(f"<{part}>") < text.rfind(f"</{part}>") for part in ("chat_history", "text"))


def _key(version: ServedVersion) -> str:
    """A version's name in the engine: that of its folder too, since what the last run made has one id every time."""
    return f"{version.id} {version.folder}"

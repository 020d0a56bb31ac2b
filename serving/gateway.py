"""From a request to a prompt, and from the engine's words to an answer: what the API means, without HTTP.

`name` answers from retrieved passages by the adapter's contract: the last user message, or the prompt of a completion,
is the question; system messages and earlier turns have no place in what was trained and are left out by name. `name@3`
is version 3. `name/base` is the base alone with the same prompt over the same passages, to compare the adapter with.
`name/raw` and `base` take all messages, or the prompt to be continued, as they are and search nothing. What a chat page
asks on its own (a title, tags, follow-up questions) is no question about the documents and goes to the base. `auto` and
`mix` leave the choice of adapters to `serving.routing`.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote as url_quote

from data.prompting.contract import template_from_contract
from data.prompting.copying import TokenBytes
from jora_engine.files.tokenizer import Tokenizer
from jora_engine.generation.adapter_layout import PreparedAdapter
from jora_engine.generation.adapter_memory import AdapterMemory
from jora_engine.generation.requests import Request
from raft_errors import BadInput
from serving.asking import Asking
from serving.content.citations import source_of
from serving.content.plan import Plan, is_page_task
from serving.domain import RESERVED, Domain, NotReady, Prompts, ServedVersion, ask_domain, fitting
from serving.errors import ApiError, broken_adapter, no_model, not_for_this_key, not_ready, other_version
from serving.routing import Route, Router, mixed_model
from serving.schema import ChatRequest, CompletionRequest, Sources, TextRequest
from serving.telemetry import SILENT, Trace
from serving.tenants import ANYBODY, Tenant
from serving.versions import BrokenAdapter, Versions, key_of
from tasks.runtime.asking import Asked, put

if TYPE_CHECKING:
    from jora_engine.generation.batching import Engine
    from retrieval.embedding.embedder import Embedder
    from serving.engine_loop import EngineLoop
    from serving.remote.loop import RemoteLoop

log = logging.getLogger("raft.serving")

ENDINGS = ("raw", "base")  # of a model's name, behind a slash
NUMBER = re.compile(r"[0-9]{1,9}")  # of a version
DEFAULT_TOKENS = 256  # of an answer where the request does not say, as `raft ask` has it
RENEWAL_SECONDS = 60.0  # until documents that could not be opened are tried again
NO_ROUTES = "no domain here is searched by vectors, by which one could be chosen"
NO_MIX = "this server makes no room for mixtures (serve.mix)"


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
        self.versions = Versions(adapters)
        self._forget_prompts: Callable[[], None] = lambda: None
        self._fingerprint = fingerprint
        self._lock = threading.Lock()
        self._reported: set[str] = set()
        self._again: dict[str, float] = {}  # by domain, when its documents are looked at again after a failure
        self._vocabulary: TokenBytes | None = None
        self.created = int(time.time())

    def names(self) -> list[str]:
        """What `/v1/models` lists: the base, each adapter by its name, and what chooses among them; no versions."""
        usable = [name for name, domain in self.domains.items() if self._usable(domain)]
        return ["base", *usable, *(self.router.names if self.router and usable else ())]

    def connect(self, loop: EngineLoop | RemoteLoop) -> None:
        """Says which engine serves from now on."""
        self.versions.connect(loop)
        self._forget_prompts = loop.forget_prompts

    def behind(self, model: str) -> bool:
        """Whether something else is promoted than a model's name means; then `follow` it, off the event loop."""
        return any(self.versions.behind(domain) for domain in self._meant(model))

    def follow(self, model: str) -> None:
        """Brings what is promoted under a model's name into use, if it can be used."""
        for domain in self._meant(model):
            self.versions.follow(domain)

    def _meant(self, model: str) -> list[Domain]:
        """The domains that may answer under a model's name."""
        if self.router and model in self.router.names:
            return list(self.domains.values())
        domain = self.domains.get(model.partition("/")[0])
        return [] if domain is None else [domain]

    def look(self) -> None:
        """Follows what is promoted, and what the documents are by now."""
        for name, domain in list(self.domains.items()):
            if self.versions.behind(domain):
                self.versions.follow(domain)
            if domain.renewed is None or time.monotonic() < self._again.get(name, 0.0):
                continue
            try:
                renewed = domain.renewed()
            except Exception:
                self._again[name] = time.monotonic() + RENEWAL_SECONDS
                log.exception("the new documents of %s cannot be searched yet; the old ones are", name)
                continue
            if renewed is not None:
                retriever, index = renewed
                self.domains[name] = replace(domain, retriever=retriever, index=index)
                self._forget_prompts()
        self.versions.tidy()

    def ask(self, asking: Asking) -> tuple[Asked, Tokenizer, PreparedAdapter | None]:
        """The passages, the tokenizer and the adapter for a question of this user's own; blocks.

        Raises:
            ApiError: another adapter or index is in use than the one that is meant, or the prompt does not fit.
        """
        domain = self.domains.get(asking.domain)
        if domain is None or domain.index != asking.index:
            raise other_version("it searches another index than the one that is built")
        adapter = None
        if asking.adapter is not None:
            version = self.versions.resolve(domain, None)
            if str(version.folder.resolve()) != asking.adapter:
                raise other_version(f"{version.id} is in use there, and another adapter is meant")
            adapter = self.versions.prepared(version)
        template = template_from_contract(asking.contract)
        asked = put(asking.question, domain.retriever, template, asking.contract, k=asking.k, where=asking.where)
        tokenizer = self._prompts.told(asking.chat)
        prompt = tokenizer.apply_chat_template(asked.messages(), add_generation_prompt=True)
        if asked.citations and len(prompt) + asking.max_tokens > self.longest:
            raise other_version(f"prompt and answer may have {self.longest} tokens there")
        return asked, tokenizer, adapter

    def standing(self, model: str) -> dict[str, str]:
        """What a model's name means at the moment: `version`, and `refused`, a promoted version that cannot be used."""
        domain = model.partition("/")[0].partition("@")[0]
        version, refusal = self.versions.in_use(domain), self.versions.refusals.get(domain)
        refused = {"refused": refusal.version.id} if refusal and refusal.version else {}
        return ({"version": version.id} if version else {}) | refused

    def prepare(self) -> tuple[int, dict[str, str]]:
        """Reads and checks the adapters in use, so that none is listed that cannot be used.

        Returns:
            The largest rank, 0 without any; by domain why its adapter cannot be used.
        """
        rank, broken = 0, {}
        for name, domain in self.domains.items():
            try:
                version = self.versions.resolve(domain, None)
                rank = max(rank, self.versions.prepared(version).rank)
            except BadInput as error:
                broken[name] = str(error)
        return rank, broken

    def probe(self, engine: Engine | RemoteLoop) -> dict[str, str]:
        """Has the engine answer through each adapter in use, while it serves nobody yet; one that changes nothing is
        not listed.

        Returns:
            By domain why its adapter cannot be used.
        """
        return self.versions.check(engine.probe, self.domains)

    def prepare_routes(self) -> None:
        """Makes the profiles of the versions in use, so that the first question to `auto` does not wait for them."""
        if self.router:
            self._routes(self.router, "a question", ANYBODY)

    def check(self, name: str) -> None:
        """Raises `ApiError` where no model can be asked for by that name."""
        if self.router is None or name not in self.router.names:
            self._resolved(name)

    def fingerprint(self, model: str) -> str:
        """Changes with the engine, the base and the adapter's version."""
        return "fp_" + hashlib.sha256(f"{self._fingerprint} {model}".encode()).hexdigest()[:16]

    def passage(self, domain: str, chunk_id: str, tenant: Tenant = ANYBODY) -> dict[str, Any] | None:
        """A passage by its id, if the tenant may see it: where it stands in its document, and what stands around it
        there, as far as the tenant may see that too."""
        own = self.domains.get(domain)
        if own is None or not tenant.may_see(own.retriever, chunk_id):
            return None
        place = own.place(chunk_id, lambda other: tenant.may_see(own.retriever, other))
        if place is None:
            return None
        chunk, before, after = place
        where = {"title": chunk.title, "source": source_of(chunk), "page": chunk.page, "span": [chunk.start, chunk.end]}
        headings = list(chunk.heading_path)
        return {"id": chunk.id, **where, "headings": headings, "text": chunk.text, "before": before, "after": after}

    def embedder(self, name: str) -> Embedder:
        """The embedder that a domain is searched with; versions of its adapter share it, so only the name is taken.

        Raises:
            ApiError: there is no such domain, or it is searched by words alone.
        """
        if self.router is None or name not in self.router.names:
            self._resolved(name)
        embedder = self.domains[name].retriever.embedder if name in self.domains else None
        if embedder is None:
            message = f"The model {name[:80]!r} has no embedder: ask for a domain that is searched by vectors"
            raise ApiError(400, message, code="unsupported", param="model")
        return cast("Embedder", embedder)

    def plan(self, request: TextRequest, tenant: Tenant = ANYBODY, address: str = "", trace: Trace = SILENT) -> Plan:
        """Searches, renders and encodes; blocks, so call it off the event loop.

        Args:
            tenant: whose filter binds the search.
            address: of this server as the client calls it, for links to passages.

        Raises:
            ApiError: the model does not exist or cannot be used, or the request does not fit.
        """
        question = request.question
        if self.router and request.name in self.router.names:
            return self._routed(self.router, request, tenant, address, trace)
        domain, version, ending = self._resolved(request.name)
        if domain and ending != "raw" and isinstance(request, ChatRequest) and is_page_task(question or ""):
            return self._unsearched(request, None, tenant.id, ("retrieval",))
        if domain is None or version is None or ending == "raw":
            return self._unsearched(request, version, tenant.id)
        if ending == "base":
            return self._searched(request, domain, version, None, f"{version.id}/base", tenant, address, trace)
        return self._searched(request, domain, version, self._registered(version), version.id, tenant, address, trace)

    def _routed(self, router: Router, request: TextRequest, tenant: Tenant, address: str, trace: Trace) -> Plan:
        """The plan of a request that leaves the choice to the server: by its question, one domain's or several ones'
        adapters over the nearest domain's passages; the base where it fits no domain."""
        question = request.question
        if isinstance(request, ChatRequest) and is_page_task(question or ""):
            return self._unsearched(request, None, tenant.id, ("retrieval",))
        if not (question or "").strip():
            raise self._no_question(request)
        assert question is not None
        with trace.part("route"):
            routes = tuple(self._routes(router, question, tenant))
        fitting_routes = [route for route in routes if route.fits]
        if not fitting_routes:
            return replace(self._unsearched(request, None, tenant.id), routes=routes)
        best = fitting_routes[0]
        weights = router.weights(fitting_routes) if request.name == "mix" else {best.name: 1.0}
        parts = {route.name: route.version for route in fitting_routes if route.name in weights}
        adapters = {name: self._registered(version) for name, version in parts.items()}
        adapter = adapters[best.name]
        if len(parts) > 1:
            adapter = self._composed({key_of(version): weights[name] for name, version in parts.items()})
        model = mixed_model({version.id: weights[name] for name, version in parts.items()})
        domain = self.domains[best.name]
        plan = self._searched(request, domain, best.version, adapter, model, tenant, address, trace)
        return replace(plan, routes=routes)

    def _routes(self, router: Router, question: str, tenant: Tenant) -> list[Route]:
        """The domains that can answer and whose documents may be seen, nearest first."""
        versions = {
            name: self.versions.resolve(domain, None)
            for name, domain in self.domains.items()
            if self._usable(domain) and tenant.may_search(domain.retriever)
        }
        return router.routes(question, versions)

    def _composed(self, weights: Mapping[str, float]) -> PreparedAdapter:
        """A mixture of adapters that are registered under these names, read and with room for it."""
        try:
            return self._adapters.get(self._adapters.compose(weights))
        except BadInput as error:
            message = f"These adapters cannot be mixed here: {error.what}"
            headers = {"x-should-retry": "false"}
            raise ApiError(400, message, code="unsupported", param="model", headers=headers) from error

    def _searched(
        self,
        request: TextRequest,
        domain: Domain,
        version: ServedVersion,
        adapter: PreparedAdapter | None,
        model: str,
        tenant: Tenant,
        address: str,
        trace: Trace,
    ) -> Plan:
        """The plan of a question to a domain: its passages in the version's prompt.

        Args:
            adapter: that answers, None for the base; model: its name in the answer.
        """
        question = request.question
        if request.scored is not None:
            raise ApiError(400, f"logprobs: only of {domain.name}/raw and base", code="unsupported", param="logprobs")
        if not (question or "").strip():
            raise self._no_question(request)
        assert question is not None
        if not tenant.may_search(domain.retriever):
            raise not_for_this_key()
        with trace.part("retrieve"):
            whole = ask_domain(domain, version, question, tenant.where)
        if adapter is None:
            whole = replace(whole, citing={})  # what is promised of citations was calibrated for the adapter's
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
            return replace(plan, request=self._request(request, prompt, adapter, tenant.id, asked, tokenizer))
        if len(prompt) > room:
            raise self._too_long(len(prompt), request)
        return plan

    def _usable(self, domain: Domain) -> bool:
        try:
            return bool(self.versions.resolve(domain, None))
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

    def _resolved(self, name: str) -> tuple[Domain | None, ServedVersion | None, str]:
        """(domain, version, "raw", "base" or "") of a model's name; names of the registry only, nothing is ever a
        path."""
        if name == "base":
            return None, None, "raw"
        stem, slash, end = name.partition("/")
        stem, at, number = stem.partition("@")
        domain = self.domains.get(stem)
        if stem in self.absent:
            raise no_model(name, self.absent[stem])
        if name in RESERVED:
            raise no_model(name, NO_MIX if self.router else NO_ROUTES)
        if domain is None or (slash and end not in ENDINGS) or (at and not NUMBER.fullmatch(number)):
            raise no_model(name)
        try:
            return domain, self.versions.resolve(domain, int(number) if at else None), end
        except BrokenAdapter as error:
            raise broken_adapter(stem) from error
        except NotReady as error:
            raise not_ready(stem) from error
        except BadInput as error:
            raise no_model(name, "" if at else "no version of it is in use") from error

    def _registered(self, version: ServedVersion | None) -> PreparedAdapter | None:
        """The version's adapter, read and checked: of a request that holds it whatever is promoted meanwhile."""
        if version is None:
            return None
        try:
            return self.versions.prepared(version)
        except BrokenAdapter as error:
            if version.id not in self._reported:
                self._reported.add(version.id)
                log.warning("the adapter %s cannot be used: %s", version.id, error)
            raise broken_adapter(version.id) from error

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
        adapter: PreparedAdapter | None,
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
            allowed = asked.copier(self._vocabulary).allowed
        return Request(
            tuple(prompt),
            request.new_tokens or min(DEFAULT_TOKENS, room),
            # an adapter is greedy unless it is asked otherwise, as it was evaluated; a chat is as OpenAI has it
            temperature=request.temperature if request.temperature is not None else 0.0 if asked else 1.0,
            top_p=request.top_p if request.top_p is not None else 1.0,
            top_k=max(request.top_k or 0, 0),
            seed=request.seed if request.seed is not None else time.time_ns() % 2**62,
            stop=tuple(request.stop),
            logprobs=request.scored,
            ignore_eos=request.ignore_eos,
            adapter=adapter,
            tenant=tenant,
            allowed=allowed,
        )

    def _no_question(self, request: TextRequest) -> ApiError:
        empty = request.turns[-1].role == "user"
        message = "The question is empty" if empty else "The last message must be the user's question"
        return ApiError(400, message, code="invalid_value", param=request.text_field)

    def _too_long(self, tokens: int, request: TextRequest) -> ApiError:
        message = (
            f"The prompt has {tokens} tokens and {request.new_tokens or 1} are to follow; this server's limit is "
            f"{self.longest} in all"
        )
        return ApiError(400, message, code="context_length_exceeded", param=request.text_field)

"""What a person says about an answer, as a page sends it: read, checked against what the server itself knows, and kept.

Passages are taken by their ids from the server's own corpus, so nobody can put a text of their own in their place. What
becomes of it is decided elsewhere (`tasks.adapters.feedback`): nothing that is said here trains by itself.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable
from typing import Any, Literal

from fastapi import Request
from pydantic import ConfigDict, Field, model_validator
from starlette.concurrency import run_in_threadpool

from data.text.alike import alike
from raft_errors import RaftError
from serving.admission import json_of
from serving.errors import ApiError, not_for_this_key
from serving.gateway import Gateway
from serving.schema import Fields, read
from serving.state import Allowance, Server
from serving.tenants import Tenant
from tasks.adapters.feedback import Feedback, FeedbackFull, FeedbackLog, Shown

log = logging.getLogger("raft.serving")

MOST_PASSAGES = 64


class FeedbackRequest(Fields):
    """A thumb, perhaps with the right answer.

    Attributes:
        model: what answered, as its answer named it (`faq@3`).
        correction: the right answer, of one that is wrong.
        quotes: of the answer. passages: ids of those that were shown.
    """

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)
    model: str = Field(min_length=1, max_length=200)
    question: str = Field(min_length=1, max_length=4000)
    answer: str = Field(min_length=1, max_length=20000)
    verdict: Literal["up", "down"]
    correction: str = Field("", max_length=4000)
    quotes: list[str] = Field([], max_length=MOST_PASSAGES)
    passages: list[str] = Field([], max_length=MOST_PASSAGES)

    @model_validator(mode="after")
    def _consistent(self) -> FeedbackRequest:
        """Nobody could say later which of the two was meant."""
        if self.correction and self.verdict == "up":
            raise ValueError("correction: only with the verdict down; an answer that is right needs none")
        if self.correction == self.answer:
            raise ValueError("correction: it is the answer that is said to be wrong")
        return self


async def keep_feedback(server: Server, request: Request, *, keyed: bool) -> dict[str, Any]:
    """Keeps what a request says, and answers with the id under which it can be reviewed.

    Args:
        keyed: whether a key says who speaks. Without, all who can reach the server are one caller, whatever they call
            themselves.
    """
    body = read(FeedbackRequest, await json_of(request, server.limits.body_seconds))
    tenant = request.state.tenant
    allowed = functools.partial(_require_room, server.opinions, tenant.id if keyed else "")
    entry = await run_in_threadpool(_kept, server.gateway, body, tenant, allowed)
    return {"id": entry.id, "state": "pending"}


def _require_room(opinions: Allowance, who: str, size: int) -> None:
    if wait := opinions.take(who, size):
        seconds = math.ceil(wait)
        message = f"More feedback than this server keeps of one caller at a time; go on in {seconds} s"
        raise ApiError(429, message, code="rate_limit_exceeded", headers={"Retry-After": str(seconds)})


def _kept(gateway: Gateway, body: FeedbackRequest, tenant: Tenant, allowed: Callable[[int], None]) -> Feedback:
    gateway.check(body.model)
    name, slash, _ = body.model.partition("/")
    domain = gateway.domains.get(name.partition("@")[0])
    if domain is None or slash:
        raise ApiError(400, "Feedback is taken on an adapter's answers only", code="unsupported", param="model")
    if not tenant.may_search(domain.retriever):
        raise not_for_this_key()
    if domain.feedback is None:
        raise ApiError(404, "This server keeps no feedback", code="not_found")
    chunks = [domain.retriever.chunks.get(id) for id in dict.fromkeys(body.passages)]
    if not all(chunk is not None and tenant.may_see(domain.retriever, chunk.id) for chunk in chunks):
        raise ApiError(400, "passages: no such passage", code="invalid_value", param="passages")
    shown = [Shown(chunk_id=c.id, source=c.source, text=c.text) for c in chunks if c is not None]
    held, words = [alike(passage.text) for passage in shown], {quote: alike(quote) for quote in body.quotes}
    quotes = [quote for quote, own in words.items() if own and any(own in text for text in held)]
    quoted = [any(words[quote] in text for quote in quotes) for text in held]
    shown = [passage for passage, _ in sorted(zip(shown, quoted, strict=True), key=lambda pair: not pair[1])]
    texts = [body.question, body.answer, body.correction, *quotes, *(passage.text for passage in shown)]
    allowed(sum(len(text.encode()) for text in texts))
    return _added(domain.feedback, body, quotes, shown)


def _added(kept: FeedbackLog, body: FeedbackRequest, quotes: list[str], passages: list[Shown]) -> Feedback:
    try:
        return kept.add(
            body.model,
            body.question,
            body.answer,
            body.verdict,
            correction=body.correction,
            quotes=quotes,
            passages=passages,
        )
    except FeedbackFull as error:
        log.error("feedback could not be kept: %s", error)
        message = f"The feedback on {kept.name} is full; whoever runs this server has to review it and move it away"
        raise ApiError(507, message, code="feedback_full", headers={"x-should-retry": "false"}) from error
    except (RaftError, OSError) as error:
        log.error("feedback could not be kept: %s", error)
        raise ApiError(503, "The feedback could not be kept; the server's log says why", code="not_kept") from error

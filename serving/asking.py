"""A question of `raft ask`: the adapter's answer, or the base's beside it, with everything that a terminal shows.

The same function answers for a running server and for a model that was loaded for one question, by the same engine, so
that both say the same.
"""

from __future__ import annotations

import dataclasses
import queue
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from raft_errors import RaftError
from serving.errors import too_slow
from serving.schema import Switch, Whole

if TYPE_CHECKING:  # whoever asks a running server loads no engine
    from jora_engine.files.tokenizer import Tokenizer
    from jora_engine.generation.adapter_layout import PreparedAdapter
    from jora_engine.generation.requests import Request
    from serving.engine_loop import EngineLoop
    from serving.remote.loop import RemoteLoop
    from tasks.runtime.asking import Asked

Name = Literal["adapter", "base"]
Event = dict[str, Any]


class Asking(BaseModel):
    """What is to be answered.

    Attributes:
        domain: name of the configuration.
        index: key of the index that is to be searched; adapter: folder of the adapter that is meant, None for none.
        contract: how to prompt; chat: what the chat template is told.
        names: who answers, in this order.
        k: passages shown; None for as many as the contract says.
        copy_quotes: None for what the contract was calibrated with.
    """

    model_config = ConfigDict(extra="forbid")
    domain: str
    index: str
    adapter: str | None
    contract: dict[str, Any]
    chat: dict[str, Any]
    names: list[Name] = Field(min_length=1, max_length=2)
    question: str = Field(min_length=1)
    k: Whole | None = Field(None, ge=1)
    where: dict[str, Any] | None = None
    copy_quotes: Switch | None = None
    max_tokens: Whole = Field(ge=1)


def replies(
    asking: Asking,
    asked: Asked,
    tokenizer: Tokenizer,
    adapter: PreparedAdapter | None,
    loop: EngineLoop | RemoteLoop,
    *,
    tenant: str = "",
    seconds: float | None = None,
) -> Iterator[Event]:
    """The answers as they are written.

    Yields:
        `passages` and `citing`; then for each of the names its growing `text`, and its `answer`: final answer, quotes
        checked against the passages, the raw text.

    Raises:
        RaftError: the model fails.
        ApiError: it takes longer than so many seconds.
    """
    if not asked.citations:
        yield from refusals(asking, asked)
        return
    until = None if seconds is None else time.monotonic() + seconds
    yield _shown(asked)
    for name in asking.names:
        who = asked if name == "adapter" else dataclasses.replace(asked, citing={})  # of the base nothing is promised
        request = request_of(asking, who, tokenizer, adapter if name == "adapter" else None, tenant)
        texts: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        job = loop.submit(request, texts.put, lambda job, texts=texts: texts.put(None))  # type: ignore[misc]
        try:
            while (text := texts.get(timeout=until and max(until - time.monotonic(), 0.001))) is not None:
                yield {"name": name, "text": text}
        except queue.Empty as error:
            raise too_slow() from error
        finally:
            if not job.ended:
                loop.cancel(job)
        if job.completion is None or job.completion.finish_reason == "abort":
            raise RaftError("The model failed on this question", do="run again with --debug") from job.error
        yield {"name": name, "answer": who.read(job.completion.text)}


def refusals(asking: Asking, asked: Asked) -> Iterator[Event]:
    """The same for a question without passages, which no model needs to be asked."""
    yield _shown(asked)
    for name in asking.names:
        yield {"name": name, "answer": asked.read(asked.refusal)}


def _shown(asked: Asked) -> Event:
    return {"passages": [citation.to_dict() for citation in asked.citations], "citing": dict(asked.citing)}


def request_of(
    asking: Asking, asked: Asked, tokenizer: Tokenizer, adapter: PreparedAdapter | None, tenant: str = ""
) -> Request:
    """The question for the engine: greedy, as adapters are evaluated."""
    from data.prompting.copying import TokenBytes
    from jora_engine.generation.requests import Request

    prompt = tokenizer.apply_chat_template(asked.messages(), add_generation_prompt=True)
    copied = asking.copy_quotes
    if copied is None:  # a threshold holds for answers that were written as those it was chosen on
        copied = bool((asking.contract.get("citing") or {}).get("copy_quotes"))
    allowed = asked.copier(TokenBytes(tokenizer.token_bytes())).allowed if copied else None
    return Request(tuple(prompt), asking.max_tokens, adapter=adapter, tenant=tenant, allowed=allowed)

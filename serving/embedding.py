"""`/v1/embeddings`: the vectors of a domain's own embedder, in small batches between the searches of others."""

from __future__ import annotations

import functools
import time
import uuid

import numpy as np
from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from serving.admission import admitted, gone, log_end, searched, waiting
from serving.errors import ApiError, too_slow
from serving.forms.embeddings import embeddings
from serving.schema import EmbeddingsRequest, read
from serving.state import Server

TEXTS_AT_ONCE = 16


async def embedded(server: Server, request: Request) -> JSONResponse:
    """The response to a request for vectors."""
    began, counts = time.monotonic(), server.counts
    counts.received += 1
    request_id, model = f"embd-{uuid.uuid4().hex}", ""
    try:
        asked = read(EmbeddingsRequest, await admitted(server, request))
        model = asked.model if asked.model in server.gateway.domains else ""  # nothing else goes into the log
        vectors, tokens = await _vectors(server, request, asked, began + server.limits.deadline_seconds)
    except BaseException as error:
        refused = isinstance(error, ApiError) and error.status < 499
        counts.refused, counts.aborted = counts.refused + refused, counts.aborted + (not refused)
        log_end(request_id, model, "refused" if refused else "aborted", began, getattr(error, "code", None))
        raise
    counts.answered += 1
    counts.prompt_tokens += tokens
    log_end(request_id, model, "stop", began, None)
    reply = embeddings(vectors, tokens, asked.model, asked.encoding_format)
    return JSONResponse(reply, headers={"x-request-id": request_id})


async def _vectors(
    server: Server, request: Request, asked: EmbeddingsRequest, deadline: float
) -> tuple[np.ndarray, int]:
    """float32 [n, dim], and how many tokens were read."""
    with waiting(server):  # perhaps for a version, as a chat does
        embedder = await run_in_threadpool(server.gateway.embedder, asked.model)
    info = embedder.info
    if asked.dimensions not in (None, info.dim):
        message = f"dimensions: this embedder has {info.dim}"  # shortened vectors of most embedders mean nothing
        raise ApiError(400, message, code="unsupported", param="dimensions")
    blocks, tokens = [], 0
    for begin in range(0, len(asked.input), TEXTS_AT_ONCE):
        if time.monotonic() > deadline:
            raise too_slow()
        if begin and await request.is_disconnected():
            raise gone()
        texts = asked.input[begin : begin + TEXTS_AT_ONCE]
        block = await searched(server, functools.partial(embedder.embed, texts, kind=asked.input_type))
        for place, count in enumerate(block.tokens, begin):
            if count > info.max_tokens:
                message = f"input.{place}: it has {count} tokens, and this embedder reads {info.max_tokens}"
                raise ApiError(400, message, code="context_length_exceeded", param=f"input.{place}")
        blocks.append(block.vectors)
        tokens += int(block.tokens.sum())
    return np.concatenate(blocks), tokens

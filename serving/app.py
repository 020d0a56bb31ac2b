"""The routes: the OpenAI API, passages, probes, figures, pages. What no route answers has OpenAI's error object too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from serving.answering import answered
from serving.embedding import embedded
from serving.errors import ApiError, failed
from serving.forms.chat import ChatForm
from serving.forms.completions import CompletionForm
from serving.forms.responses import ResponsesForm
from serving.gateway import Gateway
from serving.guard import Guard
from serving.local import ROUTE, proof
from serving.metrics import exposition
from serving.own_question import own_question
from serving.pages.routes import add_pages
from serving.schema import ChatRequest, CompletionRequest, ResponsesRequest
from serving.state import Server
from serving.tenants import Key

STUCK_SECONDS = 120.0  # a step that takes longer means that the server is not healthy


def create_app(server: Server, hosts: list[str], keys: Sequence[Key | str]) -> FastAPI:
    """The application; `hosts` and `keys` as in `Guard`."""
    app = FastAPI(title="raft", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.server = server
    gateway = server.gateway

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> JSONResponse:
        return JSONResponse(error.body(), error.status, headers=error.headers)

    @app.exception_handler(HTTPException)
    async def framework(request: Request, error: HTTPException) -> JSONResponse:
        refusal = ApiError(error.status_code, "No such route" if error.status_code == 404 else str(error.detail))
        return JSONResponse(refusal.body(), refusal.status, headers=dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse(ApiError(400, "The request cannot be read", code="invalid_value").body(), 400)

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(failed().body(), 500)

    @app.get("/health")
    async def health(challenge: str = "") -> JSONResponse:
        alive = server.loop.alive(STUCK_SECONDS)
        proven = {"proof": proof(server.nonce, challenge)} if challenge else {}
        return JSONResponse({"status": "ok" if alive else "stuck", **proven}, 200 if alive else 503)

    @app.get("/ready")
    async def ready() -> JSONResponse:
        return JSONResponse({"ready": server.ready}, 200 if server.ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(exposition(server), media_type="text/plain; version=0.0.4")

    # not on the event loop: a name whose version comes into use just now waits for the engine
    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [_card(gateway, name) for name in gateway.names()]}

    @app.get("/v1/models/{name:path}")
    def model(name: str) -> dict[str, Any]:
        gateway.check(name)
        return _card(gateway, name)

    # nor here: the first passage of a domain has its whole corpus put in order
    @app.get("/v1/passages/{domain}/{chunk_id:path}")
    def passage(request: Request, domain: str, chunk_id: str) -> dict[str, Any]:
        shown = gateway.passage(domain, chunk_id, request.state.tenant)
        if shown is None:
            raise ApiError(404, "No such passage", code="not_found")
        return shown

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(request: Request) -> JSONResponse | StreamingResponse:
        return await answered(server, request, ChatRequest, ChatForm)

    @app.post("/v1/completions", response_model=None)
    async def completions(request: Request) -> JSONResponse | StreamingResponse:
        return await answered(server, request, CompletionRequest, CompletionForm)

    @app.post("/v1/responses", response_model=None)
    async def responses(request: Request) -> JSONResponse | StreamingResponse:
        return await answered(server, request, ResponsesRequest, ResponsesForm)

    @app.post("/v1/embeddings", response_model=None)
    async def embeddings(request: Request) -> JSONResponse:
        return await embedded(server, request)

    @app.post(ROUTE, response_model=None)
    async def ask(request: Request) -> StreamingResponse:
        return await own_question(server, request)

    add_pages(app, server, keyed=bool(keys))
    accepted = [*keys, Key(server.nonce)] if keys else []
    app.add_middleware(Guard, hosts=hosts, keys=accepted, max_bytes=server.limits.max_bytes)
    return app


def _card(gateway: Gateway, name: str) -> dict[str, Any]:
    parent = {} if name == "base" else {"parent": "base"}
    standing = gateway.standing(name)
    root = gateway.fingerprint(standing.get("version", name))
    common = {"object": "model", "created": gateway.created, "owned_by": "raft", "root": root}
    return {"id": name, **common, **parent, **standing, "max_model_len": gateway.longest}

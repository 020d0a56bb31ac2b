"""The routes of the pages: `/` to ask, the files that belong to it, and what people say about answers."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from serving.errors import ApiError
from serving.feedback import keep_feedback
from serving.pages.ground import Ground
from serving.state import Server


def add_pages(app: FastAPI, server: Server, *, keyed: bool) -> None:
    """Adds the routes to the application.

    Args:
        keyed: whether the API asks for a key, which the page then asks its reader for.
    """
    ground = Ground()
    gateway = server.gateway

    @app.get("/")
    async def ask() -> Response:
        rated = any(domain.feedback is not None for domain in gateway.domains.values())
        return ground.page("ask.html", keyed=keyed, rated=rated)

    @app.get("/pages/static/{name}")
    async def static(name: str) -> Response:
        file = ground.file(name)
        if file is None:
            raise ApiError(404, "No such file", code="not_found")
        return file

    @app.post("/pages/feedback")
    async def feedback(request: Request) -> dict[str, Any]:
        return await keep_feedback(server, request, keyed=keyed)

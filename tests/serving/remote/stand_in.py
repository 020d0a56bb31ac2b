"""A server that behaves as vLLM's documented endpoints do, and misbehaves when it is told to; over real HTTP.

What it says depends on model and prompt, so that a wrong adapter or a wrong prompt shows.
"""

import asyncio
import contextlib
import hashlib
import json
import socket
import threading
import time
from pathlib import Path

import uvicorn
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

BASE = "the-base"


class StandIn:
    """Its state, and what is wrong with it.

    Attributes:
        adapters: folder by name of those that are loaded.
        requests: bodies of completions; calls: (route, body) of loads and unloads.
        streams, closed: that were begun, and that their reader closed early.
        load_fault: a status, or `hang`: no answer, though it is loaded in the end; unload_fault likewise.
        listed_after: seconds from a load to its place in the list; None = never.
        unheard: adapters change nothing; extra_tokens: of a prompt, as another tokenizer would count.
        words: what every model says; None for something of its own.
        piece_seconds: between two pieces of a stream; broken_after: pieces after which a stream ends without an end.
        overloaded: every completion is a 429; key: that must be given.
        raw: by route (`load`, `completions`) the status, media type and body that are answered whatever is asked.
    """

    def __init__(self) -> None:
        self.adapters: dict[str, str] = {}
        self.requests: list[dict] = []
        self.calls: list[tuple[str, dict]] = []
        self.closed = self.streams = 0
        self.repair()
        self.app = self._make_app()

    def repair(self) -> None:
        self.load_fault: int | str | None = None
        self.unload_fault: int | str | None = None
        self.listed_after: float | None = 0.0
        self.unheard = self.overloaded = False
        self.extra_tokens = 0
        self.words: str | None = None
        self.piece_seconds = 0.0
        self.broken_after: int | None = None
        self.key: str | None = None
        self.raw: dict[str, tuple[int, str, str]] = {}
        self._loaded_at: dict[str, float] = {}

    def restart(self) -> None:
        """Forgets every adapter, as a process that was started anew."""
        self.adapters.clear()

    @contextlib.contextmanager
    def running(self):
        """Serves on a port of its own; gives the address."""
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            own = uvicorn.Server(uvicorn.Config(self.app, log_config=None, access_log=False))
            thread = threading.Thread(target=own.run, kwargs={"sockets": [listening]}, daemon=True)
            thread.start()
            while not own.started:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
            own.force_exit = own.should_exit = True
            thread.join(30)

    def text(self, model: str, prompt: list[int]) -> str:
        if self.words is not None:
            return self.words
        voice = BASE if self.unheard else model
        return f"{voice} on {hashlib.sha256(json.dumps(prompt).encode()).hexdigest()[:12]}, and more of it"

    def _listed(self, name: str) -> bool:
        since = time.monotonic() - self._loaded_at.get(name, 0.0)
        return self.listed_after is not None and since >= self.listed_after

    def _make_app(self) -> FastAPI:
        app = FastAPI()

        @app.exception_handler(PermissionError)
        async def refused(request: Request, error: PermissionError):
            return _error(401, str(error))

        def check(request: Request) -> None:
            given = request.headers.get("authorization")
            if self.key and given != f"Bearer {self.key}":
                raise PermissionError(f"wrong key: {given}")  # some servers repeat what they were given

        app.router.dependencies.append(Depends(check))

        @app.get("/v1/models")
        async def models():
            cards = [{"id": BASE, "root": "/models/base", "parent": None, "max_model_len": 4096}]
            for name, path in self.adapters.items():
                if self._listed(name):
                    cards.append({"id": name, "root": path, "parent": BASE, "max_model_len": None})
            return {"object": "list", "data": [{"object": "model", "created": 1, **card} for card in cards]}

        @app.post("/v1/load_lora_adapter")
        async def load(request: Request):
            body = await request.json()
            self.calls.append(("load", body))
            if "load" in self.raw:
                return _raw(*self.raw["load"])
            name, path = body.get("lora_name"), body.get("lora_path")
            if not name or not path:
                return _error(400, "Both 'lora_name' and 'lora_path' must be provided.")
            if isinstance(self.load_fault, int):
                return _error(self.load_fault, f"cannot load {path}")
            if name in self.adapters:
                return _error(400, f"The lora adapter '{name}' has already been loaded.")
            if not Path(path).is_dir():
                return _error(404, f"No adapter found for {path}")
            self.adapters[name] = path
            self._loaded_at[name] = time.monotonic()
            while self.load_fault == "hang":
                await asyncio.sleep(0.02)
            return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

        @app.post("/v1/unload_lora_adapter")
        async def unload(request: Request):
            body = await request.json()
            self.calls.append(("unload", body))
            if isinstance(self.unload_fault, int):
                return _error(self.unload_fault, "Failed to remove lora adapter from the engine.")
            while self.unload_fault == "hang":
                await asyncio.sleep(0.02)
            if self.adapters.pop(body["lora_name"], None) is None:
                return _error(404, f"The lora adapter '{body['lora_name']}' cannot be found.")
            return PlainTextResponse("Success")

        @app.post("/v1/completions")
        async def completions(request: Request):
            body = await request.json()
            self.requests.append(body)
            if "completions" in self.raw:
                return _raw(*self.raw["completions"])
            if self.overloaded:
                return _error(429, "Too many requests")
            if body["model"] not in (BASE, *self.adapters):
                return _error(404, f"The model `{body['model']}` does not exist.")
            text = self.text(body["model"], body["prompt"])
            pieces = [text[n : n + 5] for n in range(0, len(text), 5)]
            finish = "length" if len(pieces) > body["max_tokens"] else "stop"
            pieces = pieces[: body["max_tokens"]]
            prompt = len(body["prompt"]) + self.extra_tokens
            usage = {
                "prompt_tokens": prompt,
                "completion_tokens": len(pieces),
                "total_tokens": prompt + len(pieces),
                "prompt_tokens_details": {"cached_tokens": 7},
            }
            head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": body["model"]}
            if body.get("stream"):
                return StreamingResponse(
                    self._stream(head, pieces, finish, usage, body), media_type="text/event-stream"
                )
            scores = [-(1 + byte / 256) for byte in "".join(pieces).encode()[: len(pieces)]]
            logprobs = {"tokens": pieces, "token_logprobs": scores, "top_logprobs": None, "text_offset": []}
            given = logprobs if body.get("logprobs") else None
            choice = {"index": 0, "text": "".join(pieces), "finish_reason": finish, "logprobs": given}
            return {**head, "choices": [choice], "usage": usage}

        return app

    async def _stream(self, head, pieces, finish, usage, body):
        def event(choices, **more):
            return f"data: {json.dumps({**head, 'choices': choices, **more})}\n\n"

        self.streams += 1
        try:
            for number, piece in enumerate(pieces):
                if number == self.broken_after:
                    return
                last = number == len(pieces) - 1
                yield event([{"index": 0, "text": piece, "finish_reason": finish if last else None, "logprobs": None}])
                if self.piece_seconds:
                    await asyncio.sleep(self.piece_seconds)
            if (body.get("stream_options") or {}).get("include_usage"):
                yield event([], usage=usage)
            yield "data: [DONE]\n\n"
        except (asyncio.CancelledError, GeneratorExit):
            self.closed += 1
            raise


def _raw(status: int, kind: str, body: str) -> Response:
    return Response(body, status, media_type=kind)


def _error(status: int, words: str) -> JSONResponse:
    kind = {400: "BadRequestError", 404: "NotFoundError", 429: "RateLimitError"}.get(status, "InternalServerError")
    return JSONResponse({"error": {"message": words, "type": kind, "param": None, "code": status}}, status)

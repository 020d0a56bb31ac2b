"""OpenTelemetry spans of a request: retrieve, prefill, decode and verify under one of the request; off by default.

They hold numbers, names of models and how things ended, never a question, a passage, an answer or a key. Without the
extra `otel` there is the API alone, whose spans are nothing.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jora_engine.generation.requests import Job
from raft_errors import BadInput

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

log = logging.getLogger("raft.serving")

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""The standard variables that say where spans go; one of them switches them on."""

Value = str | bool | int | float


def tracer_from_environment() -> Tracer | None:
    """The tracer of the standard environment variables; None where none says where spans go, or they are switched off.

    Raises:
        BadInput: they say so and the extra is not installed.
    """
    if not any(map(os.environ.get, ENDPOINTS)) or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    for module in ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"):
        if not _installed(module):
            raise BadInput(
                f"{module} is not installed, and {' or '.join(ENDPOINTS)} asks for spans",
                do="pip install 'jora-raft[otel]', or unset the variable",
            )
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    name = os.environ.get("OTEL_SERVICE_NAME", "raft")
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))  # which ends with the process
    log.info("spans of requests go where OpenTelemetry's environment variables say")
    return provider.get_tracer("raft.serving")


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a parent is not there
        return False


class Trace:
    """The spans of one request. Its parts may run on other threads than the one that began it.

    Args:
        tracer: None where nothing is traced; then nothing here does anything.
        kind: of the request, as OpenTelemetry names operations: chat, text_completion.
    """

    def __init__(self, tracer: Tracer | None, kind: str) -> None:
        self._tracer = tracer
        self._root: Span | None = tracer.start_span(kind) if tracer else None
        self.note({"gen_ai.operation.name": kind})

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part of the work. An error's message is left out: it may quote what was asked."""
        if self._tracer is None or self._root is None:
            yield
            return
        span = self._tracer.start_span(name, context=self._context())
        try:
            yield
        except BaseException as error:
            span.set_attribute("error.type", type(error).__name__)
            raise
        finally:
            span.end()

    def note(self, values: dict[str, Value]) -> None:
        """Attributes of the request."""
        if self._root is not None:
            self._root.set_attributes(values)

    def end(self, values: dict[str, Value], job: Job | None = None) -> None:
        """Ends the request's span, once; a job that has ended adds what the engine did for it."""
        if self._root is None:
            return
        self.note(values)
        if job is not None and job.ended:
            self._engine(job)
        self._root.end()
        self._root = None

    def _engine(self, job: Job) -> None:
        """Spans of a job by its own times: waiting for a row, its prompt, its tokens."""
        times = job.times
        count = job.completion.new_tokens if job.completion else len(job.made)
        made: dict[str, Value] = {"gen_ai.usage.output_tokens": count}
        prompt: dict[str, Value] = {
            "gen_ai.usage.input_tokens": len(job.request.prompt),
            "raft.cached_tokens": job.cached_tokens,
        }
        self._past("queue", times.submitted, times.admitted or times.ended, {})
        if times.admitted:
            self._past("prefill", times.admitted, times.ready or times.ended, prompt)
        if times.ready:
            self._past("decode", times.ready, times.ended, made)

    def _past(self, name: str, begin: int, end: int, values: dict[str, Value]) -> None:
        assert self._tracer is not None
        self._tracer.start_span(name, context=self._context(), attributes=values, start_time=begin).end(end)

    def _context(self) -> Any:
        from opentelemetry.trace import set_span_in_context

        assert self._root is not None
        return set_span_in_context(self._root)


SILENT = Trace(None, "")
"""A trace that traces nothing."""

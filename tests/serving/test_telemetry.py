"""Spans say how long the parts of a request took and never what was asked, shown or answered."""

import json
import time

import httpx
import pytest
from tiny_server import TEXTS

from raft_errors import BadInput
from serving import telemetry

QUESTION = "When are the keys of Zanzibar rotated?"
NUMBERS = ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens", "raft.cached_tokens", "raft.passages")


@pytest.fixture
def spans(served, monkeypatch):
    """What the server has traced since, by a call that waits for the traces of so many requests: that of a stream ends
    when its client has had the last of it."""
    export = pytest.importorskip(
        "opentelemetry.sdk.trace.export", reason="the extra otel is not installed: pip install 'jora-raft[otel]'"
    )
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    monkeypatch.setattr(served.server, "tracer", provider.get_tracer("test"))

    def finished(requests):
        until = time.monotonic() + 60
        while sum(span.parent is None for span in exporter.get_finished_spans()) < requests:
            assert time.monotonic() < until, "a request's trace did not end"
            time.sleep(0.01)
        return exporter.get_finished_spans()

    return finished


def ask(served, **options):
    body = {"model": "faq", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 6, "ignore_eos": True}
    headers = {"Authorization": "Bearer a-secret-key-of-somebody"}
    url = f"{served.url}/v1/chat/completions"
    return httpx.post(url, json={**body, **options}, headers=headers, timeout=3600)


def test_a_request_is_one_trace_of_its_parts(served, spans):
    whole, streamed = ask(served), ask(served, stream=True)
    assert whole.status_code == streamed.status_code == 200
    roots = [span for span in spans(2) if span.parent is None]
    assert [root.name for root in roots] == ["chat", "chat"]
    for root in roots:
        parts = {s.name: s for s in spans(2) if s.parent and s.context.trace_id == root.context.trace_id}
        assert set(parts) == {"retrieve", "queue", "prefill", "decode", "verify"}
        assert all(part.parent.span_id == root.context.span_id for part in parts.values())
        order = [parts[name].start_time for name in ("retrieve", "queue", "prefill", "decode", "verify")]
        assert order == sorted(order)
        assert all(root.start_time <= part.start_time <= part.end_time <= root.end_time for part in parts.values())
        assert dict(root.attributes) == {
            "gen_ai.operation.name": "chat",
            "gen_ai.response.model": "faq@2",
            "raft.passages": root.attributes["raft.passages"],
            "raft.end": "length",
        }
        assert root.attributes["raft.passages"] > 0
        assert parts["decode"].attributes["gen_ai.usage.output_tokens"] == 6
    usage = whole.json()["usage"]
    first = next(span for span in spans(2) if span.name == "prefill")
    assert first.attributes["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]


def test_no_span_holds_what_was_asked_shown_or_answered(served, spans):
    answers = [ask(served), ask(served, stream=True), ask(served, model="base"), ask(served, model="faq/raw")]
    refused = [ask(served, temperature=9), ask(served, model=f"nobody {QUESTION}"), ask(served, model="faq@3")]
    assert {answer.status_code for answer in answers} == {200}
    assert all(answer.status_code >= 400 for answer in refused)
    roots = [span for span in spans(7) if span.parent is None]
    assert len(roots) == 7
    assert [root.attributes["raft.end"] for root in roots].count("refused") == 3
    texts = [QUESTION, "Zanzibar", "a-secret-key", *TEXTS, *TEXTS.values()]
    texts += [word for text in TEXTS.values() for word in text.split() if len(word) > 4]
    texts.append(answers[2].json()["choices"][0]["message"]["content"])
    for span in spans(7):
        everything = json.loads(span.to_json())
        for text in filter(None, texts):
            assert json.dumps(text)[1:-1] not in json.dumps(everything), span.name
        assert not span.events
        for name, value in span.attributes.items():
            assert isinstance(value, int) if name in NUMBERS else len(str(value)) < 40


def test_nothing_is_traced_unless_the_standard_variable_says_where_to(monkeypatch):
    for name in (*telemetry.ENDPOINTS, "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    assert telemetry.tracer_from_environment() is None
    silent = telemetry.Trace(None, "chat")
    with silent.part("retrieve"):
        silent.note({"a": 1})
    silent.end({"raft.end": "stop"})
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(telemetry, "_installed", lambda module: False)
    with pytest.raises(BadInput, match=r"opentelemetry\.sdk is not installed"):
        telemetry.tracer_from_environment()
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert telemetry.tracer_from_environment() is None


def test_the_environment_switches_spans_on(monkeypatch):
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra otel is not installed")
    monkeypatch.delenv("OTEL_SDK_DISABLED", raising=False)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    tracer = telemetry.tracer_from_environment()
    span = tracer.start_span("x")
    assert span.is_recording()

"""However a request ends, it is counted once, gives its row back, and leaves no text in a log."""

import asyncio
import concurrent.futures
import json
import logging
import math
import socket
import sys
import threading
import time

import httpx
import pytest
from tiny_server import TEXTS, events, until

from data.prompting.contract import load_template

QUESTION = [{"role": "user", "content": "When are keys rotated?"}]
ROUTES = {
    "/v1/chat/completions": {"messages": QUESTION},
    "/v1/completions": {"prompt": "When are keys rotated?"},
    "/v1/responses": {"input": "When are keys rotated?"},
}


def send(served, path, **values):
    """A request on a connection of its own, not read."""
    host, port = served.url.removeprefix("http://").split(":")
    body = json.dumps({"model": "base", "max_tokens": 1000, "ignore_eos": True, **ROUTES[path], **values}).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection = socket.create_connection((host, int(port)))
    connection.sendall(head.encode() + body)
    return connection


@pytest.mark.slow
@pytest.mark.parametrize("path", ROUTES)
def test_a_client_that_goes_away_after_the_first_piece_frees_its_row(served, path):
    counts = served.server.counts
    before = counts.aborted
    with send(served, path, stream=True) as connection:
        received = b""
        while received.count(b"data: ") < 6:
            received += connection.recv(4096)
        assert served.server.loop.engine.running() == 1
    assert served.idle(60)
    until(lambda: counts.aborted == before + 1)
    assert counts.under_way == 0


@pytest.mark.slow
def test_a_client_that_goes_away_in_the_queue_leaves_it(served):
    engine, counts = served.server.loop.engine, served.server.counts
    before = counts.aborted
    busy = [send(served, "/v1/chat/completions", stream=True) for _ in range(engine.rows)]
    until(lambda: engine.running() == engine.rows)
    waiting = [send(served, "/v1/chat/completions", stream=stream) for stream in (True, False)]
    until(lambda: engine.pending() == 2)
    for connection in waiting:
        connection.close()
    until(lambda: counts.aborted == before + 2)
    until(lambda: engine.pending() == 0)
    assert engine.running() == engine.rows, "the others go on"
    for connection in busy:
        connection.close()
    assert served.idle(60)
    until(lambda: counts.under_way == 0)


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.slow
def test_a_step_that_fails_is_an_error_for_those_in_it_and_the_server_goes_on(served, http, path, monkeypatch):
    engine, counts = served.server.loop.engine, served.server.counts
    real, before = engine.step, counts.aborted

    def fail():
        if not engine.pending() + engine.running():
            return real()  # woken for something else
        monkeypatch.setattr(engine, "step", real)
        raise RuntimeError("of the hardware")

    values = {"model": "faq", "max_tokens": 4, "ignore_eos": True, **ROUTES[path]}
    monkeypatch.setattr(engine, "step", fail)
    reply = http.post(path, json=values)
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "server_error")
    assert "hardware" not in reply.text
    monkeypatch.setattr(engine, "step", fail)
    *_, last = events(http.post(path, json={**values, "stream": True}).text)
    assert last["error"]["type"] == "server_error"
    until(lambda: counts.aborted == before + 2)
    assert counts.under_way == 0
    assert served.idle(60)
    assert http.post(path, json=values).status_code == 200


@pytest.mark.parametrize("path", ROUTES)
def test_what_nobody_has_foreseen_ends_a_stream_with_an_error_that_clients_read(http, scripted, path, monkeypatch):
    def fails(plan, text):
        raise LookupError("of a passage")

    scripted("Answer: at nine.")
    monkeypatch.setattr("serving.content.plan.Plan.content", fails)
    *_, last = events(http.post(path, json={"model": "faq", "stream": True, **ROUTES[path]}).text)
    assert (last["error"]["type"], last["error"]["code"]) == ("server_error", "server_error")
    assert "passage" not in last["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("GET", "/v1/models/faq"),
        ("GET", "/v1/passages/faq/keys-0"),
        ("POST", "/v1/embeddings"),
    ],
)
def test_who_waits_for_a_version_or_a_passage_stops_nobody_else(served, http, monkeypatch, method, path):
    inside, free = threading.Event(), threading.Event()

    def waits(*_):
        inside.set()
        free.wait(60)
        return []

    for name in ("names", "check", "passage", "embedder"):
        monkeypatch.setattr(served.server.gateway, name, waits)
    body = {"model": "towns", "input": "?"} if method == "POST" else None
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(httpx.request, method, served.url + path, json=body, timeout=90)
        try:
            assert inside.wait(30)
            assert http.get("/health", timeout=20).json()["status"] == "ok"
        finally:
            free.set()
        waiting.result()


@pytest.mark.slow
def test_streams_side_by_side_are_those_of_each_alone(served):
    def ask(number):
        path, model = list(ROUTES)[number % 3], ["faq", "faq@1", "base", "faq/raw"][number % 4]
        values = {"model": model, "max_tokens": 5 + number % 7, "ignore_eos": True, "temperature": 1, "seed": number}
        with httpx.Client(base_url=served.url, timeout=3600) as own:
            reply = own.post(path, json={**values, **ROUTES[path], "stream": True})
        assert reply.status_code == 200, reply.text
        pieces = [value.get("delta") or value.get("choices") for value in events(reply.text) if value != "[DONE]"]
        choices = [piece[0] for piece in pieces if isinstance(piece, list) and piece]
        texts = [choice.get("text") or choice.get("delta", {}).get("content") for choice in choices]
        return "".join(piece or "" for piece in [*texts, *(piece for piece in pieces if isinstance(piece, str))])

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        together = list(pool.map(ask, range(16)))
    assert together == [ask(number) for number in range(16)]
    assert len(set(together)) > 8, "raw texts differ by their seeds"


def test_a_seed_decides_the_text(http):
    def ask(seed):
        values = {"model": "base", "prompt": "The town of", "max_tokens": 12, "seed": seed, "ignore_eos": True}
        return http.post("/v1/completions", json=values).json()["choices"][0]["text"]

    assert ask(1) == ask(1)
    assert len({ask(seed) for seed in range(4)}) == 4


@pytest.mark.parametrize("name", ["temperature", "top_p"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1, 1e9, "hot", [1]])
def test_a_number_that_makes_no_sense_is_refused_by_name(http, name, value):
    body = json.dumps({"model": "faq", "messages": QUESTION, name: value})
    reply = http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, name)


HALF = "\\ud800"  # of a surrogate pair, as JSON writes it


@pytest.mark.parametrize(
    "body",
    [
        '{"model": "faq", "messages": [{"role": "user", "content": "Hi HALF"}], "input": "HALF", "prompt": "HALF"}',
        '{"model": "HALF", "messages": [{"role": "user", "content": "Hi"}], "input": "Hi", "prompt": "Hi"}',
        '{"model": "faq", "messages": [{"role": "user", "content": "Hi"}], "input": "Hi", "prompt": "Hi", "HALF": NaN}',
        '{"model": "faq", "messages": [{"role": "user", "content": "Hi"}], "input": "Hi", "prompt": "Hi", '
        '"stop": "HALF", "stream": true}',
    ],
)
@pytest.mark.parametrize("path", [*ROUTES, "/v1/embeddings", "/pages/feedback"])
def test_half_a_surrogate_pair_is_refused_wherever_it_stands(served, path, body):
    with httpx.Client(base_url=served.url, timeout=60) as own:
        reply = own.post(path, content=body.replace("HALF", HALF), headers={"content-type": "application/json"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_value")
        assert "surrogate" in reply.json()["error"]["message"]
    assert served.server.counts.under_way == 0


def started(served, path):
    """A connection with the head of a request and half of its body."""
    host, port = served.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n"
    connection.sendall(head.encode() + b'{"model": ')
    return connection


def test_a_client_that_goes_away_while_it_sends_its_body_is_an_abort_and_no_failure(served, caplog):
    counts = served.server.counts
    before = counts.aborted
    with caplog.at_level(logging.INFO, "raft.serving"):
        for path in (*ROUTES, "/v1/embeddings", "/pages/feedback"):
            received = counts.received
            with started(served, path):
                until(lambda path=path, n=received: path == "/pages/feedback" or counts.received == n + 1)
        until(lambda: counts.aborted == before + len(ROUTES) + 1)
    assert counts.under_way == 0
    assert sum(" aborted " in record.getMessage() for record in caplog.records) == len(ROUTES) + 1


@pytest.mark.parametrize("path", [*ROUTES, "/pages/feedback"])
def test_a_body_that_never_comes_whole_is_not_waited_for(served, path, monkeypatch):
    monkeypatch.setattr(served.server.limits, "body_seconds", 0.2)
    with started(served, path) as connection:
        connection.settimeout(20)
        assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")
    assert served.server.counts.under_way == 0


opened: list[str] | None = None


def _audit(event, arguments):
    if event == "open" and opened is not None:
        opened.append(str(arguments[0]))


sys.addaudithook(_audit)  # it cannot be taken away again, so it is silent outside its test


@pytest.mark.parametrize("field", ["model", "adapter_id"])
def test_a_name_is_never_a_path(http, field):
    global opened
    names = [
        "../faq",
        "/etc/passwd",
        "faq@../1",
        "faq/../raw",
        "https://x.example/a",
        "file:///etc",
        "faq@1/raw/x",
        ".",
    ]
    for path, values in ROUTES.items():  # which opens what the server opens once
        assert http.post(path, json={"model": "faq", **values}).status_code == 200
    opened = []
    try:
        for name in names:
            for path, values in ROUTES.items():
                reply = http.post(path, json={"model": "faq", **values, field: name})
                assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found"), name
        reply = http.post("/v1/embeddings", json={"model": names[0], "input": "x"})
        assert reply.status_code == 404
    finally:
        seen, opened = opened, None
    assert seen == []


def test_without_a_hit_the_answer_is_the_refusal(served, http, monkeypatch):
    monkeypatch.setattr(served.server.gateway.domains["faq"].retriever, "search", lambda queries, k, **_: [[]])
    for path, values in ROUTES.items():
        reply = http.post(path, json={"model": "faq", **values})
        assert reply.status_code == 200
        assert reply.headers["x-raft-passages"] == "0 of 0"
        assert load_template("numbered").refusal in reply.text
    message = http.post("/v1/chat/completions", json={"model": "faq", "messages": QUESTION}).json()["choices"][0]
    assert message["message"]["annotations"] == []
    assert message["finish_reason"] == "stop"


def test_requests_that_wait_for_a_search_are_in_the_queue_too(served, http, monkeypatch):
    free, counts, ready = threading.Event(), served.server.counts, served.server.gateway.plan
    monkeypatch.setattr(served.server.gateway, "plan", lambda *a, **k: free.wait(60) and ready(*a, **k))
    monkeypatch.setattr(served.server.limits, "queue", 3)
    values = {"model": "faq", "messages": QUESTION, "max_tokens": 2}
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        replies = [
            pool.submit(httpx.post, f"{served.url}/v1/chat/completions", json=values, timeout=600) for _ in range(3)
        ]
        try:
            until(lambda: served.server.searching == 3)
            assert "raft_requests_searching 3.0" in http.get("/metrics").text
            for path in (*ROUTES, "/v1/embeddings"):
                assert http.post(path, json={**values, **ROUTES.get(path, {})}).status_code == 429
        finally:
            free.set()
        assert [reply.result().status_code for reply in replies] == [200] * 3
    assert served.server.searching == counts.under_way == 0


def test_requests_that_wait_for_a_version_are_in_the_queue_too(served, http, monkeypatch):
    free, counts, gateway = threading.Event(), served.server.counts, served.server.gateway
    behind = iter([True] * 3)
    monkeypatch.setattr(gateway, "behind", lambda model: next(behind, False))
    monkeypatch.setattr(gateway, "follow", lambda model: free.wait(60))
    embedder = gateway.embedder
    monkeypatch.setattr(gateway, "embedder", lambda model: free.wait(60) and embedder(model))
    monkeypatch.setattr(served.server.limits, "queue", 4)
    values = {"model": "towns", "input": "?"}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        asked = [(path, {"model": "faq", "max_tokens": 2, **ROUTES[path]}) for path in ROUTES]
        replies = [
            pool.submit(httpx.post, f"{served.url}{path}", json=values, timeout=600)
            for path, values in [*asked, ("/v1/embeddings", values)]
        ]
        try:
            until(lambda: served.server.searching == 4)
            assert http.post("/v1/completions", json=asked[1][1]).status_code == 429
        finally:
            free.set()
        assert [reply.result().status_code for reply in replies] == [200] * 4
    assert served.server.searching == counts.under_way == 0


def test_a_client_that_does_not_read_is_let_go_at_the_deadline(served, monkeypatch):
    counts, limits = served.server.counts, served.server.limits
    before = counts.aborted
    monkeypatch.setattr("serving.answering.LATE_SECONDS", 0.1)
    monkeypatch.setattr(limits, "deadline_seconds", 0.5)

    async def stuck(scope, receive, send):
        await asyncio.sleep(600)

    monkeypatch.setattr("serving.answering.StreamingResponse.__call__", lambda self, *args: stuck(*args))
    with send(served, "/v1/completions", stream=True) as connection:
        connection.settimeout(20)
        until(lambda: counts.aborted == before + 1, 20)
    assert counts.under_way == 0
    assert served.idle(60)


def test_an_engine_that_stands_still_is_not_healthy(served, http, monkeypatch):
    engine = served.server.loop.engine
    monkeypatch.setattr(engine, "running", lambda: 1)
    monkeypatch.setattr(served.server.loop, "last_step", time.monotonic() - 121)
    assert http.get("/health").status_code == 503
    monkeypatch.setattr(served.server.loop, "last_step", time.monotonic() - 60)
    assert http.get("/health").status_code == 200


def test_logs_and_figures_hold_no_text(served, http, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG)
    secret = "Xylophone-42"
    words = [secret, *(text[:20] for text in TEXTS.values()), "/home", "Bearer"]
    headers = {"authorization": f"Bearer {secret}"}
    engine = served.server.loop.engine
    real = engine.step

    def fail():
        monkeypatch.setattr(engine, "step", real)
        raise RuntimeError("broken")

    for path in ROUTES:
        values = {"messages": [{"role": "user", "content": secret}], "prompt": secret, "input": secret}
        http.post(path, json={"model": "faq", "max_tokens": 2, **values}, headers=headers)
        http.post(path, json={"model": "faq", "max_tokens": 2, "stream": True, **values}, headers=headers)
        http.post(path, json={"model": "faq", "temperature": secret, "stop": [secret] * 9, **values}, headers=headers)
        http.post(path, json={"model": "faq@3", **values}, headers=headers)
        http.post(path, content=f'{{"{secret}', headers={**headers, "content-type": "application/json"})
        monkeypatch.setattr(engine, "step", fail)
        http.post(path, json={"model": "base", "max_tokens": 2, **values}, headers=headers)
    own = [record for record in caplog.records if record.name.startswith(("raft", "uvicorn", "starlette"))]
    assert {"stop", "length"} & (ends := {word for record in own for word in record.getMessage().split()})
    assert {"refused", "aborted"} <= ends
    text = "\n".join(logging.Formatter().format(record) for record in own if record.name != "httpx")
    figures = http.get("/metrics").text
    for word in words:
        assert word not in text
        assert word not in figures


def test_the_log_says_once_why_an_adapter_cannot_be_used(served, http, caplog):
    served.server.gateway._reported.clear()
    for _ in range(2):
        http.post("/v1/chat/completions", json={"model": "faq@3", "messages": QUESTION})
    reasons = [record.getMessage() for record in caplog.records if "faq@3 cannot be used" in record.getMessage()]
    assert len(reasons) == 1
    assert "safetensors" in reasons[0]

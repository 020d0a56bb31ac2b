"""The server from its first byte to its last: the address is told when it answers, a signal ends it in order."""

import concurrent.futures
import os
import signal
import socket
import threading
import time
from urllib.parse import urlsplit

import httpx
import openai
import pytest
from tiny_server import events

from raft_errors import BadInput
from serving.engine_loop import EngineLoop
from serving.server import run_server
from serving.state import Limits, Server


def test_whoever_is_told_the_address_can_connect_and_end_the_server(served, engine):
    server = Server(served.server.gateway, EngineLoop(engine), Limits())
    addresses = []

    def say(address):
        place = urlsplit(address)
        socket.create_connection((place.hostname, place.port), timeout=10).close()
        addresses.append(address)
        os.kill(os.getpid(), signal.SIGTERM)

    run_server(server, "127.0.0.1", 0, keys=[], hosts=[], warm=lambda: None, say=say)
    assert len(addresses) == 1
    assert not server.ready


def test_a_port_in_use_and_an_address_of_another_machine_are_told_apart(served, engine):
    server = Server(served.server.gateway, EngineLoop(engine), Limits())
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        for host, option in (("127.0.0.1", "--port"), ("192.0.2.1", "--host"), ("no-such-host.invalid", "--host")):
            keys = ["a-key-of-the-tests-0123"]
            with pytest.raises(BadInput, match="cannot be used") as error:
                run_server(server, host, port, keys=keys, hosts=[], warm=lambda: None, say=lambda address: None)
            assert option in error.value.do


def run(served, engine, client, keys=(), **limits):
    """Runs a server of its own, which a thread asks; what the thread returns, and the seconds from its end to that of
    the server."""
    server = Server(served.server.gateway, EngineLoop(engine), Limits(**limits))
    pool = concurrent.futures.ThreadPoolExecutor(1)
    asked = []
    run_server(
        server,
        "127.0.0.1",
        0,
        keys=list(keys),
        hosts=[],
        warm=lambda: None,
        say=lambda address: asked.append(pool.submit(client, server, address)),
    )
    ended = time.monotonic()
    result, at = asked[0].result(60)
    return result, ended - at


def stream(address, tokens):
    body = {"model": "base", "prompt": "The town of", "max_tokens": tokens, "ignore_eos": True, "stream": True}
    return events(httpx.post(f"{address}/v1/completions", json=body, timeout=600).text)


@pytest.mark.slow
def test_after_a_signal_new_requests_are_told_so_while_the_streams_end(served, engine, monkeypatch):
    step = engine.step
    monkeypatch.setattr(engine, "step", lambda: (time.sleep(0.05), step())[1])  # the streams outlast the questions

    def client(server, address):
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            streams = [pool.submit(stream, address, 300 + number) for number in range(8)]
            while engine.running() < 8:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)
            while server.ready:
                time.sleep(0.01)
            body = {"model": "base", "prompt": "Hi"}
            late = [httpx.get(f"{address}/ready"), httpx.post(f"{address}/v1/completions", json=body)]
            assert not any(one.done() for one in streams), "the streams had ended before the question"
            return ([one.result() for one in streams], late), time.monotonic()

    (streams, (ready, refused)), _ = run(served, engine, client)
    for values in streams:
        assert values[-1] == "[DONE]"
        assert values[-2]["choices"][0]["finish_reason"] == "length"
    assert ready.status_code == 503
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
    assert refused.json()["error"]["code"] == "not_ready"


@pytest.mark.parametrize("signals", [1, 2])
@pytest.mark.slow
def test_a_stream_that_is_stuck_ends_at_its_deadline_or_with_a_second_signal(served, engine, monkeypatch, signals):
    """The engine takes no step while the event is unset."""
    free = threading.Event()
    real = engine.step
    monkeypatch.setattr(engine, "step", lambda: real() if free.wait(0.05) else True)

    def client(server, address):
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            stuck = pool.submit(stream, address, 9)
            while not server.counts.under_way:
                time.sleep(0.01)
            for _ in range(signals):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.3)
            try:
                return stuck.result(), time.monotonic()
            except httpx.HTTPError as error:
                return error, time.monotonic()

    began = time.monotonic()
    result, _ = run(served, engine, client, deadline_seconds=1.5 if signals == 1 else 3600.0)
    if signals == 1:
        assert result[-1]["error"]["code"] == "timeout"
        assert time.monotonic() - began >= 1.5
    else:
        assert isinstance(result, httpx.HTTPError) or result[-1] != "[DONE]"
    monkeypatch.undo()
    assert served.idle(60)


def test_the_openai_client_is_told_that_its_key_is_wrong(served, engine):
    key = "a-key-of-24-characters-0"

    def client(server, address):
        try:
            openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0).models.list()
            with pytest.raises(openai.AuthenticationError) as error:
                openai.OpenAI(base_url=f"{address}/v1", api_key=f"{key[:-1]}1", max_retries=0).models.list()
            return (error.value.code, httpx.get(f"{address}/ready").status_code), time.monotonic()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    result, _ = run(served, engine, client, keys=[key])
    assert result == ("invalid_api_key", 200)

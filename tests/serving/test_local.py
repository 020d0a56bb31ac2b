"""`raft ask` trusts a server of its own user that knows the nonce, and nobody else."""

import asyncio
import http.server
import itertools
import json
import os
import socket
import threading
import time
from types import SimpleNamespace

import httpx
import pytest
from tiny_server import TEXTS

from data.prompting.contract import chat_of
from serving import own_question
from serving.asking import Asking
from serving.errors import ApiError
from serving.local import ROUTE, Announcement, NotAnswered, announced, ask_server, proof, running_servers
from serving.state import Counts

QUESTION = "When are keys rotated?"


@pytest.fixture
def announcement(served):
    return Announcement(served.url, socket.gethostname(), os.getpid(), served.server.nonce, ("faq",), "float32")


@pytest.fixture
def asking(versions):
    version = versions[2]
    return Asking(
        domain="faq",
        index="",
        adapter=str(version.folder.resolve()),
        contract=dict(version.contract),
        chat=chat_of(version.contract),
        names=["adapter", "base"],
        question=QUESTION,
        max_tokens=6,
    )


def test_a_server_answers_with_all_that_a_terminal_shows(served, announcement, asking):
    before = served.server.counts.answered
    events = list(ask_server(announcement, asking))
    assert events[0]["passages"][0]["text"] == TEXTS["Keys"]
    assert events[0]["passages"][0]["source"].startswith("file:///home/")
    for name in ("adapter", "base"):
        texts = [event["text"] for event in events if event.get("name") == name and "text" in event]
        answer = next(event["answer"] for event in events if event.get("name") == name and "answer" in event)
        assert texts[-1] == answer["text"]
        assert all(now.startswith(last) for last, now in itertools.pairwise(texts))
        assert {"answer", "refused", "quotes"} <= answer.keys()
    assert "answer" in events[-1]
    assert served.server.counts.answered == before + 1
    assert served.idle(60)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"adapter": "/elsewhere"}, "another adapter is meant"),
        ({"index": "other"}, "another index"),
        ({"domain": "law"}, "another index"),
        ({"max_tokens": 1490}, "may have"),
        ({"where": {"sauce": "x"}}, "unknown field"),
    ],
)
def test_what_it_would_answer_otherwise_it_does_not_answer(served, announcement, asking, change, words):
    with pytest.raises(NotAnswered, match=words):
        list(ask_server(announcement, asking.model_copy(update=change)))
    assert served.server.counts.under_way == 0


def test_the_base_alone_needs_no_adapter(announcement, asking):
    events = list(ask_server(announcement, asking.model_copy(update={"adapter": None, "names": ["base"]})))
    assert [event["name"] for event in events if "answer" in event] == ["base"]


@pytest.mark.parametrize("error", [ApiError(504, "too slow"), RuntimeError("of the disk")])
@pytest.mark.parametrize("before", [0, 1])
def test_an_answer_that_fails_is_no_event_and_no_traceback(announcement, asking, monkeypatch, error, before):
    def fails(*_, **__):
        yield from [{"passages": []}] * before
        raise error

    monkeypatch.setattr("serving.own_question.replies", fails)
    words = "too slow" if isinstance(error, ApiError) else "The server failed on this request"
    with pytest.raises(ConnectionError if before else NotAnswered, match=words):
        list(ask_server(announcement, asking))


@pytest.mark.parametrize("key", ["", "Bearer wrong", "Bearer ü"])
def test_no_other_key_opens_it(served, asking, key):
    headers = {"authorization": key.encode()} if key else {}
    reply = httpx.post(f"{served.url}{ROUTE}", json=asking.model_dump(), headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (401, "invalid_api_key")


def test_the_nonce_is_never_said(served, http):
    for path in ("/health", "/health?challenge=x", "/ready", "/metrics", "/v1/models"):
        assert served.server.nonce not in http.get(path).text
    assert http.get("/health").json() == {"status": "ok"}
    assert http.get("/health?challenge=x").json()["proof"] != http.get("/health?challenge=y").json()["proof"]


@pytest.mark.slow
def test_a_stranger_on_the_port_gets_neither_question_nor_key(asking):
    heard = []

    class Stranger(http.server.BaseHTTPRequestHandler):
        def _answer(self):
            length = int(self.headers.get("content-length") or 0)
            heard.append((self.path, dict(self.headers), self.rfile.read(length)))
            body = json.dumps({"status": "ok", "proof": "0" * 64}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = _answer

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Stranger) as stranger:
        threading.Thread(target=stranger.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{stranger.server_address[1]}"
        own = Announcement(url, socket.gethostname(), os.getpid(), "a-nonce", ("faq",), "float32")
        with pytest.raises(NotAnswered, match="another program"):
            list(ask_server(own, asking))
        stranger.shutdown()
    assert [path.partition("?")[0] for path, *_ in heard] == ["/health"]
    assert "a-nonce" not in str(heard)
    assert QUESTION not in str(heard)


def test_a_server_that_closes_the_connection_since_it_ends_is_not_asked(asking):
    class Ending(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps({"proof": proof("a-nonce", self.path.partition("challenge=")[2])}).encode()
            self.send_response(200)
            self.send_header("connection", "close")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Ending) as ending:
        threading.Thread(target=ending.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{ending.server_address[1]}"
        own = Announcement(url, socket.gethostname(), os.getpid(), "a-nonce", ("faq",), "float32")
        with pytest.raises(NotAnswered, match="stopping"):
            list(ask_server(own, asking))
        ending.shutdown()


def test_a_question_whose_client_has_gone_before_the_first_event_is_counted():
    """Starlette never begins the events then, so that they have no end of their own."""
    counts = Counts(received=1)

    async def gone():
        return {"type": "http.disconnect"}

    async def send(message):
        await asyncio.sleep(0)

    response = own_question._Lines(SimpleNamespace(counts=counts), (event for event in [{}]), "ask-1", time.monotonic())
    asyncio.run(response({"type": "http", "asgi": {"spec_version": "2.3"}}, gone, send))
    assert (counts.aborted, counts.answered, counts.under_way) == (1, 0, 0)


def test_a_server_that_is_gone_is_not_waited_for(asking):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    own = Announcement(url, socket.gethostname(), os.getpid(), "a-nonce", ("faq",), "float32")
    with pytest.raises(NotAnswered, match="does not answer"):
        list(ask_server(own, asking))


def test_the_file_is_private_and_goes_with_the_server(tmp_path, announcement):
    tmp_path.chmod(0o2770)
    with announced(tmp_path, announcement):
        (file,) = (tmp_path / "servers").glob("*.json")
        assert file.stat().st_mode & 0o777 == 0o600
        assert running_servers(tmp_path, "faq") == [announcement]
        assert running_servers(tmp_path, "law") == []
        file.chmod(0o640)
        assert running_servers(tmp_path, "faq") == [], "others could have read the nonce"
        file.chmod(0o600)
        file.write_text("{")
        assert running_servers(tmp_path, "faq") == []
    assert list((tmp_path / "servers").iterdir()) == []
    assert running_servers(tmp_path / "nowhere", "faq") == []


def test_what_a_killed_server_left_is_passed_over_and_removed(tmp_path, announcement):
    from dataclasses import replace

    from serving import local

    gone = replace(announcement, process=2**22 + 1)  # above the largest that Linux gives
    context = announced(tmp_path, gone)
    context.__enter__()
    assert running_servers(tmp_path, "faq") == []
    with announced(tmp_path, announcement):
        assert [local._read(path) for path in (tmp_path / "servers").glob("*.json")] == [announcement]

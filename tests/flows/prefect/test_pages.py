"""A result's page is served to whoever has the auth string, to nobody else, and can do nothing but be read."""

import asyncio
import base64

import pytest

from flows.prefect.pages import with_pages
from tasks.prefect.artifacts import PAGES
from tasks.store.store import Store

AUTH = "raft:a secret"


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "raft")
    with store.publish("evaluate", "k1") as (out, _):
        (out / "report.html").write_text("<p>the report of Köln</p>")
        (out / "rows.jsonl").write_text("{}")
        (out / "adapter").mkdir()
        (out / "adapter" / "page.html").write_text("inner")
    (store.folder("evaluate", "k1") / "stranger.html").write_text("put there later")
    return store


def ask(store, path, auth=AUTH, method="GET"):
    """Status, headers and body of a request."""
    sent = []

    async def prefect(scope, receive, send):
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body", "body": b"Prefect's own"})

    async def send(message):
        sent.append(message)

    headers = [(b"authorization", b"Basic " + base64.b64encode(auth.encode()))] if auth else []
    scope = {"type": "http", "path": path, "method": method, "headers": headers}
    asyncio.run(with_pages(prefect, store, AUTH)(scope, None, send))
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"].decode()


def test_the_page_is_shown_and_runs_nothing(store):
    status, headers, body = ask(store, f"{PAGES}/evaluate/k1/report.html")
    assert (status, body) == (200, "<p>the report of Köln</p>")
    assert headers[b"content-type"] == b"text/html; charset=utf-8"
    assert headers[b"content-security-policy"].startswith(b"sandbox; default-src 'none'")
    assert ask(store, f"{PAGES}/evaluate/k1/report.html", method="HEAD")[2] == ""


@pytest.mark.parametrize("auth", ["", "raft:another", "raft", "Raft:a secret"])
def test_without_the_auth_string_the_browser_is_asked_for_it(store, auth):
    status, headers, body = ask(store, f"{PAGES}/evaluate/k1/report.html", auth)
    assert status == 401
    assert headers[b"www-authenticate"].startswith(b"Basic realm=")
    assert "Köln" not in body


@pytest.mark.parametrize("name", ["stranger.html", "gone.html"])
def test_only_what_the_manifest_names_is_a_page(store, name):
    assert ask(store, f"{PAGES}/evaluate/k1/{name}")[0] == 404


@pytest.mark.parametrize(
    "path",
    [
        "/runs",
        "/raft/evaluate/k1/rows.jsonl",
        "/raft/evaluate/../k1/report.html",
        "/raft/evaluate/k1/adapter/page.html",
    ],
)
def test_everything_else_is_prefects(store, path):
    assert ask(store, path)[0] == 299

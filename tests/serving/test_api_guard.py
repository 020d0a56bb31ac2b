"""Keys, hosts and sizes, without a model."""

import asyncio

import pytest

from raft_errors import BadInput
from serving.guard import Guard, host_of, known_names
from serving.server import require_keys


def call(guard, path="/v1/models", method="GET", **headers):
    """The status that a request gets."""
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b""}

    raw = [(k.encode(), v.encode("utf-8")) for k, v in {"host": "localhost:8000", **headers}.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": raw}
    asyncio.run(guard(scope, receive, send))
    return sent[0]["status"]


async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def test_a_key_is_demanded_whole():
    guard = Guard(app, ["localhost"], ["first-key-0123456789", "zweiter-schlüssel-0123"], 100)
    assert call(guard) == 401
    assert call(guard, authorization="Bearer first-key-0123456789") == 200
    assert call(guard, authorization="bearer zweiter-schlüssel-0123".encode().decode("latin-1")) == 401
    for wrong in (
        "Bearer first-key-0123456788",
        "Bearer ",
        "first-key-0123456789",
        "Basic first-key-0123456789",
        "Bearer é",
    ):
        assert call(guard, authorization=wrong) == 401
    assert call(guard, authorization="Bearer first-key-0123456789", host="evil.example") == 400


def test_pages_of_this_server_alone_may_call_it():
    guard = Guard(app, ["localhost", "::1"], [], 100)
    assert call(guard, origin="http://localhost:8000") == 200
    assert call(guard, host="[::1]:8000", origin="http://[::1]:8000") == 200
    assert call(guard, host="localhost", origin="https://localhost") == 200  # behind a proxy that speaks TLS
    for other in ("http://localhost:3000", "http://localhost", "https://evil.example", "null", ""):
        assert call(guard, origin=other) == 403, other


def test_a_host_or_origin_that_is_no_address_is_refused_and_breaks_nothing():
    guard = Guard(app, ["localhost"], [], 100)
    for value in ("[::1", "[", "[zz]", "localhost:["):
        assert call(guard, host=value) == 400, value
    for value in ("http://[::1", "http://[", "http://[zz]"):
        assert call(guard, origin=value) == 403, value


@pytest.mark.parametrize("value", ["", "localhost.evil.example", "evil.example:80", "localhost@evil.example"])
def test_a_host_is_its_name_alone(value):
    assert host_of(value) != "localhost"
    assert host_of("localhost.:80") == "localhost"


def test_a_server_is_known_by_the_names_it_was_given_as_a_browser_writes_them():
    """A machine may be called `Desk-7`, and `Host` comes in small letters."""
    given = ["Desk-7", "rag.example.com:8443", "rag.example.com", "10.1.2.3", "::1", "[2001:DB8::2]", "host."]
    names = known_names(given)
    assert names == ["desk-7", "rag.example.com", "10.1.2.3", "::1", "2001:db8::2", "host"]
    guard = Guard(app, names, [], 100)
    for host in ("desk-7:8000", "Desk-7", "rag.example.com", "[::1]:80", "[2001:db8::2]", "host"):
        assert call(guard, host=host) == 200, host
    assert call(guard, host="") == 400


@pytest.mark.parametrize(
    "name", ["", " ", "https://rag.example.com", "rag.example.com/v1", "*", "a@b", "[::1", "bücher.de"]
)
def test_a_name_by_which_nobody_could_call_the_server_is_refused(name):
    with pytest.raises(BadInput, match="no name of a host"):
        known_names([name])


def test_nobody_serves_beyond_loopback_without_a_key():
    require_keys("127.0.0.1", [])
    require_keys("0.0.0.0", ["k" * 20])
    with pytest.raises(BadInput, match="open to everybody"):
        require_keys("0.0.0.0", [])


def test_a_balancer_asks_by_address_and_without_a_key_and_nothing_else_answers_it():
    guard = Guard(app, ["localhost"], ["first-key-0123456789"], 100)
    for path in ("/health", "/ready"):
        assert call(guard, path, host="10.1.2.3:8000") == 200
        assert call(guard, path, "POST", host="10.1.2.3:8000") == 400
    for path in ("/metrics", "/v1/models", "/health/", "/v1/passages/faq/x"):
        assert call(guard, path, host="10.1.2.3:8000", authorization="Bearer first-key-0123456789") == 400
        assert call(guard, path) == 401

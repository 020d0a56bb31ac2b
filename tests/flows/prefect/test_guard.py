"""A browser is not to be used against a server on the user's own machine: by name, by page, or by form."""

import asyncio

import pytest

from flows.prefect.guard import guarded


def asked(kind="http", method="POST", *, loopback=True, names=(), **headers) -> int:
    """The status that a request gets; 200 from the application, 101 for a websocket that it was given."""
    sent = []

    async def application(scope, receive, send):
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
        else:
            await send({"type": "websocket.accept"})

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        sent.append(message)

    rows = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": kind, "path": "/api/x", "headers": rows} | ({"method": method} if kind == "http" else {})
    asyncio.run(guarded(application, loopback=loopback, names=names)(scope, receive, send))
    first = sent[0]
    return first.get("status") or {"websocket.accept": 101, "websocket.close": first.get("code")}[first["type"]]


JSON = {"content_type": "application/json", "content_length": "2"}
HERE = {"host": "127.0.0.1:4200"}


@pytest.mark.parametrize(
    "host", ["127.0.0.1:4200", "localhost:4200", "[::1]:4200", "[::1]", "LocalHost", "127.0.0.1:80"]
)
def test_its_own_names_are_answered(host):
    assert asked(host=host, **JSON) == 200
    assert asked("websocket", host=host) == 101


@pytest.mark.parametrize(
    "host",
    ["evil.example:4200", "127.0.0.1.evil.example", "192.168.1.7:4200", "", "localhost.", "127.0.0.1@evil.example"],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_any_other_name_is_refused_for_reading_too(host, method):
    """A page whose name was made to point to loopback is of the server's own origin, as far as its browser knows."""
    assert asked(method=method, host=host, **JSON) == 400
    assert asked("websocket", host=host) == 1008


def test_beyond_loopback_any_address_is_its_own_and_only_names_that_it_was_given():
    assert asked(loopback=False, host="192.168.1.7:4200", **JSON) == 200
    assert asked(loopback=False, host="gpu-box:4200", **JSON) == 400
    assert asked(loopback=False, names=["GPU-box"], host="gpu-box:4200", **JSON) == 200


def test_no_host_and_two_hosts_are_refused():
    assert asked(**JSON) == 400


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "http://127.0.0.1:8888", "http://localhost:4200", "null", "http://127.0.0.1:4200.evil"],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
def test_a_page_of_another_origin_is_refused_from_another_local_port_too(origin, method):
    assert asked(method=method, origin=origin, **HERE, **JSON) == 403
    assert asked("websocket", origin=origin, **HERE) == 1008


def test_its_own_page_is_served():
    assert asked(origin="http://127.0.0.1:4200", sec_fetch_site="same-origin", **HERE, **JSON) == 200
    assert asked("websocket", origin="http://127.0.0.1:4200", **HERE) == 101
    assert (
        asked(origin="https://raft.example", host="raft.example", loopback=False, names=["raft.example"], **JSON) == 200
    )


@pytest.mark.parametrize("site", ["same-site", "cross-site"])
def test_what_a_browser_fetches_for_another_page_is_refused_and_a_link_that_is_followed_is_not(site):
    assert asked(method="GET", sec_fetch_site=site, sec_fetch_dest="empty", **HERE) == 403
    assert asked(method="GET", sec_fetch_site=site, sec_fetch_dest="iframe", **HERE) == 403
    assert asked(method="POST", sec_fetch_site=site, sec_fetch_dest="document", **HERE) == 403
    assert asked(method="GET", sec_fetch_site=site, sec_fetch_dest="document", **HERE) == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", None])
def test_a_body_that_a_form_could_send_is_refused(kind):
    declared = {} if kind is None else {"content_type": kind}
    assert asked(content_length="2", **declared, **HERE) == 415
    assert asked(transfer_encoding="chunked", **declared, **HERE) == 415


def test_json_and_no_body_at_all_are_taken():
    assert asked(content_type="application/json; charset=utf-8", content_length="2", **HERE) == 200
    assert asked(method="DELETE", **HERE) == 200
    assert asked(method="POST", content_length="0", **HERE) == 200


def test_a_websocket_is_never_an_address_that_somebody_followed():
    from_elsewhere = {"sec_fetch_site": "cross-site", "sec_fetch_dest": "document", **HERE}
    assert asked("websocket", **from_elsewhere) == 1008

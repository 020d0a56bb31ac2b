"""Acceptance test 21: a promotion that the other server does not follow leaves the version before in use, says so, and
comes through once that server is in order again."""

import contextlib

import pytest
from test_remote_api import ask, serving

from raft_errors import BadInput
from serving.domain import ServedVersion
from serving.watch import Watch


class Promoted:
    """What is promoted."""

    def __init__(self, versions) -> None:
        self.versions, self.number = versions, 1

    def find(self, number):
        number = self.number if number is None else number
        if number not in self.versions:
            raise BadInput(f"no version {number}")
        version = self.versions[number]
        return ServedVersion(version.id, version.folder)


@pytest.fixture
def promoted(versions):
    return Promoted(versions)


@pytest.fixture
def http(loop, base, promoted, there, eventually):
    """A server with version 1 in use on the other one, that looks for promotions all the time."""
    with serving(loop, base, promoted.find) as (server, client), contextlib.ExitStack() as end:
        watch = Watch(server.gateway, seconds=0.02)
        end.callback(watch.stop)
        watch.start()
        eventually(lambda: client.get("/v1/models").json()["data"][1:], 30)
        assert ask(client).json()["model"] == "faq@1"
        yield client


def card(http):
    return http.get("/v1/models/faq").json()


FAULTS = {
    "400": ("load_fault", 400),
    "404": ("load_fault", 404),
    "500": ("load_fault", 500),
    "no answer and no listing": ("listed_after", None),
    "nothing changes": ("unheard", True),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.slow
def test_a_failing_load_leaves_the_version_before_in_use_and_a_retry_works(http, there, promoted, fault, eventually):
    name, value = FAULTS[fault]
    setattr(there, name, value)
    if fault == "no answer and no listing":
        there.load_fault = "hang"
    promoted.number = 2
    eventually(lambda: 'raft_remote_adapter{adapter="faq-v2",state="failed"}' in http.get("/metrics").text)
    for _ in range(3):
        assert ask(http).json()["model"] == "faq@1", "nobody waits, and the version before answers"
    assert (card(http)["version"], card(http)["refused"]) == ("faq@1", "faq@2")
    there.repair()
    eventually(lambda: card(http)["version"] == "faq@2")
    assert "refused" not in card(http)
    assert ask(http).json()["model"] == "faq@2"
    assert there.requests[-1]["model"] == "faq-v2"
    eventually(lambda: list(there.adapters) == ["faq-v2"])


@pytest.mark.slow
def test_a_name_that_is_listed_late_is_used_when_it_is(http, there, promoted, eventually):
    there.listed_after = 0.3
    promoted.number = 2
    eventually(lambda: "faq-v2" in there.adapters)
    assert ask(http).json()["model"] == "faq@1"
    eventually(lambda: card(http)["version"] == "faq@2")
    eventually(lambda: list(there.adapters) == ["faq-v2"])


def test_an_unload_that_hangs_is_shown_and_holds_back_no_promotion(http, there, promoted, eventually):
    there.unload_fault = "hang"
    promoted.number = 2
    eventually(lambda: card(http)["version"] == "faq@2")
    assert ask(http).json()["model"] == "faq@2"
    eventually(lambda: 'raft_remote_adapter{adapter="faq-v1",state="leaving"}' in http.get("/metrics").text)
    promoted.number = 1  # rolled back while it is on its way out
    there.unload_fault = None
    eventually(lambda: card(http)["version"] == "faq@1")
    assert ask(http).json()["model"] == "faq@1"
    eventually(lambda: list(there.adapters) == ["faq-v1"])


@pytest.mark.slow
def test_requests_under_way_end_on_the_version_they_began_with(http, there, promoted, eventually):
    there.piece_seconds, there.words = 0.05, "slow " * 30
    body = {"model": "faq/raw", "messages": [{"role": "user", "content": "?"}], "stream": True}
    with http.stream("POST", "/v1/chat/completions", json=body) as reply:
        lines = reply.iter_lines()
        next(lines)
        eventually(lambda: there.streams >= 2)
        promoted.number = 2
        eventually(lambda: "faq-v2" in there.adapters)
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert "faq@1/raw" in rest[-2]
    eventually(lambda: list(there.adapters) == ["faq-v2"])


def test_a_version_that_is_broken_here_is_never_sent_there(http, there, promoted, eventually):
    promoted.number = 3
    eventually(lambda: card(http).get("refused") == "faq@3")
    assert ask(http).json()["model"] == "faq@1"
    assert [body["lora_name"] for _, body in there.calls] == ["faq-v1"]


def test_a_server_that_is_down_at_the_start_is_served_from_when_it_comes_up(
    loop, base, promoted, there, eventually, monkeypatch
):
    there.load_fault = 500
    with serving(loop, base, promoted.find) as (server, client), contextlib.ExitStack() as end:
        watch = Watch(server.gateway, seconds=0.02)
        end.callback(watch.stop)
        reply = ask(client)
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "not_ready")
        assert [one["id"] for one in client.get("/v1/models").json()["data"]] == ["base"]
        there.load_fault = None
        watch.start()
        eventually(lambda: [one["id"] for one in client.get("/v1/models").json()["data"]] == ["base", "faq"])
        assert ask(client).json()["model"] == "faq@1"

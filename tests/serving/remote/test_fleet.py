"""Adapters on another server: what goes wrong there is said, tried again, and holds nobody up (acceptance test 21)."""

import asyncio
import logging
import threading
import time

import pytest
from stand_in import BASE

from jora_engine.generation.requests import Request
from raft_errors import BadInput
from serving.domain import NotReady
from serving.remote.fleet import Patience, name_there

KEY = "engine-key-0123456789"


def register(loop, version) -> str:
    key = f"{version.id} {version.folder}"
    loop.adapters.register(key, version.folder)
    return key


def state(loop, name="faq-v1"):
    return loop.fleet.standing().get(name, {})


def ask(loop, adapter=None, eventually=None, **options):
    job = loop.submit(Request((3, 4, 5), 40, adapter=adapter, **options), None, None)
    eventually(lambda: job.ended)
    return job


def ready(loop, key):
    try:
        loop.probe(key)
    except NotReady:
        return False
    return True


def test_a_version_is_loaded_under_its_own_name_probed_used_and_unloaded(loop, there, brought, versions, eventually):
    key = brought(1)
    assert there.adapters == {"faq-v1": str(versions[1].folder)}
    assert [body["model"] for body in there.requests] == [BASE, BASE, "faq-v1"], "both were probed"
    job = ask(loop, key, eventually)
    assert job.completion.text == there.text("faq-v1", [3, 4, 5])
    assert (job.completion.new_tokens, job.completion.finish_reason) == (len(job.completion.text) // 5 + 1, "stop")
    assert job.cached_tokens == 7
    assert there.requests[-1]["prompt"] == [3, 4, 5], "the very ids"
    assert there.requests[-1]["stop_token_ids"] == list(loop._tokenizer.eos_ids)
    loop.unload(key)
    eventually(lambda: not there.adapters)
    assert loop.fleet.standing() == {}
    assert ask(loop, None, eventually).completion.text == there.text(BASE, [3, 4, 5])


def test_a_request_that_is_left_before_it_was_sent_is_ended_and_gives_its_adapter_back(loop, brought, eventually):
    key, ended = brought(1), []
    loop._loop.call_soon_threadsafe(time.sleep, 0.2)  # both come in while the loop is busy
    job = loop.submit(Request((3, 4), 5, adapter=key), None, ended.append)
    loop.cancel(job)
    eventually(lambda: ended == [job])
    assert job.completion.finish_reason == "abort"
    assert (loop.pending(), loop.running()) == (0, 0)
    assert [guest.uses for guest in loop.fleet._guests.values()] == [0]


def test_an_adapter_is_found_by_what_it_holds_while_others_are_read(loop, tmp_path):
    known = loop.adapters._known

    class Digest(str):
        def __eq__(self, other):  # as another thread does it meanwhile
            known[f"faq@{len(known)}"] = tmp_path, "other"
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    known.update({f"faq@{n}": (tmp_path / str(n), Digest(f"digest-{n}")) for n in range(3)})
    assert loop.adapters.named("digest-1") == ("faq@1", tmp_path / "1")


def test_two_versions_with_the_same_bytes_come_and_go_apart(loop, there, brought, versions, eventually):
    first = brought(1)
    key = f"faq@9 {versions[1].folder}"
    loop.adapters.register(key, versions[1].folder)
    eventually(lambda: ready(loop, key))
    assert list(there.adapters) == ["faq-v1", "faq-v9"]
    loop.unload(first)
    eventually(lambda: list(there.adapters) == ["faq-v9"])
    assert ask(loop, key, eventually).completion.text == there.text("faq-v9", [3, 4, 5])
    assert list(there.adapters) == ["faq-v9"]


def test_what_has_no_number_is_named_by_its_digest(versions):
    folder = versions[1].folder
    assert name_there(f"faq@12 {folder}", folder, "a" * 64) == "faq-v12"
    assert name_there(f"faq {folder}", folder, "0123456789abcdef") == "faq-0123456789ab"


@pytest.mark.parametrize("fault", [400, 404, 500])
def test_a_refused_load_is_said_and_tried_again(loop, there, versions, fault, eventually):
    there.load_fault = fault
    key = register(loop, versions[1])
    eventually(lambda: not ready(loop, key) and state(loop).get("state") == "failed")
    with pytest.raises(NotReady, match=f"does not take faq-v1 in: HTTP {fault}") as error:
        loop.probe(key)
    assert str(versions[1].folder) not in str(error.value), "clients may read it"
    assert state(loop) == {"state": "failed", "reason": f"HTTP {fault}"}
    there.load_fault = None
    eventually(lambda: ready(loop, key))
    assert state(loop) == {"state": "ready"}


NO_COMPLETIONS = [
    "{",
    "null",
    "[" * 100_000,
    '{"choices": 5}',
    '{"choices": [5]}',
    '{"choices": [{"text": 5}]}',
    '{"choices": [{"text": "", "logprobs": {"token_logprobs": ["x"]}}]}',
]


@pytest.mark.parametrize(
    ("route", "answer"),
    [
        *(("completions", (200, "application/json", body)) for body in NO_COMPLETIONS),
        (
            "completions",
            (200, "application/json", '{"choices": [{"text": "", "logprobs": {"token_logprobs": ["x"]}}]}'),
        ),
        ("completions", (200, "text/html", "<html>")),
        ("load", (500, "text/html", "<html>")),
        ("load", (503, "application/json", '[{"error": [[]]}]')),
    ],
)
def test_whatever_a_load_is_answered_with_a_start_does_not_wait_for_ever(
    loop, there, versions, route, answer, eventually
):
    there.raw[route] = answer
    key = register(loop, versions[1])
    begin = threading.Thread(target=loop.bring, args=([key],), daemon=True)
    begin.start()
    begin.join(20)
    assert not begin.is_alive()
    with pytest.raises(NotReady, match=r"does not take faq-v1 in: \w"):
        loop.probe(key)
    there.repair()
    eventually(lambda: ready(loop, key))


def test_a_start_waits_so_long_and_no_longer(make_loop, there, versions, monkeypatch):
    monkeypatch.setattr("serving.remote.loop.SAMPLE_SECONDS", 0.1)
    loop = make_loop(patience=Patience(load=0.1, listed=0.1))

    async def never(*_):
        await asyncio.sleep(60)

    monkeypatch.setattr(loop.remote, "load", never)
    key = register(loop, versions[1])
    loop.bring([key])
    with pytest.raises(NotReady, match="is loading faq-v1"):
        loop.probe(key)


@pytest.mark.slow
def test_a_load_without_an_answer_is_taken_as_done_once_the_name_is_listed(loop, there, versions, eventually):
    there.load_fault = "hang"
    key = register(loop, versions[1])
    eventually(lambda: ready(loop, key))
    assert [route for route, _ in there.calls] == ["load"], "it was not sent twice"


@pytest.mark.slow
def test_a_name_that_is_never_listed_fails_and_comes_in_when_it_is(loop, there, versions, eventually):
    there.listed_after = None
    key = register(loop, versions[1])
    eventually(lambda: not ready(loop, key) and state(loop).get("state") == "failed")
    assert "is not listed" in state(loop)["reason"]
    there.listed_after = 0.0
    eventually(lambda: ready(loop, key))


def test_a_name_that_is_listed_late_is_waited_for(loop, there, versions, eventually):
    there.listed_after = 0.2
    key = register(loop, versions[1])
    began = time.monotonic()
    eventually(lambda: ready(loop, key))
    assert time.monotonic() - began >= 0.2
    assert [body["model"] for body in there.requests] == [BASE, BASE, "faq-v1"], "it was not asked before"


@pytest.mark.slow
def test_an_unload_that_hangs_or_fails_holds_nobody_up(loop, there, brought, versions, eventually):
    first, second = brought(1), brought(2)
    for fault in ("hang", 500):
        there.unload_fault = fault
        loop.unload(first)
        eventually(lambda: "does not leave" in state(loop).get("reason", ""))
        assert state(loop)["state"] == "leaving"
        assert ask(loop, second, eventually).completion.text == there.text("faq-v2", [3, 4, 5])
        there.unload_fault = None
        eventually(lambda: list(there.adapters) == ["faq-v2"])
        eventually(lambda: not state(loop))
        first = brought(1)


def test_what_is_wanted_again_before_it_left_stays(loop, there, brought, eventually):
    key = brought(1)
    there.unload_fault = "hang"
    loop.unload(key)
    eventually(lambda: state(loop).get("state") == "leaving")
    there.unload_fault = None
    key = brought(1)
    assert state(loop) == {"state": "ready"}
    assert ask(loop, key, eventually).completion.text == there.text("faq-v1", [3, 4, 5])
    assert list(there.adapters) == ["faq-v1"]


@pytest.mark.slow
def test_an_adapter_leaves_with_the_last_request_that_uses_it(loop, there, brought, eventually):
    key = brought(1)
    prepared = loop.adapters.get(key)
    there.piece_seconds = 0.05
    there.words = "slow " * 12
    job = loop.submit(Request((3, 4, 5), 40, adapter=key), None, None)
    eventually(lambda: loop.running() == 1)
    loop.unload(key)
    time.sleep(0.2)
    assert "faq-v1" in there.adapters
    eventually(lambda: job.ended)
    assert job.completion.text == there.words
    eventually(lambda: not there.adapters)
    there.repair()
    late = loop.submit(Request((3, 4, 5), 40, adapter=prepared), None, None)  # it was given its adapter before
    eventually(lambda: late.ended)
    assert late.completion.text == there.text("faq-v1", [3, 4, 5])
    eventually(lambda: not there.adapters)


def test_an_adapter_that_changes_nothing_there_is_not_used(loop, there, versions, eventually):
    there.unheard = True
    key = register(loop, versions[1])
    eventually(lambda: not ready(loop, key) and state(loop).get("state") == "failed")
    assert state(loop)["reason"] == "it changes nothing there"
    eventually(lambda: not there.adapters)
    there.unheard = False
    eventually(lambda: ready(loop, key))


def test_another_base_there_is_noticed_by_its_tokens(loop, there, versions, eventually):
    there.extra_tokens = 1
    key = register(loop, versions[1])
    eventually(lambda: not ready(loop, key) and state(loop).get("state") == "failed")
    assert state(loop)["reason"] == "it counts 33 tokens in a prompt of 32: another base"


def test_a_name_that_means_another_folder_there_is_left_alone(loop, there, versions, eventually):
    there.adapters["faq-v1"] = "/somewhere/else"
    key = register(loop, versions[1])
    eventually(lambda: not ready(loop, key) and state(loop).get("state") == "failed")
    assert state(loop)["reason"] == "another adapter has its name there"
    loop.unload(key)
    eventually(lambda: not loop.fleet.standing())
    assert list(there.adapters) == ["faq-v1"]


def test_an_adapter_of_an_earlier_start_is_found_there(loop, there, versions, eventually):
    there.adapters["faq-v1"] = str(versions[1].folder)
    key = register(loop, versions[1])
    eventually(lambda: ready(loop, key))
    assert there.calls == []


def test_what_a_restarted_server_has_lost_is_loaded_again_for_the_request(loop, there, brought, eventually):
    key = brought(1)
    there.restart()
    assert ask(loop, key, eventually).completion.text == there.text("faq-v1", [3, 4, 5])
    assert [route for route, _ in there.calls] == ["load", "load"]


def test_a_broken_adapter_is_refused_here_and_never_sent(loop, there, versions):
    key = register(loop, versions[3])
    with pytest.raises(BadInput, match="cannot be used") as error:
        loop.probe(key)
    assert not isinstance(error.value, NotReady)
    assert there.calls == []


def test_the_key_is_sent_and_never_shown(make_loop, there, versions, caplog, monkeypatch, eventually):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("RAFT_TEST_ENGINE_KEY", KEY)
    there.key = "another-key-0123456789"
    loop = make_loop()
    key = register(loop, versions[1])
    eventually(lambda: not ready(loop, key) and state(loop).get("state") == "failed")
    assert state(loop)["reason"] == "HTTP 401"
    assert "wrong key" in caplog.text, "the server's words are in the log, and it had repeated the key"
    there.key = KEY
    eventually(lambda: ready(loop, key))
    ask(loop, key, eventually)
    assert KEY not in caplog.text
    assert KEY not in repr(loop.figures())

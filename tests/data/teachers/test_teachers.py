"""A teacher loses no item, pays for none twice, keeps its key to itself and gives up in the right way."""

import asyncio
import json
import logging
from types import SimpleNamespace

import pytest
from faulty_endpoint import Endpoint

from data.nouns import MemoryCache
from data.questions.asking import Sampling, Tally, ask
from data.teachers import (
    BudgetReached,
    Counted,
    OpenAITeacher,
    Price,
    ReplayTeacher,
    Shape,
    TeacherFailure,
    TeacherUnavailable,
    prompt_key,
)
from raft_errors import BadInput

SAMPLING = Sampling(max_tokens=8)


@pytest.fixture
def endpoint():
    endpoint = Endpoint()
    yield endpoint
    endpoint.close()


def teacher_of(endpoint, **settings):
    return OpenAITeacher(
        "tiny",
        base_url=endpoint.url,
        **{"timeout_seconds": 2.0, "first_wait_seconds": 0.01, "max_wait_seconds": 0.1, "concurrency": 8, **settings},
    )


def said(*texts):
    return [[{"role": "user", "content": text}] for text in texts]


def complete(teacher, texts, **more):
    return teacher.complete(said(*texts), max_tokens=8, temperature=0.0, seed=0, **more)


@pytest.mark.slow
def test_every_fault_that_can_pass_passes_and_no_item_is_lost_or_answered_twice(endpoint):
    faults = ["429", "500", "503", "sleep", "broken", "drip", "disconnect", "cut"]
    texts = [f"item {n} {fault}" for n, fault in enumerate([*faults, "none", "none"])]
    endpoint.faults = {t: [t.split()[-1]] for t in texts if not t.endswith("none")}
    endpoint.faults["item 0 429"] = ["429", "500", "disconnect"]
    teacher = teacher_of(endpoint)
    assert complete(teacher, texts) == [f"reply to {t}" for t in texts]
    assert set(endpoint.answered.values()) == {1}
    assert endpoint.asked["item 0 429"] == 4
    assert teacher.usage.replies == len(texts)
    assert (teacher.usage.prompt_tokens, teacher.usage.completion_tokens) == (10 * len(texts), 5 * len(texts))


@pytest.mark.parametrize(
    ("fault", "reason", "asked"),
    [
        ("empty", "empty", 1),
        ("html", "html", 1),
        ("huge", "too_long", 1),
        ("400", "rejected", 1),
        ("500", "server_error", 3),
    ],
)
def test_a_reply_that_no_retry_mends_fails_alone(endpoint, fault, reason, asked):
    endpoint.faults = {"bad": [fault] * 9}
    replies = complete(teacher_of(endpoint, attempts=3, timeout_seconds=5.0), ["good", "bad", "fine"])
    assert [replies[0], replies[2]] == ["reply to good", "reply to fine"]
    assert isinstance(replies[1], TeacherFailure)
    assert replies[1].reason == reason
    assert endpoint.asked["bad"] == asked


@pytest.mark.parametrize("status", ["401", "403", "404"])
def test_a_wrong_key_or_model_stops_at_once_and_says_what_to_correct(endpoint, status):
    endpoint.always = status
    with pytest.raises(BadInput, match=rf"{status}.*\(no\)"):  # "no" is all that the endpoint says
        complete(teacher_of(endpoint, concurrency=2), [f"{n}" for n in range(20)])
    assert sum(endpoint.asked.values()) <= 2


def test_the_key_is_sent_and_neither_stored_nor_logged(endpoint, monkeypatch, caplog):
    monkeypatch.setenv("TEACHER_KEY", "sk-very-secret")
    caplog.set_level(logging.DEBUG)
    teacher = teacher_of(endpoint, key_variable="TEACHER_KEY", attempts=2)
    endpoint.faults = {"b": ["400"], "c": ["500", "500"]}
    replies = complete(teacher, ["a", "b", "c"])
    assert set(endpoint.headers) == {"Bearer sk-very-secret"}
    seen = f"{vars(teacher)} {replies} {caplog.text} {teacher.usage}"
    assert "very-secret" not in seen


def test_no_key_for_the_default_address_is_bad_input(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(BadInput, match="OPENAI_API_KEY"):
        complete(OpenAITeacher("gpt"), ["a"])


def test_settings_reach_the_endpoint(endpoint):
    teacher_of(endpoint).complete(said("a"), max_tokens=7, temperature=0.5, seed=3, stop=["\n"])
    body = endpoint.bodies[0]
    assert (body["model"], body["max_tokens"], body["temperature"], body["seed"], body["stop"]) == (
        "tiny",
        7,
        0.5,
        3,
        ["\n"],
    )


SHAPE = Shape("answer", {"type": "object"})


def test_a_shape_is_asked_for_where_the_endpoint_takes_one(endpoint):
    assert complete(teacher_of(endpoint), ["a"], shape=SHAPE) == ["reply to a"]
    asked = endpoint.bodies[0]["response_format"]
    assert asked["type"] == "json_schema"
    assert asked["json_schema"] == {"name": "answer", "schema": {"type": "object"}, "strict": True}
    complete(teacher_of(endpoint, structured=False), ["b"], shape=SHAPE)
    assert "response_format" not in endpoint.bodies[1]


def test_an_endpoint_that_refuses_a_shape_is_asked_without_from_then_on(endpoint):
    endpoint.faults = {"a": ["no_shape"] * 9, "b": ["no_shape"] * 9}
    teacher = teacher_of(endpoint, concurrency=1)
    assert complete(teacher, ["a", "b"], shape=SHAPE) == ["reply to a", "reply to b"]
    assert ["response_format" in body for body in endpoint.bodies] == [True, False, False]
    endpoint.faults = {"c": ["400"] * 9}  # a prompt that is refused in any form says nothing about forms
    other = teacher_of(endpoint, concurrency=1)
    replies = complete(other, ["c", "d"], shape=SHAPE)
    assert replies[0].reason == "rejected"
    assert replies[1] == "reply to d"
    assert "response_format" in endpoint.bodies[-1]


def test_requests_are_spread_to_keep_the_rate(endpoint, monkeypatch):
    waits, sleep = [], asyncio.sleep

    async def noted(seconds, *rest):
        waits.append(seconds)
        await sleep(0)

    monkeypatch.setattr("data.teachers.endpoint.asyncio.sleep", noted)
    monkeypatch.setattr("data.teachers.endpoint.time", SimpleNamespace(monotonic=lambda: 100.0))
    complete(teacher_of(endpoint, requests_per_minute=60), [f"{n}" for n in range(5)])
    assert {0.0, 1.0, 2.0, 3.0, 4.0} <= {*waits}  # and more where a busy machine had to ask again


def test_tokens_are_kept_with_a_reply_and_counted_again_when_it_is_not_paid_for(endpoint):
    cache, texts, tallies = MemoryCache(), [f"{n}" for n in range(3)], []
    for _ in range(2):
        tallies.append(tally := Tally())
        replies = ask(said(*texts), teacher_of(endpoint), version="1", sampling=SAMPLING, cache=cache, tally=tally)
        assert replies == [f"reply to {t}" for t in texts]
    assert [(t.asked, t.cached, t.prompt_tokens, t.completion_tokens) for t in tallies] == [
        (3, 0, 30, 15),
        (0, 3, 30, 15),
    ]
    assert isinstance(replies[0], Counted)


def test_the_budget_stops_cleanly_and_a_second_run_pays_only_for_the_rest(endpoint):
    cache, texts = MemoryCache(), [f"question {n}" for n in range(12)]
    price = Price(prompt=100.0, completion=100.0)  # a reply costs 0.0015, and at most 0.0029 is set aside for one
    poor = teacher_of(endpoint, price=price, budget=0.009, concurrency=1)
    with pytest.raises(BudgetReached, match="budget"):
        ask(said(*texts), poor, version="1", sampling=SAMPLING, cache=cache)
    paid = sum(endpoint.answered.values())
    assert 0 < paid < 12
    assert poor.usage.cost <= 0.009
    assert len(cache.items) == paid
    rich = teacher_of(endpoint)
    assert ask(said(*texts), rich, version="1", sampling=SAMPLING, cache=cache) == [f"reply to {t}" for t in texts]
    assert set(endpoint.answered.values()) == {1}


def test_an_endpoint_that_is_down_stops_the_run_instead_of_dropping_every_item(endpoint):
    endpoint.faults = {f"{n}": ["500"] * 9 for n in range(4)}
    with pytest.raises(TeacherUnavailable, match="server_error"):
        ask(said(*"0123"), teacher_of(endpoint, attempts=2), version="1", sampling=SAMPLING, cache=MemoryCache())


def test_a_reply_is_saved_as_it_comes_so_that_a_kill_loses_only_what_is_in_flight(endpoint):
    class DiesAtThree(MemoryCache):
        def put_many(self, items):
            if len(self.items) == 3:
                raise KeyboardInterrupt
            super().put_many(items)

    cache, texts = DiesAtThree(), [f"q{n}" for n in range(8)]
    with pytest.raises(KeyboardInterrupt):
        ask(said(*texts), teacher_of(endpoint, concurrency=1), version="1", sampling=SAMPLING, cache=cache)
    kept = MemoryCache()
    kept.items = dict(cache.items)
    tally = Tally()
    ask(said(*texts), teacher_of(endpoint), version="1", sampling=SAMPLING, cache=kept, tally=tally)
    assert (tally.cached, tally.asked) == (3, 5)


def test_replay_answers_by_prompt_by_words_or_not_at_all(tmp_path):
    messages = said("What is RAFT?")[0]
    file = tmp_path / "replies.jsonl"
    rows = [{"prompt": prompt_key(messages), "reply": "exact"}, {"prompt": "RAFT", "reply": "by\u2028words"}]
    file.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    teacher = ReplayTeacher.from_jsonl(file)
    replies = complete(teacher, ["What is RAFT?", "Who needs RAFT?", "Why?"])
    assert replies[:2] == ["exact", "by\u2028words"]
    assert replies[2].reason == "no_replay"
    assert len(teacher.calls) == 3
    file.write_text("{}\n")
    with pytest.raises(BadInput, match="line 1"):
        ReplayTeacher.from_jsonl(file)

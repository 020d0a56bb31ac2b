"""A reply is read in whichever form an endpoint gives it, and what is no reply says in the server's words why."""

import json

import pytest
from faulty_endpoint import Endpoint, completion, refusal

from data.nouns import MemoryCache
from data.questions.asking import Sampling, ask, noted_failures, reply_key
from data.teachers import BudgetReached, Counted, OpenAITeacher, TeacherFailure, TeacherUnavailable
from raft_errors import BadInput


@pytest.fixture
def endpoint():
    endpoint = Endpoint()
    yield endpoint
    endpoint.close()


def teacher_of(endpoint, **settings):
    settings = {"timeout_seconds": 5.0, "first_wait_seconds": 0.01, "max_wait_seconds": 0.05, "attempts": 2, **settings}
    return OpenAITeacher("tiny", base_url=endpoint.url, **settings)


def said(*texts):
    return [[{"role": "user", "content": text}] for text in texts]


def complete(endpoint, *texts, **settings):
    teacher = teacher_of(endpoint, **settings)
    return teacher.complete(said(*texts), max_tokens=20, temperature=0.0, seed=0)


def text_part(text):
    return {"type": "text", "text": text}


@pytest.mark.parametrize(
    "body",
    [
        completion("It is red."),
        completion("<think>blue?</think>\nIt is red."),
        completion("It is red.", reasoning_content="blue?", reasoning="blue?"),
        completion([text_part("It is red.")]),
        completion([{"type": "thinking", "thinking": [text_part("blue?")]}, text_part("It is red.")]),
        completion([{"type": "reasoning", "text": "blue?"}, {"type": "output_text", "text": "It is red."}]),
        completion([{"type": "redacted_thinking", "data": "x"}, text_part("<think>blue?</think>It is red.")]),
        completion([text_part("<think>blue?"), text_part("</think>It is red.")]),
        completion(["It is ", {"text": "red."}]),
        completion({"type": "text", "text": {"value": "It is red."}}),
        completion([{"type": "message", "content": [text_part("It is red.")]}]),
        {"choices": [{"text": "It is red.", "finish_reason": "stop"}]},
        {**completion("It is red."), "error": None},
    ],
)
def test_every_form_of_a_reply_is_read(endpoint, body):
    endpoint.script = lambda _: (200, body)
    assert complete(endpoint, "a") == ["It is red."]


@pytest.mark.parametrize("finish", ["length", "max_tokens", "MAX_TOKENS", "model_length"])
@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"content": None, "reasoning_content": "First I look"}, "all 20 tokens went into thinking"),
        ({"content": "", "reasoning": "First I look"}, "all 20 tokens went into thinking"),
        ({"content": "<think>First I look"}, "all 20 tokens went into thinking"),
        ({"content": [{"type": "thinking", "thinking": "First"}]}, "all 20 tokens went into thinking"),
        ({"content": ""}, "nothing within 20 tokens"),
    ],
)
def test_a_ceiling_that_empties_a_reply_is_told_from_an_empty_one(endpoint, finish, message, words):
    endpoint.script = lambda _: (200, completion(finish_reason=finish, **message))
    (reply,) = complete(endpoint, "a")
    assert reply.reason == "cut_off"
    assert words in reply.detail
    assert finish.lower() in reply.detail


def test_a_ceiling_is_known_by_its_tokens_where_the_endpoint_does_not_name_it(endpoint):
    endpoint.script = lambda _: (200, completion("", finish_reason=None, usage=(80, 20)))
    assert complete(endpoint, "a")[0].reason == "cut_off"
    endpoint.script = lambda _: (200, completion("", finish_reason="stop", usage=(80, 3)))
    assert complete(endpoint, "a")[0].reason == "empty"


def test_a_reply_that_the_ceiling_cut_is_kept_and_marked(endpoint):
    endpoint.script = lambda _: (200, completion("It is", finish_reason="length"))
    (reply,) = complete(endpoint, "a")
    assert (reply, reply.cut) == ("It is", True)
    cache, sampling = MemoryCache(), Sampling(20)
    for _ in range(2):  # asked, then from the cache
        (kept,) = ask(said("a"), teacher_of(endpoint), version="1", sampling=sampling, cache=cache)
        assert isinstance(kept, Counted)
        assert (kept, kept.cut, kept.prompt_tokens) == ("It is", True, 10)
    assert len(endpoint.bodies) == 2


FILTERED = {
    "Azure's filter": (
        400,
        {
            "error": {
                "message": "The response was filtered due to the prompt triggering our content management policy.",
                "code": "content_filter",
                "status": 400,
                "innererror": {"code": "ResponsibleAIPolicyViolation"},
            }
        },
        "triggering our content management policy",
    ),
    "a router's moderation": (
        403,
        {"error": {"code": 403, "message": "Your input was flagged", "metadata": {"reasons": ["violence"]}}},
        "flagged: violence",
    ),
    "a gateway that gives no code": (403, {"message": "blocked by rule 17"}, "blocked by rule 17"),
    "a guardrail as FastAPI says it": (422, {"detail": "Guardrail tripped: violence"}, "Guardrail tripped"),
    "an error behind a 200": (
        200,
        {"error": {"code": 403, "message": "Input flagged by moderation"}},
        "flagged by moderation",
    ),
    "a filtered reply": (200, completion("It", finish_reason="content_filter"), "content_filter"),
    "Gemini's safety": (200, completion(None, finish_reason="SAFETY"), "safety"),
    "a refusal": (200, completion(None, refusal="I cannot help with that."), "I cannot help with that."),
}


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("case", FILTERED)
def test_a_filter_costs_the_one_prompt_that_it_minds(endpoint, case, place):
    status, body, words = FILTERED[case]
    texts = ["a", "b", "c"]
    texts[place] = "a knife fight"

    def answer(request):
        return (status, body) if "knife" in request["messages"][-1]["content"] else (200, completion("yes"))

    endpoint.script = answer
    replies = complete(endpoint, *texts)
    failure = replies.pop(place)
    assert replies == ["yes", "yes"]
    assert isinstance(failure, TeacherFailure)
    assert not failure.transient
    assert words in failure.detail
    assert failure.reason == ("rejected" if "gateway" in case else "content_filter")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (402, {"error": {"message": "Insufficient Balance", "type": "unknown_error", "code": "invalid_request_error"}}),
        (402, {"error": {"code": 402, "message": "This request requires more credits. Insufficient Balance"}}),
        (429, refusal("Insufficient Balance: check your plan", code="insufficient_quota")),
        (403, {"error": {"code": "AccountOverdueError", "message": "Insufficient Balance"}}),
        (200, {"error": {"code": 402, "message": "Insufficient Balance"}}),
    ],
)
def test_an_account_without_credit_stops_the_run_and_keeps_what_was_answered(endpoint, status, body):
    def answer(request):
        return (status, body) if len(endpoint.bodies) > 3 else (200, completion("yes"))

    endpoint.script, cache = answer, MemoryCache()
    texts = [f"{n}" for n in range(9)]
    with pytest.raises(BudgetReached, match="Insufficient Balance"):
        ask(said(*texts), teacher_of(endpoint, concurrency=1), version="1", sampling=Sampling(20), cache=cache)
    assert len(endpoint.bodies) == 4
    assert len(cache.items) == 3
    endpoint.script = lambda _: (200, completion("yes"))
    assert ask(said(*texts), teacher_of(endpoint), version="1", sampling=Sampling(20), cache=cache) == ["yes"] * 9
    assert len(endpoint.bodies) == 4 + 6


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"code": 502, "message": "the upstream is gone"}},
        {"error": {"type": "overloaded_error", "message": "the upstream is gone"}},
        {"error": "the upstream is gone"},
        {
            "choices": [
                {"message": {"content": ""}, "finish_reason": "error", "error": {"code": 502, "message": "gone"}}
            ]
        },
        {"choices": [], "error": {"message": "the upstream is gone", "type": "rate_limit_exceeded"}},
    ],
)
def test_an_error_behind_a_200_that_may_pass_is_asked_again(endpoint, body):
    endpoint.script = lambda _: (200, body if len(endpoint.bodies) == 1 else completion("yes"))
    assert complete(endpoint, "a") == ["yes"]
    endpoint.script = lambda _: (200, body)
    with pytest.raises(TeacherUnavailable, match="gone"):
        complete(endpoint, "a")


def test_an_error_behind_a_200_that_will_not_pass_stops_as_its_status_would(endpoint):
    endpoint.script = lambda _: (200, {"error": {"message": "No auth credentials found", "code": 401}})
    with pytest.raises(BadInput, match=r"401.*No auth credentials found"):
        complete(endpoint, "a")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "the disk is full"}}, "the disk is full"),
        ({"error": "the disk is full", "error_type": "overloaded"}, "the disk is full"),
        ({"message": "the disk is full"}, "the disk is full"),
        (
            {"object": "error", "message": {"detail": [{"loc": ["body", "n"], "msg": "the disk is full"}]}},
            "n: the disk",
        ),
        ({"detail": [{"loc": ["body", "seed"], "msg": "the disk is full"}]}, "seed: the disk is full"),
        ([{"error": {"code": 500, "message": "the disk is full", "status": "INTERNAL"}}], "the disk is full"),
        (
            {"error": {"message": "Provider failed", "metadata": {"raw": "the disk is full"}}},
            "failed: the disk is full",
        ),
        (b"the disk is full\n", "the disk is full"),
        (b"<!doctype html><html><head><title>the disk is full</title></head></html>", "the disk is full"),
    ],
)
@pytest.mark.parametrize("status", [400, 500])
def test_the_servers_own_words_are_in_the_message(endpoint, status, body, words):
    endpoint.script = lambda _: (status, body)
    kind = TeacherUnavailable if status == 500 else BadInput
    with pytest.raises(kind, match=f"HTTP {status}: .*{words}"):
        complete(endpoint, "a")


def test_a_key_that_the_server_repeats_is_not_shown_and_words_without_end_are_cut(endpoint, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    endpoint.script = lambda _: (
        401,
        refusal("Incorrect key sk-very-secret at https://u:pw@h/x?token=abc " + "x" * 9000),
    )
    with pytest.raises(BadInput) as error:
        complete(endpoint, "a")
    assert "Incorrect key [the key]" in error.value.what
    assert not any(secret in error.value.what for secret in ("very-secret", "pw@", "abc"))
    assert len(error.value.what) < 600


def test_a_sign_in_page_stops_the_run_at_once(endpoint):
    endpoint.script = lambda _: (200, b"<html><head><title>Sign in to Acme</title></head><body>...</body></html>")
    with pytest.raises(BadInput, match="web page: Sign in to Acme"):
        complete(endpoint, *[f"{n}" for n in range(20)])
    assert len(endpoint.bodies) <= 3


def test_failures_are_noted_for_people_and_asked_again_by_the_next_run(endpoint):
    cache, sampling = MemoryCache(), Sampling(20)
    keys = [reply_key(m, version="1", teacher="tiny", sampling=sampling) for m in said("good", "bad")]

    def answer(request):
        bad = request["messages"][-1]["content"] == "bad"
        return (400, refusal("flagged", code="content_filter")) if bad else (200, completion("yes"))

    endpoint.script = answer
    replies = ask(said("good", "bad"), teacher_of(endpoint), version="1", sampling=sampling, cache=cache)
    assert replies[0] == "yes"
    (note,) = noted_failures(keys, cache).values()
    assert (note.reason, "flagged" in note.detail) == ("content_filter", True)
    endpoint.script = lambda _: (200, completion("yes"))
    assert ask(said("bad"), teacher_of(endpoint), version="1", sampling=sampling, cache=cache) == ["yes"]


def test_thinking_that_an_earlier_release_kept_is_taken_out_when_it_is_read():
    from data.teachers import ReplayTeacher

    cache, sampling = MemoryCache(), Sampling(20)
    (key,) = [reply_key(m, version="1", teacher="replay", sampling=sampling) for m in said("a")]
    cache.put_many({key: b"\0" + json.dumps(["<think>no</think>It is red.", 7, 5]).encode()})
    (reply,) = ask(said("a"), ReplayTeacher(), version="1", sampling=sampling, cache=cache)
    assert (reply, reply.prompt_tokens) == ("It is red.", 7)
    loud = ReplayTeacher(default="<think>no</think>It is blue.")  # a teacher of any kind
    assert ask(said("b"), loud, version="1", sampling=sampling, cache=cache) == ["It is blue."]

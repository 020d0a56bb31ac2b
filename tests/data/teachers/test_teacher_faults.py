"""An endpoint that fails in every way costs no question and no second payment."""

import re
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from faulty_endpoint import Endpoint
from made_up import chunk_of

from data.nouns import Hit, MemoryCache
from data.questions import QuestionOptions, generate_questions
from data.teachers import OpenAITeacher
from data.teachers.refusals import retry_after

PASSING = ["429", "500", "503", "sleep", "broken", "drip", "disconnect", "cut"]
LASTING = ["html", "huge", "empty", "400"]
CHUNKS = [chunk_of(f"Tank {n}", f"The valve of tank {n} closes at {n + 20} degrees in the morning.") for n in range(24)]


def written(text: str) -> str:
    """What a capable teacher would say to the prompts of the full style."""
    number = re.search(r"tank (\d+)", text).group(1)
    if "\nQuestion: " not in text:
        return f"At how many degrees does the valve of tank {number} close?"
    sentence = re.search(r"The valve of tank .* degrees", text).group()
    return f"<quote>{sentence}</quote>\nIt is said.\nAnswer: {sentence.split(' at ')[1]}"


def search(queries, k):
    own = [int(re.search(r"tank (\d+)", query).group(1)) for query in queries]
    return [[Hit(CHUNKS[n].id, 1.0, 1)] for n in own]


@pytest.fixture
def endpoint():
    endpoint = Endpoint(written)
    yield endpoint
    endpoint.close()


def generate(endpoint, cache):
    teacher = OpenAITeacher(
        "tiny", base_url=endpoint.url, timeout_seconds=2.0, first_wait_seconds=0.01, max_wait_seconds=0.05,
        concurrency=8, max_reply_bytes=100_000,
    )  # fmt: skip
    made = generate_questions(CHUNKS, teacher, search, options=QuestionOptions(), cache=cache)
    assert made.counts["asked"] == len(made.questions) + len(made.dropped) == len(CHUNKS)
    return made


@pytest.mark.slow
def test_faults_that_pass_lose_no_question_and_pay_for_none_twice(endpoint):
    undisturbed = generate(endpoint, MemoryCache())
    prompts = list(endpoint.answered)
    assert len(undisturbed.questions) == len(CHUNKS)
    endpoint.answered.clear()
    endpoint.faults = {text: [PASSING[n % len(PASSING)]] for n, text in enumerate(prompts)}
    assert generate(endpoint, MemoryCache()) == undisturbed
    assert set(endpoint.answered.values()) == {1}
    assert not any(endpoint.faults.values())


@pytest.mark.slow
def test_an_item_that_gets_junk_is_dropped_alone_and_asked_again_by_the_next_run(endpoint):
    undisturbed = generate(endpoint, MemoryCache())
    prompts = list(endpoint.answered)
    endpoint.answered.clear()
    hit = {text: LASTING[n % len(LASTING)] for n, text in enumerate(prompts[::6])}
    endpoint.faults = {text: [fault] for text, fault in hit.items()}
    cache = MemoryCache()
    first = generate(endpoint, cache)
    assert 0 < first.counts["dropped"]["teacher_failed"] <= len(hit)
    endpoint.faults = {}  # of answers whose question was lost
    second = generate(endpoint, cache)
    assert second.dropped == []
    assert second.questions == undisturbed.questions
    twice = {text for text, count in endpoint.answered.items() if count > 1}
    assert twice <= {text for text, fault in hit.items() if fault == "empty"}  # paid for, and nothing was in it


def test_a_date_to_retry_after_is_waited_for():
    in_a_minute = datetime.now(UTC) + timedelta(seconds=60)
    for written in (format_datetime(in_a_minute, usegmt=True), in_a_minute.strftime("%A, %d-%b-%y %H:%M:%S GMT")):
        seconds = retry_after({"retry-after": written})
        assert seconds is not None
        assert 30 < seconds <= 60
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({"retry-after": f"Wed, 21 Oct {9**30} 07:28:00 GMT"}) is None
    assert retry_after({"retry-after-ms": "1500", "retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 1.5
    assert retry_after({}) is None

"""The openai client tries again when that helps, and not when it cannot."""

import concurrent.futures
import threading
import time

import openai
import pytest
from tiny_server import until

QUESTION = [{"role": "user", "content": "When are keys rotated?"}]


@pytest.fixture
def patient(served):
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=2, timeout=600)


@pytest.mark.slow
def test_a_full_queue_is_waited_for_as_long_as_it_says_and_all_are_answered(served, patient, monkeypatch):
    free, counts, plan = threading.Event(), served.server.counts, served.server.gateway.plan
    monkeypatch.setattr(served.server.gateway, "plan", lambda *a, **k: free.wait(60) and plan(*a, **k))
    monkeypatch.setattr(served.server.limits, "queue", 3)
    received, refused = counts.received, counts.refused

    def ask(number):
        began = time.monotonic()
        answer = patient.chat.completions.create(model="faq", messages=QUESTION, max_tokens=2 + number % 2)
        return answer.choices[0].finish_reason, time.monotonic() - began

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        try:
            first = [pool.submit(ask, number) for number in range(3)]
            until(lambda: served.server.searching == 3)
            late = [pool.submit(ask, number) for number in range(3)]
            until(lambda: counts.refused == refused + 3)
        finally:
            free.set()
        answers = [one.result() for one in (*first, *late)]
    assert {reason for reason, _ in answers} <= {"length", "stop"}
    assert min(seconds for _, seconds in answers[3:]) >= 2, "Retry-After was 2 seconds"
    assert counts.received == received + 9, "each of the late ones tried twice"
    assert counts.under_way == 0


def test_a_broken_adapter_is_tried_once(served, patient):
    received = served.server.counts.received
    with pytest.raises(openai.BadRequestError) as error:
        patient.chat.completions.create(model="faq@3", messages=QUESTION)
    assert (error.value.code, error.value.param) == ("adapter_broken", "model")
    assert error.value.response.headers["x-should-retry"] == "false"
    assert served.server.counts.received == received + 1

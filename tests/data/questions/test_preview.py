"""A few questions asked for real tell what a whole run will need, and are not paid for again."""

import random

import pytest
from faulty_endpoint import Endpoint, completion
from tanks import CHUNKS, asked, number_of, search, written

from data.nouns import MemoryCache
from data.questions import QuestionOptions, generate_questions
from data.questions.estimate import Call, Sampled, estimate
from data.questions.preview import preview_questions
from data.teachers import OpenAITeacher, Price, ReplayTeacher

PRICE = Price(prompt=1.0, completion=4.0)


@pytest.fixture
def endpoint():
    endpoint = Endpoint(written)
    yield endpoint
    endpoint.close()


def preview(endpoint, cache, *, teacher=None, **more):
    teacher = teacher or OpenAITeacher("tiny", base_url=endpoint.url, attempts=2, price=PRICE)
    settings = {"count": 5, "options": QuestionOptions(), "cache": cache, "price": PRICE, "at_once": 2, **more}
    return preview_questions(CHUNKS, teacher, search, **settings), teacher


@pytest.mark.slow
def test_five_are_asked_and_no_more_and_neither_a_second_look_nor_the_run_pays_for_them(endpoint):
    cache = MemoryCache()
    first, teacher = preview(endpoint, cache)
    assert len(first.traces) == 5
    assert endpoint.answered.total() == 10  # a question and an answer each
    assert (first.planned, first.answered) == (12, 5)
    assert teacher.usage.cost == pytest.approx(10 * (10 + 4 * 5) / 1e6)
    second, _ = preview(endpoint, cache)
    assert endpoint.answered.total() == 10
    assert [t.verdict for t in second.traces] == [t.verdict for t in first.traces]
    assert second.estimate.seconds is None, "nothing was asked, so nothing took time"
    assert second.estimate.cost == first.estimate.cost
    generate_questions(
        CHUNKS, OpenAITeacher("tiny", base_url=endpoint.url), search, options=QuestionOptions(), cache=cache
    )
    assert set(endpoint.answered.values()) == {1}
    third, _ = preview(endpoint, cache)
    assert (third.answered, third.estimate) == (12, None)


@pytest.mark.slow
def test_a_preview_shows_prompt_reply_and_verdict(endpoint):
    def answer(body):
        said = written(asked(body))
        return 200, completion("No question comes to mind." if number_of(asked(body)) % 2 else said)

    endpoint.script = answer
    few, _ = preview(endpoint, MemoryCache(), count=12)
    for trace in few.traces:
        row, odd = trace.to_dict(), number_of(trace.chunk.text) % 2 == 1
        assert trace.chunk.text in row["exchanges"][0]["messages"][-1]["content"]
        assert row["kept"] is not odd
        assert row.get("reason") == ("not_a_question" if odd else None)
        assert [e["what"] for e in row["exchanges"]] == (["question"] if odd else ["question", "answer"])


@pytest.mark.slow
def test_the_estimate_holds_the_true_figures_of_the_run(endpoint):
    def answer(body):
        text = asked(body)
        return 200, completion(written(text), usage=(len(text) // 4, 20 + number_of(text)))

    endpoint.script, cache = answer, MemoryCache()
    few, _ = preview(endpoint, cache)
    teacher = OpenAITeacher("tiny", base_url=endpoint.url, price=PRICE)
    generate_questions(CHUNKS, teacher, search, options=QuestionOptions(), cache=cache)
    told, used = few.estimate, teacher.usage
    for span, true in (
        (told.calls, used.requests),
        (told.prompt_tokens, used.prompt_tokens),
        (told.completion_tokens, used.completion_tokens),
        (told.cost, used.cost),
    ):
        assert span.low <= true <= span.high
        assert span.middle == pytest.approx(true, rel=0.2)


def test_what_a_teacher_does_not_say_is_unknown_and_not_nought(endpoint):
    silent = ReplayTeacher(default=lambda messages: written(messages[-1]["content"]), name="local")
    few, _ = preview(endpoint, MemoryCache(), teacher=silent)
    assert (few.estimate.prompt_tokens, few.estimate.completion_tokens, few.estimate.cost) == (None, None, None)
    assert few.estimate.calls.middle == 14
    unpriced, _ = preview(endpoint, MemoryCache(), price=None)
    assert unpriced.estimate.cost is None
    assert unpriced.estimate.prompt_tokens.middle == pytest.approx(140, rel=0.2)


def test_time_follows_from_the_calls_and_never_beats_the_rate():
    sample = [Sampled(Call(100, 25, 10, 2.0)) for _ in range(5)]
    left = [100] * 60
    told = estimate(sample, left, answers=False, at_once=6)
    assert told.seconds == pytest.approx((20.0, 20.0, 20.0), rel=0.03)
    slow = estimate(sample, left, answers=False, at_once=6, per_minute=30)
    assert slow.seconds == pytest.approx((120.0, 120.0, 120.0))


@pytest.mark.parametrize("count", [3, 5, 20])
@pytest.mark.slow
def test_the_cost_lies_within_the_interval_in_nine_runs_of_ten(count):
    """Teachers that differ in how long they write, how much that varies, and how much of it is kept."""
    hits, runs = 0, 300
    for seed in range(runs):
        rng = random.Random(seed)
        kept, spread = rng.uniform(0.2, 1), rng.choice([0, 0.2, 0.5, 0.8, 1.1])
        short, long, ratio = rng.uniform(10, 800), rng.uniform(30, 2000), rng.uniform(0.2, 0.5)

        def call(size, mean, rng=rng, spread=spread, ratio=ratio):
            tokens = int(size * ratio * rng.uniform(0.9, 1.1))
            return Call(size, tokens, max(1, int(mean * rng.lognormvariate(0, spread))))

        def question(rng=rng, kept=kept, short=short, long=long, call=call):
            size = rng.randint(400, 3000)
            return Sampled(call(size, short), call(size + 100, long) if rng.random() < kept else None)

        every = [question() for _ in range(300)]
        rest = every[count:]
        calls = [c for one in rest for c in (one.question, one.answer) if c]
        true = sum(c.prompt_tokens * PRICE.prompt + c.completion_tokens * PRICE.completion for c in calls) / 1e6
        told = estimate(every[:count], [one.question.prompt_bytes for one in rest], answers=True, price=PRICE)
        hits += told.cost.low <= true <= told.cost.high
    assert hits >= 0.9 * runs

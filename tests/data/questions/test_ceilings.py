"""A ceiling of tokens that empties or cuts replies is named, with its setting; a filter costs one chunk."""

import pytest
from faulty_endpoint import Endpoint, completion, refusal
from tanks import CHUNKS, asked, number_of, search, written

from data.nouns import MemoryCache
from data.questions import QuestionOptions, generate_questions
from data.questions.asking import Unasked
from data.teachers import CeilingReached, OpenAITeacher
from raft_errors import BadInput


@pytest.fixture
def endpoint():
    endpoint = Endpoint(written)
    yield endpoint
    endpoint.close()


def generate(endpoint, cache=None, teacher=None, **options):
    teacher = teacher or OpenAITeacher("tiny", base_url=endpoint.url, first_wait_seconds=0.01, attempts=2)
    cache = cache if cache is not None else MemoryCache()
    outcome = generate_questions(
        CHUNKS, teacher, search, options=QuestionOptions(**options), cache=cache, traced=True
    )  # fmt: skip
    assert outcome.counts["asked"] == len(outcome.questions) + len(outcome.dropped) == len(CHUNKS)
    return outcome


def thinker(needs):
    """A model that thinks for as many tokens as `needs(prompt)` says before it writes."""

    def answer(body):
        if body["max_tokens"] < needs(asked(body)):
            return 200, completion(None, "length", (80, body["max_tokens"]), reasoning_content="First I look")
        return 200, completion(f"<think>First I look</think>{written(asked(body))}")

    return answer


@pytest.mark.slow
def test_thinking_that_uses_up_every_question_stops_the_run_and_names_the_setting(endpoint):
    endpoint.script = thinker(lambda text: 1500)
    with pytest.raises(CeilingReached, match=r"96 tokens went into thinking.*'length'") as error:
        generate(endpoint)
    assert "questions.question_tokens" in error.value.do
    assert len(endpoint.bodies) == len(CHUNKS)  # one batch
    with pytest.raises(CeilingReached, match="800 tokens"):
        generate(endpoint, question_tokens=800)
    assert len(generate(endpoint, question_tokens=1500, answer_tokens=1500).questions) == len(CHUNKS)


@pytest.mark.slow
def test_thinking_that_uses_up_every_answer_names_the_other_setting(endpoint):
    endpoint.script = thinker(lambda text: 600 if "\nQuestion: " in text else 0)
    with pytest.raises(CeilingReached, match="512 tokens") as error:
        generate(endpoint)
    assert "questions.answer_tokens" in error.value.do


@pytest.mark.slow
def test_answers_that_are_all_cut_stop_the_run_and_one_alone_does_not(endpoint):
    def answer(body):
        text, ceiling = written(asked(body)), body["max_tokens"]
        cut = "\nQuestion: " in asked(body) and ceiling < 600
        return 200, completion(text[:40], "length") if cut else completion(text)

    endpoint.script, cache = answer, MemoryCache()
    with pytest.raises(CeilingReached, match="cut off at 512 tokens") as error:
        generate(endpoint, cache)
    assert "questions.answer_tokens" in error.value.do
    requests = len(endpoint.bodies)
    assert generate(endpoint, cache).counts["dropped"] == {"cut_off": len(CHUNKS)}
    assert len(endpoint.bodies) == requests, "what was paid for is not asked again in the same way"
    assert len(generate(endpoint, cache, answer_tokens=600).questions) == len(CHUNKS)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (completion(None, reasoning_content="It is red."), "nothing but thinking"),
        (completion(""), "no text"),
    ],
)
@pytest.mark.slow
def test_a_teacher_that_says_nothing_at_all_stops_the_run_after_a_batch(endpoint, body, words):
    endpoint.script = lambda _: (200, body)
    with pytest.raises(BadInput, match=f"no answer to any of 12 prompts: empty, {words}"):
        generate(endpoint)


def test_a_single_reply_that_is_used_up_is_dropped_with_its_own_reason(endpoint):
    endpoint.script = thinker(lambda text: 1500 if number_of(text) == 0 else 0)
    outcome = generate(endpoint)
    assert outcome.counts["dropped"] == {"cut_off": 1}
    assert "96 tokens" in outcome.dropped[0].detail
    assert len(outcome.questions) == len(CHUNKS) - 1


def test_a_reply_that_the_ceiling_cut_says_so_where_it_fails_and_is_taken_where_it_does_not(endpoint):
    def answer(body):
        text = written(asked(body))
        if number_of(asked(body)) == 3:  # the question is whole, and more was to follow
            return 200, completion(text + "\nThis asks for", "length")
        cut = number_of(asked(body)) == 4 and "\nQuestion: " in asked(body)
        return 200, completion(text[:60], "length") if cut else completion(text)

    endpoint.script = answer
    outcome = generate(endpoint)
    assert outcome.counts["dropped"] == {"cut_off": 1}
    (dropped,) = outcome.dropped
    assert dropped.chunk_id == CHUNKS[4].id
    assert dropped.detail == "cut off at 512 tokens (questions.answer_tokens): no_final_answer"
    assert CHUNKS[3].id in {q.gold_chunk_ids[0] for q in outcome.questions}


@pytest.mark.parametrize("status", [400, 403])
def test_a_filter_drops_its_chunk_with_its_reason_and_the_rest_goes_on(endpoint, status):
    def answer(body):
        if number_of(asked(body)) == 7:
            return status, refusal("The prompt triggered our content policy", code="content_filter")
        return 200, completion(written(asked(body)))

    endpoint.script = answer
    outcome = generate(endpoint)
    assert [(d.chunk_id, d.reason) for d in outcome.dropped] == [(CHUNKS[7].id, "content_filter")]
    assert "triggered our content policy" in outcome.dropped[0].detail


def test_what_was_said_can_be_gone_through_again_without_asking(endpoint):
    def answer(body):
        text = asked(body)
        if number_of(text) == 7:
            return 403, refusal("The prompt was flagged by moderation")
        if number_of(text) == 8 and "\nQuestion: " in text:
            return 200, completion("I would rather not say.")
        if number_of(text) == 9 and "\nQuestion: " in text:
            return 200, completion("<think>First I look", "length")
        return 200, completion(written(text))

    endpoint.script, cache = answer, MemoryCache()
    before = generate(endpoint, cache)
    requests = len(endpoint.bodies)
    again = generate(endpoint, cache, Unasked("tiny", takes_shape=True))
    assert len(endpoint.bodies) == requests
    assert (again.questions, again.dropped) == (before.questions, before.dropped)
    assert {d.reason for d in again.dropped} == {"content_filter", "no_final_answer", "cut_off"}
    (trace,) = [t for t in again.traces if t.chunk.id == CHUNKS[8].id]
    assert [(e.what, str(e.reply)) for e in trace.exchanges] == [
        ("question", "At how many degrees does the valve of tank 8 close?"),
        ("answer", "I would rather not say."),
    ]
    assert "Question: At how many degrees" in trace.exchanges[1].messages[-1]["content"]


def test_a_stopped_run_can_be_gone_through_as_far_as_it_came(endpoint):
    endpoint.script, cache = thinker(lambda text: 1500), MemoryCache()
    with pytest.raises(CeilingReached):
        generate(endpoint, cache)
    looked = generate(endpoint, cache, Unasked("tiny", takes_shape=True))
    assert looked.counts["dropped"] == {"cut_off": len(CHUNKS)}
    fresh = generate(endpoint, MemoryCache(), Unasked("tiny", takes_shape=True))
    assert fresh.counts["dropped"] == {"not_asked": len(CHUNKS)}


def test_a_model_that_refuses_all_prompts_alike_stops_the_run_in_its_words(endpoint):
    def answer(body):
        trial = number_of(asked(body)) < 0
        return (200, completion("ready")) if trial else (400, refusal("The passage may hold no digits: 20"))

    endpoint.script = answer
    with pytest.raises(BadInput, match=r"no answer to any of 12 prompts: rejected, .*may hold no digits"):
        generate(endpoint)

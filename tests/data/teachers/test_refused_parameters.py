"""An endpoint that does not take a parameter is asked without it, from then on, and the rest is sent as before."""

import pytest
from faulty_endpoint import Endpoint, completion, refusal

from data.teachers import OpenAITeacher, Shape
from raft_errors import BadInput

SHAPE = Shape("answer", {"type": "object"})


@pytest.fixture
def endpoint():
    endpoint = Endpoint()
    yield endpoint
    endpoint.close()


def teacher_of(endpoint, **settings):
    settings = {"timeout_seconds": 5.0, "first_wait_seconds": 0.01, "max_wait_seconds": 0.05, "attempts": 2, **settings}
    return OpenAITeacher("tiny", base_url=endpoint.url, **settings)


def complete(teacher, *texts, **more):
    prompts = [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}] for text in texts]
    return teacher.complete(prompts, **{"max_tokens": 20, "temperature": 0.0, "seed": 3, **more})


def refusing(minds, status, body):
    """An endpoint that answers so to every request that it minds."""
    return lambda request: (status, body) if minds(request) else (200, completion("yes"))


REFUSALS = {
    "max_tokens, as OpenAI says it": (
        "max_tokens",
        400,
        refusal(
            "Unsupported parameter: 'max_tokens' is not supported here. Use 'max_completion_tokens' instead.",
            param="max_tokens",
            code="unsupported_parameter",
        ),
    ),
    "temperature, as OpenAI says it": (
        "temperature",
        400,
        refusal("Unsupported value: 'temperature' does not support 0.0 with this model.", param="temperature"),
    ),
    "temperature, as TGI says it": (
        "temperature",
        422,
        {"error": "Input validation error: `temperature` must be strictly positive", "error_type": "validation"},
    ),
    "seed, as Mistral says it": (
        "seed",
        422,
        {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]},
    ),
    "seed, as Azure says it": ("seed", 400, refusal("Unrecognized request argument supplied: seed")),
    "seed, as a Go server says it": ("seed", 400, {"message": 'json: unknown field "seed"'}),
    "seed among what is known": (
        "seed",
        400,
        refusal("Unknown argument 'seed', expected one of: model, messages, max_tokens, temperature, stop"),
    ),
    "seed behind a 200": ("seed", 200, refusal("Unsupported parameter: seed")),
    "seed with a 500": ("seed", 500, refusal("seed is not supported by this backend")),
    "seed without a word of it": ("seed", 400, {"error": {"message": "bad request"}}),
    "temperature without a body": ("temperature", 422, b""),
    "max_tokens without a word of it": ("max_tokens", 400, refusal("invalid argument")),
    "response_format by another name": ("response_format", 400, refusal("structured outputs are not enabled here")),
    "response_format without a word of it": ("response_format", 415, b"no"),
    "stop": ("stop", 400, refusal("Argument not supported on this model: stop")),
}


@pytest.mark.parametrize("case", REFUSALS)
@pytest.mark.slow
def test_what_is_refused_is_left_out_for_the_rest_of_the_run_and_nothing_else(endpoint, case, caplog):
    name, status, body = REFUSALS[case]
    endpoint.script = refusing(lambda request: name in request, status, body)
    teacher = teacher_of(endpoint)
    texts = [f"{n}" for n in range(10)]
    assert complete(teacher, *texts, shape=SHAPE, stop=["\n"]) == ["yes"] * 10
    learning = len(endpoint.bodies) - 10
    assert 1 <= learning <= 5
    assert "without a word" in case or "without a body" in case or learning == 1
    assert complete(teacher, "more", shape=SHAPE, stop=["\n"]) == ["yes"]
    assert len(endpoint.bodies) == 11 + learning
    last = endpoint.bodies[-1]
    assert name not in last
    assert last.get("max_completion_tokens") == (20 if name == "max_tokens" else None)
    if learning == 1:
        sent = {"response_format", "seed", "temperature", "max_tokens", "stop", "messages", "model"}
        assert last.keys() - {"max_completion_tokens"} == sent - {name}
    assert f"takes no {name}" in caplog.text


@pytest.mark.slow
def test_several_are_learnt_one_after_the_other(endpoint):
    def answer(request):
        for name in ("max_tokens", "temperature", "seed"):
            if name in request:
                return 400, refusal(f"Unsupported parameter: {name}", param=name)
        return 200, completion("yes")

    endpoint.script = answer
    assert complete(teacher_of(endpoint), *[f"{n}" for n in range(10)]) == ["yes"] * 10
    assert len(endpoint.bodies) == 13
    assert "seed" not in endpoint.bodies[-1]


@pytest.mark.parametrize(
    "words",
    [
        "System role not supported",
        "Conversation roles must alternate user/assistant/user/assistant/...",
        "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
        "Developer instruction is not enabled for models/gemma-3-27b-it",
    ],
)
def test_a_model_without_a_system_role_is_told_the_same_in_the_users_message(endpoint, words):
    endpoint.script = refusing(lambda request: request["messages"][0]["role"] == "system", 400, refusal(words))
    assert complete(teacher_of(endpoint), "a", "b") == ["yes", "yes"]
    assert endpoint.bodies[-1]["messages"] == [{"role": "user", "content": "Be brief.\n\nb"}]
    assert endpoint.bodies[-1]["max_tokens"] == 20
    assert len(endpoint.bodies) == 3


def test_a_stop_text_is_looked_for_here_where_the_endpoint_does_not(endpoint):
    endpoint.script = lambda request: (400, refusal("stop is not supported")) if "stop" in request else (
        200, completion("\nWhat is red?\nWhat is blue?"),
    )  # fmt: skip
    assert complete(teacher_of(endpoint), "a", stop=["\n"]) == ["What is red?"]


def test_a_stop_text_that_ends_the_thinking_is_not_sent_again(endpoint):
    def answer(request):
        stopped = "stop" in request
        return 200, completion("<think>" if stopped else "<think>\nred?\n</think>\n\nWhat is red?\nOr blue?")

    endpoint.script = answer
    assert complete(teacher_of(endpoint), "a", "b", stop=["\n"]) == ["What is red?"] * 2
    assert ["stop" in body for body in endpoint.bodies] == [True, False, False]


def test_a_prompt_that_is_refused_in_any_form_teaches_nothing(endpoint):
    def answer(request):
        bad = "long" in request["messages"][-1]["content"]
        return (400, refusal("invalid request")) if bad else (200, completion("yes"))

    endpoint.script = answer
    teacher = teacher_of(endpoint, concurrency=1)
    replies = complete(teacher, "long 1", "a", "long 2", "b")
    assert [replies[1], replies[3]] == ["yes", "yes"]
    assert {replies[0].reason, replies[2].reason} == {"rejected"}
    assert {"seed", "temperature", "max_tokens"} <= endpoint.bodies[-1].keys()
    asked = [body["messages"][-1]["content"] for body in endpoint.bodies]
    assert asked.count("long 2") == 1


def test_a_prompt_that_is_too_long_is_not_asked_in_other_words(endpoint):
    words = "'max_tokens' is too large: 20. This model's maximum context length is 64 tokens"
    endpoint.script = refusing(lambda r: "long" in r["messages"][-1]["content"], 400, refusal(words))
    replies = complete(teacher_of(endpoint), "a", "long", "b")
    assert [replies[0], replies[2]] == ["yes", "yes"]
    assert words in replies[1].detail
    assert len(endpoint.bodies) == 3


def test_what_cannot_be_left_out_stops_the_run_at_once_in_the_endpoints_words(endpoint):
    endpoint.script = lambda _: (400, refusal("Invalid model: tiny is retired"))
    with pytest.raises(BadInput, match="Invalid model: tiny is retired"):
        complete(teacher_of(endpoint), *[f"{n}" for n in range(20)])
    assert len(endpoint.bodies) <= 8


def test_one_request_is_sent_before_all_others_and_one_costs_a_wrong_key(endpoint):
    endpoint.script = lambda _: (401, refusal("Incorrect API key provided"))
    with pytest.raises(BadInput, match="Incorrect API key provided"):
        complete(teacher_of(endpoint, concurrency=16), *[f"{n}" for n in range(40)])
    assert len(endpoint.bodies) == 1


def test_the_trial_learns_whether_an_endpoint_can_be_used(endpoint, monkeypatch):
    settings = {"max_tokens": 20, "temperature": 0.0, "seed": 3}
    teacher = teacher_of(endpoint)
    endpoint.script = refusing(lambda request: "seed" in request, 400, refusal("seed: unknown"))
    teacher.try_out(**settings)
    assert len(endpoint.bodies) == 2
    assert complete(teacher, "a") == ["yes"]
    assert "seed" not in endpoint.bodies[-1]
    assert (teacher.usage.replies, teacher.usage.failures) == (1, 0)
    endpoint.script = lambda _: (200, completion(None, finish_reason="length"))  # a model that thinks is no fault
    teacher_of(endpoint).try_out(**settings)
    for status, words in ((401, "no such key"), (403, "no such key"), (404, "no such model"), (400, "no such model")):
        answer = status, refusal(words)
        endpoint.script = lambda _, answer=answer: answer
        with pytest.raises(BadInput, match=words):
            teacher_of(endpoint).try_out(**settings)


def test_a_fault_that_passes_while_a_parameter_is_learnt_does_not_stop_the_learning(endpoint):
    def answer(request):
        if "seed" in request:
            return 400, refusal("Unsupported parameter: seed")
        return (503, refusal("busy")) if len(endpoint.bodies) < 4 else (200, completion("yes"))

    endpoint.script = answer
    replies = complete(teacher_of(endpoint, concurrency=1), "a", "b", "c")
    assert replies[1:] == ["yes", "yes"]
    assert "seed" not in endpoint.bodies[-1]

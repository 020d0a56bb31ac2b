"""Fields of a request are of the kind that JSON has for them; nothing is read as another kind."""

import typing

import pytest
from pydantic import BaseModel

from serving import asking, feedback, schema
from serving.errors import ApiError

WRONG = {
    int: [True, False, "1", 1.5, [1], {}],
    float: [True, False, "0.5", [0.5], {}],
    bool: [1, 0, 1.0, "yes", "true", "", []],
    str: [1, True, ["a", 1], {}],
}
TURN = {"role": "user", "content": "?"}
LEAST = {
    schema.StreamOptions: {},
    schema.Message: TURN,
    schema.Item: TURN,
    schema.ChatRequest: {"model": "faq", "messages": [TURN]},
    schema.CompletionRequest: {"model": "faq", "prompt": "?"},
    schema.ResponsesRequest: {"model": "faq", "input": "?"},
    schema.EmbeddingsRequest: {"model": "faq", "input": "?"},
    feedback.FeedbackRequest: {"model": "faq", "question": "?", "answer": "!", "verdict": "up"},
    asking.Asking: {
        "domain": "faq",
        "index": "",
        "adapter": None,
        "contract": {},
        "chat": {},
        "names": ["base"],
        "question": "?",
        "max_tokens": 9,
    },
}


def kinds(annotation) -> set[type]:
    """The plain kinds that an annotation takes, those in lists aside."""
    if typing.get_origin(annotation) is typing.Annotated:
        return kinds(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) is typing.Literal:
        return {type(value) for value in typing.get_args(annotation)}
    if typing.get_origin(annotation) in (list, dict):
        return set()
    return {annotation}.union(*map(kinds, typing.get_args(annotation))) & WRONG.keys()


def cases():
    for kind, body in LEAST.items():
        for name, field in kind.model_fields.items():
            takes = kinds(field.annotation)
            for expected in takes:
                wrong = [value for value in WRONG[expected] if type(value) not in takes]
                yield pytest.param(kind, body, name, wrong, id=f"{kind.__name__}.{name}")


def test_every_body_is_looked_at():
    bodies = {
        value
        for module in (schema, asking, feedback)
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, BaseModel)
    }
    assert bodies - {BaseModel, schema.Fields, schema.TextRequest, feedback.Feedback, feedback.Shown} == set(LEAST)


@pytest.mark.parametrize(("kind", "body", "name", "values"), cases())
def test_no_value_is_taken_for_one_of_another_kind(kind, body, name, values):
    assert schema.read(kind, body)
    for value in values:
        if name == "content" and isinstance(value, list):  # parts of a text
            continue
        with pytest.raises(ApiError) as refusal:
            schema.read(kind, {**body, name: value})
        assert (refusal.value.status, refusal.value.param) == (400, name), value


@pytest.mark.parametrize("kind", [kind for kind in LEAST if kind is not asking.Asking], ids=lambda kind: kind.__name__)
def test_null_is_as_nothing_wherever_a_field_may_be_left_out(kind):
    for name, field in kind.model_fields.items():
        if not field.is_required():
            without = {other: value for other, value in LEAST[kind].items() if other != name}
            assert schema.read(kind, {**without, name: None}) == schema.read(kind, without), name


def test_log_probabilities_that_an_api_has_another_place_for_are_refused():
    with pytest.raises(ApiError) as refusal:
        schema.read(schema.ResponsesRequest, {"model": "m", "input": "?", "include": ["message.output_text.logprobs"]})
    assert refusal.value.param == "include"
    assert schema.read(
        schema.ResponsesRequest, {"model": "m", "input": "?", "include": ["reasoning.encrypted_content"]}
    )


def test_a_whole_number_may_be_written_with_a_point():
    asked = schema.read(schema.ChatRequest, {**LEAST[schema.ChatRequest], "max_tokens": 100.0, "temperature": 1})
    assert (asked.max_tokens, asked.temperature) == (100, 1.0)
    with pytest.raises(ApiError, match="temperature"):
        schema.read(schema.ChatRequest, {**LEAST[schema.ChatRequest], "temperature": 10**400})


@pytest.mark.parametrize("name", ["presence_penalty", "repetition_penalty", "min_p", "best_of", "min_tokens"])
@pytest.mark.parametrize("value", [True, False, "1"])
def test_what_changes_nothing_is_a_number_too(name, value):
    with pytest.raises(ApiError) as refusal:
        schema.read(schema.ChatRequest, {**LEAST[schema.ChatRequest], name: value})
    assert refusal.value.param == name

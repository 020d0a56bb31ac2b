"""`/v1/responses`: the same answers in the shape of OpenAI's newer API, as its client and LangChain read it."""

import itertools
import json

import openai
import pytest
from openai.types.responses import Response, ResponseErrorEvent, ResponseStreamEvent
from pydantic import TypeAdapter

QUESTION = "When are keys rotated?"
EVENTS = TypeAdapter(ResponseStreamEvent)


def respond(http, model="faq", **options):
    body = {"model": model, "input": QUESTION, "max_output_tokens": 6, "ignore_eos": True, **options}
    return http.post("/v1/responses", json=body)


def chat(http, messages, model="faq"):
    body = {"model": model, "messages": messages, "max_tokens": 6, "ignore_eos": True, "temperature": 0}
    return http.post("/v1/chat/completions", json=body).json()


@pytest.mark.slow
def test_an_answer_is_that_of_a_chat_and_openai_reads_it(client, http):
    one = client.responses.create(
        model="faq",
        input=QUESTION,
        max_output_tokens=6,
        extra_body={"ignore_eos": True},
        store=True,
        metadata={"a": "b"},
    )
    same = chat(http, [{"role": "user", "content": QUESTION}])
    assert one.output_text == same["choices"][0]["message"]["content"]
    assert (one.model, one.status, one.incomplete_details.reason) == ("faq@2", "incomplete", "max_output_tokens")
    assert one.usage.input_tokens == same["usage"]["prompt_tokens"]
    assert one.usage.total_tokens == one.usage.input_tokens + 6
    assert Response.model_validate(one.model_dump(), strict=False)
    assert not one.store, "nothing is kept"
    Response.__pydantic_validator__.validate_python(respond(http).json())


@pytest.mark.slow
def test_instructions_and_items_are_messages(http):
    parts = [{"type": "input_text", "text": "When are keys"}, {"type": "input_text", "text": "rotated?"}]
    items = [
        {"role": "user", "content": "Hi"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello"}]},
        {"role": "user", "content": parts},
    ]
    one = respond(http, "base", input=items, instructions="Be short.", temperature=0).json()
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "When are keys\nrotated?"},
    ]
    same = chat(http, messages, "base")
    assert one["usage"]["input_tokens"] == same["usage"]["prompt_tokens"]
    assert one["output"][0]["content"][0]["text"] == same["choices"][0]["message"]["content"]
    asked = respond(http, input=items, instructions="Be rude.")
    assert asked.headers["x-raft-ignored"] == "system, history"


def stream(http, **options):
    reply = respond(http, stream=True, **options)
    lines = reply.text.splitlines()
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    values = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert names == [value["type"] for value in values]
    return values


@pytest.mark.slow
@pytest.mark.parametrize("model", ["faq", "base"])
def test_a_stream_is_the_same_answer_event_by_event(http, client, model):
    whole = respond(http, model, temperature=0).json()
    values = stream(http, model=model, temperature=0)
    parsed = [EVENTS.validate_python(value) for value in values]
    assert [event.sequence_number for event in parsed] == list(range(len(parsed)))
    kinds = [kind for kind, _ in itertools.groupby(event.type.removeprefix("response.") for event in parsed)]
    text = whole["output"][0]["content"][0]["text"]
    assert kinds == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        *(["output_text.delta"] if text else []),
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "incomplete",
    ]
    assert "".join(event.delta for event in parsed if event.type == "response.output_text.delta") == text
    last = parsed[-1].response
    assert (last.output_text, last.usage.output_tokens) == (text, whole["usage"]["output_tokens"])
    own = client.responses.create(
        model=model, input=QUESTION, max_output_tokens=6, temperature=0, stream=True, extra_body={"ignore_eos": True}
    )
    assert [event.type for event in own][-1] == "response.incomplete"


def test_an_error_in_mid_stream_is_an_event_by_which_the_client_raises(served, http, client, monkeypatch):
    assert respond(http, max_output_tokens=300).status_code == 200  # so that the time runs out after the first event
    monkeypatch.setattr(served.server.limits, "deadline_seconds", 0.0)
    *_, last = stream(http, max_output_tokens=300)
    assert ResponseErrorEvent.model_validate(last).code == "timeout"
    with pytest.raises(openai.APIError) as error:
        list(client.responses.create(model="faq", input=QUESTION, max_output_tokens=300, stream=True))
    assert error.value.code == "timeout"
    assert served.idle()


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"text": {"format": {"type": "json_object"}}}, "text"),
        ({"input": []}, "input"),
        ({"input": [{"type": "function_call_output", "call_id": "1", "output": "x"}]}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:"}]}]}, "input"),
        ({"input": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}, "input"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 10_000}, "input"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(http, values, param):
    reply = respond(http, **values)
    assert (reply.status_code, reply.json()["error"]["param"].split(".")[0]) == (400, param), reply.text

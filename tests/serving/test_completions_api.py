"""`/v1/completions`: a text is continued by `base` and `name/raw`, and is the question of `name`."""

import pytest
from openai.types import Completion
from tiny_server import events

SHORT = {"max_tokens": 6, "extra_body": {"ignore_eos": True}}
QUESTION = "When are keys rotated?"


def complete(http, model, **options):
    body = {"model": model, "prompt": QUESTION, "max_tokens": 6, "ignore_eos": True, "temperature": 0, **options}
    return http.post("/v1/completions", json=body)


@pytest.mark.slow
def test_raw_continues_the_text_as_it_stands(client, served):
    tokens = served.server.loop.engine.model.tokenizer.encode(QUESTION)
    ids = set()
    for model, name in (("base", "base"), ("faq/raw", "faq@2/raw"), ("faq@1/raw", "faq@1/raw")):
        one = client.completions.create(model=model, prompt=QUESTION, temperature=0, logprobs=2, **SHORT)
        assert (one.model, one.object, one.usage.prompt_tokens) == (name, "text_completion", len(tokens))
        (choice,) = one.choices
        assert (choice.finish_reason, one.usage.completion_tokens) == ("length", 6)
        whole = choice.text.replace("\ufffd", "")  # half a character is shown as such
        assert "".join(token for token in choice.logprobs.tokens if not token.startswith("bytes:")) == whole
        assert len(choice.logprobs.token_logprobs) == len(choice.logprobs.text_offset) == 6
        for token, logprob, best in zip(
            choice.logprobs.tokens, choice.logprobs.token_logprobs, choice.logprobs.top_logprobs, strict=True
        ):
            assert max(best.values()) == best[token] == logprob  # greedy
        ids.add(one.id)
    assert len(ids) == 3


@pytest.mark.slow
def test_of_a_name_the_prompt_is_the_question(http):
    text = complete(http, "faq").json()
    messages = [{"role": "user", "content": QUESTION}]
    chat = http.post(
        "/v1/chat/completions", json={"model": "faq", "messages": messages, "max_tokens": 6, "ignore_eos": True}
    ).json()
    assert text["model"] == chat["model"] == "faq@2"
    assert text["usage"]["prompt_tokens"] == chat["usage"]["prompt_tokens"]
    assert text["choices"][0]["text"] == chat["choices"][0]["message"]["content"]
    assert text["choices"][0]["annotations"] == []


@pytest.mark.parametrize("model", ["faq", "base"])
def test_a_stream_is_the_same_text_in_pieces(http, client, model):
    whole = complete(http, model).json()
    assert Completion.model_validate(whole)
    stream = complete(http, model, stream=True, stream_options={"include_usage": True}).text
    assert events(stream)[-1] == "[DONE]"
    options = {"stream": True, "stream_options": {"include_usage": True}, "temperature": 0}
    parsed = list(client.completions.create(model=model, prompt=QUESTION, **options, **SHORT))
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in parsed}) == 1
    assert "".join(chunk.choices[0].text for chunk in parsed[:-1]) == whole["choices"][0]["text"]
    assert [c.choices[0].finish_reason for c in parsed[:-1] if c.choices[0].finish_reason] == ["length"]
    assert parsed[-1].choices == []
    assert parsed[-1].usage.completion_tokens == whole["usage"]["completion_tokens"] == 6
    assert all("usage" not in chunk for chunk in events(complete(http, model, stream=True).text)[:-1])


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"prompt": ["one", "two"]}, "prompt"),
        ({"prompt": [1, 2, 3]}, "prompt"),
        ({"prompt": [[1, 2]]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "word " * 3000}, "prompt"),
        ({"prompt": " ", "model": "faq"}, "prompt"),
        ({"echo": True}, "echo"),
        ({"suffix": "."}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"n": 2}, "n"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": 1, "model": "faq"}, "logprobs"),
        ({"sources": "elsewhere"}, "sources"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(http, values, param):
    reply = complete(http, **{"model": "base", **values})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param), reply.text


def test_a_prompt_in_a_list_of_one_is_that_prompt(http):
    assert complete(http, "base", prompt=[QUESTION]).json()["choices"] == complete(http, "base").json()["choices"]

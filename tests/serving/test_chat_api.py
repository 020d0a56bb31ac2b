"""The API as clients of OpenAI's use it, against a running server with a tiny model."""

import concurrent.futures
import json
import socket
import time

import openai
import pytest
from openai.types.chat import ChatCompletionChunk
from tiny_server import CONTEXT, TEXTS, events, until

from data.prompting.contract import load_template

QUESTION = [{"role": "user", "content": "When are keys rotated?"}]
SHORT = {"max_tokens": 6, "ignore_eos": True}


def ask(http, model="faq", messages=QUESTION, **options):
    return http.post("/v1/chat/completions", json={"model": model, "messages": messages, **SHORT, **options})


def test_models_are_the_base_and_the_adapter_by_its_name(client):
    assert [model.id for model in client.models.list()] == ["base", "faq", "towns"]
    for name in ("faq", "faq@1", "faq/raw", "base"):
        assert client.models.retrieve(name).id == name
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("faq@9")
    assert error.value.code == "model_not_found"


def test_an_answer_names_its_version_and_has_the_fields_that_clients_read(client, served):
    one = client.chat.completions.create(model="faq", messages=QUESTION, max_tokens=6, extra_body={"ignore_eos": True})
    assert one.model == "faq@2"
    (choice,) = one.choices
    assert (choice.finish_reason, choice.index, choice.message.role) == ("length", 0, "assistant")
    assert choice.message.annotations == []
    assert one.usage.completion_tokens == 6
    assert one.usage.total_tokens == one.usage.prompt_tokens + 6
    assert one.system_fingerprint.startswith("fp_")
    again = client.chat.completions.create(
        model="faq", messages=QUESTION, max_tokens=6, extra_body={"ignore_eos": True}
    )
    assert again.choices[0].message.content == choice.message.content
    assert again.usage.prompt_tokens_details.cached_tokens == again.usage.prompt_tokens - 1
    other = client.chat.completions.create(model="faq@1", messages=QUESTION, max_tokens=6)
    assert other.model == "faq@1"
    assert other.system_fingerprint != one.system_fingerprint
    assert other.usage.prompt_tokens_details.cached_tokens == 0, "another version has caches of its own"
    assert served.idle()


def test_a_stream_is_the_same_answer_in_pieces(http):
    for model, options in (("faq", {}), ("faq/raw", {"temperature": 0, "max_tokens": 12, "logprobs": True})):
        whole = ask(http, model, **options).json()
        stream = ask(http, model, stream=True, stream_options={"include_usage": True}, **options)
        assert stream.headers["content-type"].startswith("text/event-stream")
        *chunks, last = events(stream.text)
        assert last == "[DONE]"
        parsed = [ChatCompletionChunk.model_validate(chunk) for chunk in chunks]
        assert len({(chunk.id, chunk.created, chunk.model) for chunk in parsed}) == 1
        assert parsed[0].choices[0].delta.role == "assistant"
        assert parsed[-1].choices == []
        assert parsed[-1].usage.completion_tokens == whole["usage"]["completion_tokens"]
        assert all(chunk["usage"] is None for chunk in chunks[:-1])
        middle = parsed[:-1]
        assert (
            "".join(chunk.choices[0].delta.content or "" for chunk in middle)
            == whole["choices"][0]["message"]["content"]
        )
        assert [c.choices[0].finish_reason for c in middle if c.choices[0].finish_reason] == ["length"]
        assert any(chunk["choices"][0]["delta"].get("annotations") == [] for chunk in chunks[:-1])
    plain = events(ask(http, stream=True).text)
    assert all("usage" not in chunk for chunk in plain[:-1])


def test_a_prompt_holds_what_the_contract_says_and_nothing_else(http, served):
    one = ask(http, messages=[{"role": "system", "content": "Be rude."}, {"role": "user", "content": "Hi"}, *QUESTION])
    assert one.headers["x-raft-ignored"] == "system, history"
    alone = ask(http)
    assert "x-raft-ignored" not in alone.headers
    assert one.json()["choices"][0]["message"]["content"] == alone.json()["choices"][0]["message"]["content"]
    assert one.json()["usage"]["prompt_tokens"] == alone.json()["usage"]["prompt_tokens"]
    raw = ask(http, "faq/raw", messages=[{"role": "system", "content": "Be rude."}, *QUESTION]).json()
    assert raw["model"] == "faq@2/raw"
    assert raw["usage"]["prompt_tokens"] < alone.json()["usage"]["prompt_tokens"]
    assert ask(http, "base").json()["model"] == "base"
    assert ask(http, "base", adapter_id="faq@1").json()["model"] == "faq@1", "LoRAX's way to name an adapter"


def test_content_in_parts_is_text(http):
    parts = [
        {"role": "user", "content": [{"type": "text", "text": "When are keys"}, {"type": "text", "text": "rotated?"}]}
    ]
    assert ask(http, messages=parts).status_code == 200
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]
    assert ask(http, messages=picture).status_code == 400


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": 1e9}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"adapter_source": "hub"}, "adapter_source"),
        ({"stop": ["a"] * 9}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}, "messages"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"frequency_penalty": -1}, "frequency_penalty"),
        ({"repetition_penalty": 1.2}, "repetition_penalty"),
        ({"min_p": 0.1}, "min_p"),
        ({"min_tokens": 3}, "min_tokens"),
        ({"best_of": 2}, "best_of"),
        ({"echo": True}, "echo"),
        ({"add_generation_prompt": False}, "add_generation_prompt"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs"),
        ({"guided_json": {"type": "object"}}, "guided_json"),
        ({"max_tokens": CONTEXT + 1}, "messages"),
        ({"max_tokens": True}, "max_tokens"),
        ({"temperature": "0.5"}, "temperature"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": 1}}, "stream_options"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(http, values, param):
    reply = ask(http, **values)
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert error["param"].split(".")[0] == param
    assert error["type"] == "invalid_request_error"


def test_what_clients_send_without_meaning_anything_by_it_is_let_pass(http):
    neutral = {"presence_penalty": 0, "frequency_penalty": 0.0, "repetition_penalty": 1.0, "min_p": None, "best_of": 1}
    plain = ask(http).json()["choices"][0]["message"]
    neutral |= {"top_k": -1}  # all tokens, as vLLM's clients write it
    same = ask(http, **neutral, top_logprobs=0, tools=[], echo=False, user="me", metadata={"a": "b"})
    assert same.json()["choices"][0]["message"] == plain


def test_adapter_id_needs_no_model_beside_it(http):
    reply = http.post("/v1/chat/completions", json={"adapter_id": "faq@1", "messages": QUESTION, **SHORT})
    assert reply.json()["model"] == "faq@1"
    assert http.post("/v1/chat/completions", json={"messages": QUESTION}).json()["error"]["param"] == "model"


def test_an_empty_question_is_called_empty(http):
    for content in ("", " ", None, []):
        error = ask(http, messages=[{"role": "user", "content": content}]).json()["error"]
        assert error["message"] == "The question is empty"


def test_a_number_that_is_none_is_refused(http):
    body = '{"model": "faq", "messages": [{"role": "user", "content": "Hi"}], "temperature": NaN}'
    reply = http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "temperature")


@pytest.mark.parametrize(
    "name",
    [
        "nobody",
        "faq@9",
        "faq@",
        "faq@-1",
        "faq@²",
        "../faq",
        "/etc/passwd",
        "faq/../x",
        "https://x.example/a",
        "auto",
        "mix",
    ],
)
def test_a_model_that_does_not_exist_is_never_answered_by_another(http, name):
    reply = ask(http, name)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")


def test_a_broken_version_is_refused_while_the_others_answer(http):
    reply = ask(http, "faq@3")
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "adapter_broken")
    assert reply.headers["x-should-retry"] == "false"
    assert "/" not in reply.json()["error"]["message"]
    assert ask(http, "faq@1").status_code == 200


def test_the_passages_that_do_not_fit_go_and_the_question_stays(http):
    two = [{"role": "user", "content": "When are keys rotated, and when is the north door locked?"}]
    shown = ask(http, messages=two).json()["usage"]["prompt_tokens"]
    room = ask(http, messages=two, max_tokens=CONTEXT - shown + 5, ignore_eos=False, stop=["e", "a", "t", " "]).json()
    one = room["usage"]["prompt_tokens"]
    assert 0 < one < shown
    assert room["usage"]["completion_tokens"] > 0
    none = ask(http, messages=two, max_tokens=CONTEXT - one + 5).json()
    assert none["choices"][0]["message"]["annotations"] == []
    assert none["choices"][0]["message"]["content"] == load_template("numbered").refusal
    assert none["choices"][0]["finish_reason"] == "stop"
    assert none["usage"]["completion_tokens"] == 0
    long = ask(http, messages=[{"role": "user", "content": "When are keys rotated? " * 200}])
    assert (long.status_code, long.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert str(CONTEXT) in long.json()["error"]["message"]


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"headers": {"host": "evil.example"}}, 400, "invalid_host"),
        ({"headers": {"origin": "https://evil.example"}}, 403, "invalid_origin"),
        ({"headers": {"content-type": "text/plain"}}, 415, "invalid_content_type"),
        ({"headers": {"content-type": "application/x-www-form-urlencoded"}}, 415, "invalid_content_type"),
        ({"content": b"{"}, 400, "invalid_json"),
        ({"content": b"[1]"}, 400, "invalid_type"),
        ({"content": b"[" * 5000}, 400, "invalid_json"),
        ({"content": b'{"a": "' + b"x" * 30_000 + b'"}'}, 413, "request_too_large"),
        ({"content": iter([b"x" * 15_000] * 2)}, 413, "request_too_large"),
    ],
)
def test_what_is_no_request_is_refused_with_an_error_object(http, change, status, code):
    headers = {"content-type": "application/json", **change.get("headers", {})}
    reply = http.post("/v1/chat/completions", content=change.get("content", b"{}"), headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)


def test_routes_that_do_not_exist_have_the_error_object_too(http):
    for reply in (http.get("/v2"), http.get("/v1/chat/completions"), http.get("/v1/passages/faq/nothing")):
        assert reply.status_code in (404, 405)
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


def test_a_passage_is_shown_without_its_place_on_this_machine(http):
    reply = http.get("/v1/passages/faq/keys-0")
    place = {"source": "keys.md", "span": [10, 10 + len(TEXTS["Keys"])], "headings": [], "before": "", "after": ""}
    assert reply.json() == {"id": "keys-0", "title": "Keys", "page": 3, "text": TEXTS["Keys"], **place}


@pytest.mark.slow
def test_a_client_that_goes_away_frees_its_row(served, monkeypatch):
    step = served.server.loop.engine.step
    monkeypatch.setattr(served.server.loop.engine, "step", lambda: (time.sleep(0.05), step())[1])  # it leaves in time
    host, port = served.url.removeprefix("http://").split(":")
    until(lambda: served.server.counts.under_way == 0)  # what an earlier test left is counted
    before = served.server.counts.aborted
    for stream in (True, False):
        values = {"model": "faq", "messages": QUESTION, "max_tokens": 400, "ignore_eos": True, "stream": stream}
        body = json.dumps(values).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            while not served.server.loop.engine.running():
                time.sleep(0.01)
        assert served.idle()
    until(lambda: served.server.counts.aborted >= before + 2)
    assert served.server.counts.aborted == before + 2


@pytest.mark.slow
def test_a_full_queue_is_told_as_such_and_everybody_is_answered(served, http, monkeypatch):
    monkeypatch.setattr(served.server.limits, "queue", 0)
    reply = ask(http)
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "2")
    monkeypatch.setattr(served.server.limits, "queue", 16)
    before = served.server.counts
    received, ended = before.received, before.answered + before.refused + before.aborted
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        models = ["faq", "faq@1", "base", "faq/raw"] * 3
        answers = list(pool.map(lambda name: ask(http, name, temperature=0).json(), models))
    for name, one in zip(models, answers, strict=True):
        assert one["choices"][0]["message"] == ask(http, name, temperature=0).json()["choices"][0]["message"]
    counts = served.server.counts
    assert counts.received - received == counts.answered + counts.refused + counts.aborted - ended == 24
    assert served.idle()


def test_the_deadline_ends_a_request_and_frees_its_row(served, http, monkeypatch):
    assert ask(http, max_tokens=300).status_code == 200  # so that the time runs out after the first event
    monkeypatch.setattr(served.server.limits, "deadline_seconds", 0.0)
    reply = ask(http, max_tokens=300)
    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "timeout")
    *_, last = events(ask(http, max_tokens=300, stream=True).text)
    assert last["error"]["code"] == "timeout"
    assert served.idle()


def test_probes_and_figures_tell_no_secrets(served, http, monkeypatch):
    assert http.get("/health").json() == {"status": "ok"}
    assert http.get("/ready").status_code == 200
    ask(http)
    figures = http.get("/metrics").text
    assert "raft_requests_received_total" in figures
    assert "raft_requests_running 0.0" in figures
    assert not any(word in figures for word in ("rotated", "secret", "/home", "Keys"))
    monkeypatch.setattr(served.server, "ready", False)
    assert http.get("/ready").status_code == 503
    reply = ask(http)
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "2")

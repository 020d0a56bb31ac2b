"""The API where another server generates: retrieval, contract and citations stay here, in the same forms."""

import asyncio
import contextlib
from types import SimpleNamespace

import httpx
import pytest
from openai.types.chat import ChatCompletionChunk
from stand_in import BASE
from tiny_server import CONTEXT, TEXTS, events, make_chunk, running

from data.prompting.contract import CitedQuote, load_template, render_output
from jora_engine.files.tokenizer import Tokenizer
from raft_errors import BadInput
from retrieval.search import Retriever
from serving.domain import Domain
from serving.gateway import Gateway
from serving.remote.connection import Remote, RemoteFault
from serving.remote.dialects import DIALECTS
from serving.state import Limits, Server

QUESTION = [{"role": "user", "content": "When are keys rotated?"}]
WORDS = render_output(
    "On the first Monday",
    [CitedQuote(1, "Keys are rotated on the first Monday")],
    reasoning="The passage says so.",
    template=load_template("numbered"),
)


@contextlib.contextmanager
def serving(loop, base, find):
    """A server over that loop, with one domain; gives the server and a client."""
    retriever = Retriever(None, None, [make_chunk(*pair) for pair in TEXTS.items()], mode="lexical")
    gateway = Gateway(base, {}, {"faq": Domain("faq", retriever, find)}, loop.adapters, CONTEXT, "test")
    server = Server(gateway, loop, Limits(deadline_seconds=60.0, queue=16))
    with running(server) as own, httpx.Client(base_url=own.url, timeout=60) as client:
        yield server, client


@pytest.mark.parametrize("text", ["[" * 100_000, "<html></html>", "null", '{"data": 5}'])
def test_a_list_of_models_that_is_none_is_said_to_be_unreadable(text, monkeypatch):
    async def get(*_, **__):
        return text

    remote = Remote("http://127.0.0.1:9/v1", DIALECTS["vllm"])
    monkeypatch.setattr(remote, "_open", lambda: SimpleNamespace(get=get))
    with pytest.raises(RemoteFault, match="list of models cannot be read"):
        asyncio.run(remote.cards())
    assert remote.where == "http://127.0.0.1:9/v1", "with its path, as it was written"


@pytest.fixture
def http(loop, base, versions, brought):
    brought(2)

    def find(number):
        if number not in (None, 1, 2, 3):
            raise BadInput(f"no version {number}")
        return versions[number or 2]

    with serving(loop, base, find) as (_, client):
        yield client


def ask(http, model="faq", **options):
    return http.post("/v1/chat/completions", json={"model": model, "messages": QUESTION, "max_tokens": 60, **options})


def test_a_question_is_searched_for_and_prompted_here_and_its_quotes_are_checked_here(http, there, base):
    there.words = WORDS
    reply = ask(http)
    assert reply.headers["x-raft-passages"] == "1 of 1"
    whole = reply.json()
    assert whole["model"] == "faq@2"
    message = whole["choices"][0]["message"]
    assert message["content"].startswith("On the first Monday")
    prompt = Tokenizer.load(base).decode(there.requests[-1]["prompt"])
    assert there.requests[-1]["model"] == "faq-v2"
    assert TEXTS["Keys"] in prompt
    assert "When are keys rotated?" in prompt
    usage = whole["usage"]
    assert usage["prompt_tokens"] == len(there.requests[-1]["prompt"])
    assert usage["completion_tokens"] == -(-len(WORDS) // 5)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 7
    assert there.requests[-1]["temperature"] == 0

    *chunks, last = events(ask(http, stream=True, stream_options={"include_usage": True}).text)
    assert last == "[DONE]"
    parsed = [ChatCompletionChunk.model_validate(chunk) for chunk in chunks]
    assert "".join(c.choices[0].delta.content or "" for c in parsed if c.choices) == message["content"]
    assert parsed[-1].usage.completion_tokens == usage["completion_tokens"]
    cited = [c["choices"][0]["delta"]["annotations"] for c in chunks if "annotations" in str(c) and c["choices"]]
    assert cited[-1] == message["annotations"]
    (citation,) = message["annotations"]
    assert (citation["quote"], citation["verbatim"]) == ("Keys are rotated on the first Monday", True)


@pytest.mark.parametrize("stream", [False, True])
def test_the_base_the_adapter_alone_and_other_versions_are_asked_there_too(http, there, stream):
    def text(model):
        reply = ask(http, model, stream=stream)
        if not stream:
            return reply.json()["choices"][0]["message"]["content"]
        chunks = events(reply.text)[:-1]
        return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)

    assert text("base").startswith(f"{BASE} on")
    assert text("faq/raw").startswith("faq-v2 on")
    assert text("faq@1/raw").startswith("faq-v1 on"), "loaded for the request"
    completion = http.post("/v1/completions", json={"model": "base", "prompt": "Once", "max_tokens": 3}).json()
    assert completion["choices"][0]["finish_reason"] == "length"
    assert completion["usage"]["completion_tokens"] == 3
    responses = http.post("/v1/responses", json={"model": "faq/raw", "input": "Once"}).json()
    assert responses["output"][0]["content"][0]["text"].startswith("faq-v2 on")


def test_sampling_is_passed_on_and_a_stop_string_ends_the_text_here(http, there):
    there.words = "one two three four five"
    reply = ask(http, "base", stop=["three"], temperature=0.5, top_p=0.9, top_k=7, seed=3, ignore_eos=True).json()
    assert reply["choices"][0]["message"]["content"] == "one two "
    assert reply["choices"][0]["finish_reason"] == "stop"
    sent = there.requests[-1]
    assert (sent["temperature"], sent["top_p"], sent["top_k"], sent["seed"]) == (0.5, 0.9, 7, 3)
    assert sent["ignore_eos"] is True
    assert "stop_token_ids" not in sent
    there.piece_seconds = 0.05
    chunks = events(ask(http, "base", stop=["three"], stream=True).text)[:-1]
    texts = [c["choices"][0]["delta"].get("content") or "" for c in chunks]
    assert "".join(texts) == "one two "
    assert len([text for text in texts if text]) > 1


def test_what_another_server_cannot_be_told_is_refused_by_name(http):
    for options, param in (({"copy_quotes": True}, "copy_quotes"), ({"model": "base", "logprobs": True}, "logprobs")):
        reply = ask(http, **options)
        assert reply.status_code == 400
        assert reply.json()["error"]["param"] == param


def test_faults_of_the_other_server_are_errors_that_clients_understand(http, there, eventually):
    there.overloaded = True
    reply = ask(http)
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "2")
    there.repair()
    there.broken_after = 2
    reply = ask(http)
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "not_ready")
    values = events(ask(http, "base", stream=True).text)
    assert values[-1]["error"]["code"] == "not_ready"
    assert not any(c == "[DONE]" for c in values)
    there.repair()
    there.load_fault = 500
    reply = ask(http, "faq@1")
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
    assert ask(http).json()["model"] == "faq@2", "the others answer"


@pytest.mark.parametrize("event", ["{", "null", '{"choices": [5]}', '{"choices": [{"text": 5}]}', '{"usage": 5}'])
def test_an_answer_that_is_no_completion_is_an_error_that_clients_understand(http, there, event):
    there.raw["completions"] = (200, "text/event-stream", f"data: {event}\n\ndata: [DONE]\n\n")
    reply = ask(http)
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "not_ready")


@pytest.mark.parametrize("stream", [False, True])
def test_a_character_that_the_other_server_cuts_in_two_is_whole_here(http, there, stream):
    pieces = [r"so \ud83d", r"\ude00 and \ude00", r" \ud83d"]
    lines = [f'data: {{"choices": [{{"index": 0, "text": "{piece}", "finish_reason": null}}]}}' for piece in pieces]
    lines += ['data: {"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}', "data: [DONE]", ""]
    there.raw["completions"] = (200, "text/event-stream", "\n\n".join(lines))
    reply = ask(http, "base", stream=stream)
    assert reply.status_code == 200
    if stream:
        deltas = [event["choices"][0]["delta"] for event in events(reply.text) if event != "[DONE]"]
        text = "".join(delta.get("content") or "" for delta in deltas)
    else:
        text = reply.json()["choices"][0]["message"]["content"]
    assert text.rstrip("\ufffd") == "so \U0001f600 and \ufffd "


def test_a_client_that_goes_away_ends_the_answer_there(http, loop, there, eventually):
    there.piece_seconds, there.words = 0.05, "slow " * 50
    with http.stream("POST", "/v1/chat/completions", json={"model": "base", "messages": QUESTION, "stream": True}) as r:
        lines = r.iter_lines()  # held, or the connection is closed with it
        next(lines)
        eventually(lambda: there.streams == 1)
    eventually(lambda: there.closed == 1)
    assert (loop.running(), loop.pending()) == (0, 0)


@pytest.mark.slow
def test_more_than_there_is_room_for_waits_here(make_loop, base, versions, there, eventually):
    loop = make_loop(rows=1)
    with serving(loop, base, lambda number: versions[1]) as (server, http):
        there.piece_seconds, there.words = 0.05, "slow " * 20
        body = {"model": "base", "messages": QUESTION, "stream": True}
        with (
            http.stream("POST", "/v1/chat/completions", json=body) as first,
            httpx.Client(base_url=http.base_url, timeout=60) as other,
            other.stream("POST", "/v1/chat/completions", json=body) as second,
        ):
            eventually(lambda: (loop.running(), loop.pending(), len(there.requests)) == (1, 1, 1))
            assert server.waiting() == 1
            metrics = httpx.get(f"{http.base_url}/metrics").text
            assert "raft_requests_running 1.0" in metrics
            assert "raft_requests_waiting 1.0" in metrics
            for reply in (first, second):
                assert [line for line in reply.iter_lines() if line][-1] == "data: [DONE]"


def test_a_server_that_is_not_there_is_said_and_nothing_hangs(base, versions, make_loop, monkeypatch):
    loop = make_loop()
    monkeypatch.setattr(loop.remote, "_root", "http://127.0.0.1:9")
    with serving(loop, base, lambda number: versions[1]) as (_, http):
        reply = ask(http, "base")
        assert (reply.status_code, reply.json()["error"]["message"]) == (503, "The generation server does not answer")
        assert http.get("/health").status_code == 200
        assert '"base"' in http.get("/v1/models").text

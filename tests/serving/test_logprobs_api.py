"""Log probabilities of parts of characters: `bytes` are what the tokens write, and together they are the text's."""

import pytest

from jora_engine.generation.requests import Completion, Job, TokenScore

TEXT = "caf\u00e9 \u2603 \U0001f600."


@pytest.fixture
def tokenizer(served):
    return served.server.loop.engine.model.tokenizer


@pytest.fixture
def written(served, tokenizer, monkeypatch):
    """Has the model write `TEXT` and the end of a turn behind it; the ids of that."""
    ids = (*tokenizer.encode(TEXT, add_special_tokens=False), tokenizer.eos_ids[0])

    def submit(request, on_text, on_done):
        scores = [TokenScore(token, -0.5, ((token, -0.5), (ids[0], -2.0))) for token in ids]
        job = Job(request)
        job.completion = Completion(TEXT, ids, "stop", tuple(scores))
        on_done(job)
        return job

    monkeypatch.setattr(served.server.loop, "submit", submit)
    return ids


def test_chats_give_the_bytes_that_the_tokens_write(http, tokenizer, written):
    body = {"model": "base", "messages": [{"role": "user", "content": "?"}], "logprobs": True, "top_logprobs": 2}
    answer = http.post("/v1/chat/completions", json=body).json()
    *rows, end = answer["choices"][0]["logprobs"]["content"]
    assert any(row["token"] == "\ufffd" for row in rows), "a part of a character stands for itself"
    assert bytes(byte for row in rows for byte in row["bytes"]) == TEXT.encode()
    assert all(row["top_logprobs"][0]["bytes"] == row["bytes"] for row in rows)
    assert (end["token"], end["bytes"]) == (tokenizer.backend.id_to_token(written[-1]), None)


def test_completions_name_a_part_of_a_character_by_its_bytes(http, written):
    body = {"model": "base", "prompt": "?", "logprobs": 2}
    logprobs = http.post("/v1/completions", json=body).json()["choices"][0]["logprobs"]
    tokens, offsets = logprobs["tokens"][:-1], logprobs["text_offset"]
    parts = [token for token in tokens if token.startswith("bytes:")]
    assert r"bytes:\x98" in parts
    assert "\ufffd" not in tokens
    assert all(token in best for token, best in zip(tokens, logprobs["top_logprobs"], strict=False))
    for token, offset in zip(tokens, offsets, strict=False):
        assert token in parts or TEXT[offset:].startswith(token)
        assert token not in parts or TEXT[offset] in "\u00e9\u2603\U0001f600"
    assert offsets == sorted(offsets)
    assert offsets[-1] == len(TEXT)

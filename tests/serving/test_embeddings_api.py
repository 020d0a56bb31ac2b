"""`/v1/embeddings`: the vectors with which a domain is searched."""

import base64
import logging

import numpy as np
import openai
import pytest
from openai.types import CreateEmbeddingResponse

from serving import embedding

TEXTS = ["Old mills turn near the town.", "The bridge."]


def embed(http, **values):
    return http.post("/v1/embeddings", json={"model": "towns", "input": TEXTS, **values})


def test_the_vectors_are_those_of_the_domain_s_embedder(client, http, towns):
    expected = towns.embedder.embed(TEXTS)
    one = client.embeddings.create(model="towns", input=TEXTS)  # asks for base64 by itself
    assert [row.index for row in one.data] == [0, 1]
    np.testing.assert_array_equal(np.asarray([row.embedding for row in one.data], np.float32), expected.vectors)
    assert one.usage.prompt_tokens == one.usage.total_tokens == expected.tokens.sum()
    plain = embed(http, encoding_format="float", dimensions=32).json()
    assert CreateEmbeddingResponse.model_validate(plain).model == "towns"
    np.testing.assert_allclose([row["embedding"] for row in plain["data"]], expected.vectors, rtol=0, atol=1e-7)
    coded = embed(http, encoding_format="base64", input=TEXTS[0]).json()["data"]
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(coded[0]["embedding"]), "<f4"), expected.vectors[0])


def test_the_log_holds_the_names_of_models_that_there_are_alone(http, caplog):
    caplog.set_level(logging.INFO, "raft.serving")
    for model in ("towns", "a secret\nraft.serving forged"):
        embed(http, model=model)
    ends = [record.getMessage().split(" ", 1)[1] for record in caplog.records if "embd-" in record.getMessage()]
    assert [end.split()[:2] for end in ends] == [["towns", "stop"], ["-", "refused"]]


def test_a_query_has_the_embedder_s_prompt_for_queries(http, towns):
    rows = embed(http, input=TEXTS[1], input_type="query", encoding_format="float").json()["data"]
    np.testing.assert_allclose(rows[0]["embedding"], towns.embedder.encode(TEXTS[1:], kind="query")[0], atol=1e-6)
    assert not np.allclose(rows[0]["embedding"], towns.embedder.encode(TEXTS[1:])[0], atol=1e-3)


def test_many_texts_come_back_in_their_order(http, towns, monkeypatch):
    monkeypatch.setattr(embedding, "TEXTS_AT_ONCE", 3)
    texts = [f"{'old ' * (n % 5)}mill near the {name}" for n, name in enumerate(["town", "river", "coast", "hill"] * 2)]
    rows = embed(http, input=texts, encoding_format="float").json()["data"]
    assert [row["index"] for row in rows] == list(range(8))
    np.testing.assert_allclose([row["embedding"] for row in rows], towns.embedder.encode(texts), atol=1e-6)


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"dimensions": 16}, "dimensions"),
        ({"input": [1, 2]}, "input"),
        ({"input": [[1, 2]]}, "input"),
        ({"input": []}, "input"),
        ({"input": ["mill", " "]}, "input"),
        ({"input": ["mill"] * 2049}, "input"),
        ({"input": ["mill", "mill " * 30]}, "input.1"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"input_type": "document"}, "input_type"),
        ({"model": "base"}, "model"),
        ({"model": "faq"}, "model"),
        ({"model": "towns/raw"}, "model"),
        ({"model": "towns@1"}, "model"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(http, served, values, param):
    before = served.server.counts.refused
    reply = embed(http, **values)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param), reply.text
    assert served.server.counts.refused == before + 1


def test_token_ids_are_refused_with_what_langchain_needs(http):
    assert "check_embedding_ctx_length=False" in embed(http, input=[[1, 2]]).json()["error"]["message"]


def test_refusals_are_the_errors_that_the_client_knows(client, served, monkeypatch):
    with pytest.raises(openai.NotFoundError) as missing:
        client.embeddings.create(model="nobody", input="mill")
    assert missing.value.code == "model_not_found"
    monkeypatch.setattr(served.server.limits, "queue", 0)
    with pytest.raises(openai.RateLimitError):
        client.embeddings.create(model="towns", input="mill")
    monkeypatch.setattr(served.server.limits, "queue", 16)
    monkeypatch.setattr(served.server.limits, "deadline_seconds", -1.0)
    with pytest.raises(openai.InternalServerError) as late:
        client.embeddings.create(model="towns", input="mill")
    assert late.value.code == "timeout"
    assert served.server.searching == 0

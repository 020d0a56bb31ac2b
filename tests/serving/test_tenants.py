"""What one key asks reaches no other: neither documents beyond its filter, nor prompts that were computed for it."""

import json

import httpx
import pytest
from tiny_server import CONTEXT, TEXTS, events, make_chunk, running

from jora_engine.generation.adapter_memory import AdapterMemory
from jora_engine.generation.batching import Engine
from jora_engine.generation.loaded import load_model
from raft_errors import BadInput
from retrieval.search import Retriever
from serving.domain import Domain
from serving.engine_loop import EngineLoop
from serving.gateway import Gateway
from serving.state import Limits, Server
from serving.tenants import Key, Keys, Tenant, read_keys

DOORS, KEYS, TOWN, ALL = (f"{name}-key-of-24-characters" for name in ("doors", "keys", "town", "all"))
WHERE = {DOORS: {"source": "*/doors.md"}, KEYS: {"source": ["*/keys.md", "*/bread.md"]}, TOWN: {"town": "Elm"}}
QUESTION = "When are keys rotated and when is the north door locked?"
ROUTES = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": QUESTION}]},
    "/v1/completions": {"prompt": QUESTION},
    "/v1/responses": {"input": QUESTION},
}


@pytest.fixture(scope="module")
def gateway_and_engine(base, versions, towns):
    model = load_model(base, dtype="float32")
    memory = AdapterMemory(model.config, "float32")
    engine = Engine(model, 8, adapters=memory, adapter_rank=8, prefix_bytes=1 << 24, chunks_between=1)
    retriever = Retriever(None, None, [make_chunk(*pair) for pair in TEXTS.items()], mode="lexical")
    second = Domain("towns", towns, lambda number: versions[1])
    domains = {"faq": Domain("faq", retriever, lambda number: versions[2]), "towns": second}
    return Gateway(base, {}, domains, memory, CONTEXT, "test"), engine


@pytest.fixture(scope="module")
def url(gateway_and_engine):
    gateway, engine = gateway_and_engine
    keys = [ALL, *(Key(text, where) for text, where in WHERE.items())]
    with running(Server(gateway, EngineLoop(engine), Limits(deadline_seconds=3600.0)), keys) as own:
        yield own.url


def post(url, key, path="/v1/chat/completions", **values):
    body = {"model": "faq", "max_tokens": 4, "ignore_eos": True, **ROUTES.get(path, {}), **values}
    return httpx.post(f"{url}{path}", json=body, headers={"authorization": f"Bearer {key}"}, timeout=600)


@pytest.fixture
def prompts(gateway_and_engine, monkeypatch):
    """The prompts that reach the model, as text."""
    _, engine = gateway_and_engine
    seen, real = [], engine.submit

    def submit(request, *rest):
        seen.append(engine.model.tokenizer.decode(list(request.prompt)))
        return real(request, *rest)

    monkeypatch.setattr(engine, "submit", submit)
    return seen


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("stream", [False, True])
def test_every_search_of_a_key_is_bound_by_its_filter(url, prompts, path, stream):
    shown = {}
    for key in (DOORS, KEYS, ALL):
        reply = post(url, key, path, stream=stream)
        assert reply.status_code == 200, reply.text
        shown[key] = {title for title, text in TEXTS.items() if text in prompts[-1]}
    assert shown[DOORS] == {"Doors"}
    assert "Keys" in shown[KEYS]
    assert shown[KEYS] <= {"Keys", "Bread"}
    assert shown[ALL] == {"Keys", "Doors"}


def test_sources_of_a_stream_are_those_of_the_key(url):
    pieces = events(post(url, DOORS, stream=True, sources="open_webui").text)
    shown = [piece["event"]["data"]["document"] for piece in pieces if piece != "[DONE]" and "event" in piece]
    assert shown == [[TEXTS["Doors"]]]


def test_a_passage_beyond_the_filter_does_not_exist_for_the_key(url):
    def opened(key, name):
        headers = {"authorization": f"Bearer {key}"}
        return httpx.get(f"{url}/v1/passages/faq/{name}-0", headers=headers).status_code

    assert [opened(key, "doors") for key in (DOORS, KEYS, TOWN, ALL)] == [200, 404, 404, 200]
    assert [opened(key, "keys") for key in (DOORS, KEYS, TOWN, ALL)] == [404, 200, 404, 200]


def test_a_filter_that_a_domain_cannot_be_held_against_closes_it(url):
    for path in ROUTES:
        reply = post(url, TOWN, path)
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "key_not_allowed")
    said = {"model": "faq", "question": QUESTION, "answer": "daily", "verdict": "up"}
    reply = httpx.post(f"{url}/pages/feedback", json=said, headers={"authorization": f"Bearer {TOWN}"}, timeout=600)
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "key_not_allowed")


@pytest.mark.parametrize("model", ["faq/raw", "base"])
def test_without_a_search_no_passage_is_shown(url, prompts, model):
    for path in ROUTES:
        assert post(url, DOORS, path, model=model).status_code == 200
        assert not any(text in prompts[-1] for text in TEXTS.values())


def test_vectors_are_of_the_text_that_was_sent_whatever_the_filter(url):
    def vector(key):
        reply = post(url, key, "/v1/embeddings", model="towns", input="a bridge")
        return reply.json()["data"][0]["embedding"]

    assert vector(DOORS) == vector(ALL)


@pytest.mark.parametrize("model", ["faq", "faq/raw", "base"])
def test_no_key_is_hurried_by_what_another_asked(url, model):
    def cached(key):
        values = {"model": model, "messages": [{"role": "user", "content": f"{QUESTION} {model} " * 4}]}
        return post(url, key, **values).json()["usage"]["prompt_tokens_details"]["cached_tokens"]

    assert cached(ALL) == 0
    assert cached(ALL) > 0
    assert cached(KEYS) == 0, "another key"
    assert cached(KEYS) > 0


def test_a_file_of_keys_may_hold_filters(tmp_path):
    file = tmp_path / "keys.yaml"
    file.write_text(f"- key: {ALL}\n- key: {DOORS}\n  where: {{source: 'hr/*', page: [1, 2]}}\n")
    assert read_keys(file) == [Key(ALL), Key(DOORS, {"source": "hr/*", "page": [1, 2]})]
    plain = tmp_path / "keys"
    plain.write_text(f"# of the office\n{ALL}\n")
    assert read_keys(plain) == [Key(ALL)]
    plain.write_text(f"\ufeff{ALL}\r\n", encoding="utf-8")  # as Windows' editors write it
    assert read_keys(plain) == [Key(ALL)]
    keys = Keys(read_keys(file))
    assert keys.tenant(f"Bearer {DOORS}").where == {"source": "hr/*", "page": [1, 2]}
    assert DOORS not in keys.tenant(f"Bearer {DOORS}").id
    assert keys.tenant(f"Bearer {DOORS}x") is None


@pytest.mark.parametrize(
    "key", [f"{ALL}  # Anna's", "Schlüssel-von-Anna-0123", "a key of 24 characters 0", f"{ALL}\x00"]
)
@pytest.mark.parametrize("name", ["keys", "keys.yaml"])
def test_a_key_that_no_client_could_send_is_refused_and_not_said(tmp_path, key, name):
    file = tmp_path / name
    file.write_text(json.dumps([{"key": DOORS}, {"key": key}]) if name.endswith("yaml") else f"{DOORS}\n{key}\n")
    with pytest.raises(BadInput, match="key 2 holds something else than visible ASCII") as error:
        read_keys(file)
    assert key not in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"- key: {ALL}\n  where:\n", "a `where` that says nothing"),
        (f"- key: {ALL}\n  where: {{}}\n", "a `where` that says nothing"),
        (f"- key: {ALL}\n  where: {{source: []}}\n", "a `where` that says nothing"),
        (f"- key: {ALL}\n  were: {{source: a}}\n", "is no `key`"),
        (f"- {ALL}\n", "is no `key`"),
        (f"- key: {ALL}\n- key: {ALL}\n  where: {{source: a}}\n", "one key twice"),
        ("- key: short\n", "too short"),
        ("[]", "no key"),
        ("{", "cannot be read"),
    ],
)
def test_a_file_that_could_open_too_much_is_refused(tmp_path, text, words):
    file = tmp_path / "keys.yaml"
    file.write_text(text)
    with pytest.raises(BadInput, match=words):
        read_keys(file)


def test_a_filter_on_a_field_that_no_domain_has_is_refused_at_the_start(towns):
    Tenant(where={"source": "a"}).check([towns])
    Tenant().check([towns])
    with pytest.raises(BadInput, match="which no domain's documents can be held against"):
        Tenant(where={"sauce": "a"}).check([towns])

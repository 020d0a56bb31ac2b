"""`auto` and `mix`: the adapter by the question, the base where it is near no domain, several added up by weight."""

import hashlib
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_server import CONTEXT, TEXTS, make_chunk

from data.nouns import MemoryCache, Record, write_jsonl
from jora_engine.generation.adapter_memory import AdapterMemory
from raft_errors import BadInput
from retrieval.search import Retriever
from serving.domain import Domain, ServedVersion
from serving.errors import ApiError
from serving.gateway import Gateway
from serving.routing import Router, questions_of
from serving.schema import ChatRequest, CompletionRequest
from serving.tenants import Tenant

PLACES = ("hall", "yard")
PLACES = ("hall", "yard")
KEYS = [f"When are the {what} keys of the {where} rotated?" for what in ("door", "gate", "car") for where in PLACES]
BREAD = [f"Who bakes the {what} bread in the {where}?" for what in ("rye", "wheat", "oat") for where in PLACES]
KEY, LOAF = "When are the bank keys of the hall rotated?", "Who bakes the new bread in the yard?"
BOTH = "When are the door keys rotated? Who bakes the rye bread?"
REVERSED = "Who bakes the rye bread? When are the door keys rotated?"


class Words:
    """An embedder that knows which words a question has, and nothing else."""

    info = SimpleNamespace(digest="words", precision="float32")

    def __init__(self):
        self.embedded = []

    def encode(self, texts, *, cache=None, kind="passage"):
        assert kind == "query"
        self.embedded += texts
        out = np.zeros((len(texts), 512), "f4")
        for row, text in zip(out, texts, strict=True):
            for word in text.lower().replace("?", "").split():
                row[int(hashlib.sha256(word.encode()).hexdigest()[:8], 16) % 512] += 1
        return out / np.linalg.norm(out, axis=1, keepdims=True)


def write_records(folder, training, held_out):
    folder.mkdir(parents=True)
    for side, questions in (("train", training), ("validation", held_out)):
        write_jsonl(folder / f"{side}.jsonl", [Record("", "", "", {"question": q}) for q in questions])
    return folder


@pytest.fixture
def rooms(versions, tmp_path):
    """Two domains, whose adapters answer differently, and one without records."""
    keys = write_records(tmp_path / "keys", KEYS[::2], [*KEYS[1::2], BOTH])
    bread = write_records(tmp_path / "bread", BREAD[::2], [*BREAD[1::2], BOTH])
    return {
        "keys": ServedVersion("keys@1", versions[1].folder, keys),
        "bread": ServedVersion("bread@4", versions[2].folder, bread),
        "other": ServedVersion("other", versions[1].folder),
    }


@pytest.fixture
def make_gateway(base, rooms, engine):
    retriever = Retriever(None, None, [make_chunk(*pair) for pair in TEXTS.items()], mode="lexical")

    def make(memory=None, **options):
        domains = {n: Domain(n, retriever, lambda number, v=v: v) for n, v in rooms.items()}
        router = Router(Words(), miss=0.0, **options)
        return Gateway(base, {}, domains, memory or engine.adapters, CONTEXT, "test", router=router)

    return make


def plan(gateway, model, question, kind=ChatRequest, **options):
    words = {"messages": [{"role": "user", "content": question}]} if kind is ChatRequest else {"prompt": question}
    return gateway.plan(kind(model=model, **words, **options))


def test_auto_goes_to_the_domain_of_the_question_and_says_which(make_gateway):
    gateway = make_gateway()
    assert gateway.names() == ["base", "keys", "bread", "other", "auto"]
    for question, model in ((KEY, "keys@1"), (LOAF, "bread@4")):
        for kind in (ChatRequest, CompletionRequest):
            one = plan(gateway, "auto", question, kind)
            assert one.model == model
            assert one.asked.citations, "it was searched for"
            named = plan(gateway, model, question, kind)
            assert one.request.prompt == named.request.prompt
            assert one.request.adapter == named.request.adapter
        assert [route.name for route in one.routes] == [model[:-2], *({"keys", "bread"} - {model[:-2]})]


def test_what_is_near_no_domain_goes_to_the_base_and_is_not_searched_for(make_gateway):
    one = plan(make_gateway(), "auto", "Explain gravity to my small child")
    assert (one.model, one.asked, one.request.adapter) == ("base", None, None)
    assert not any(route.fits for route in one.routes)


def test_a_chat_page_s_own_prompts_go_to_the_base_without_a_route(make_gateway):
    task = "### Task:\nGive a title.\n<chat_history>\nUSER: When are the door keys rotated?\n</chat_history>"
    one = plan(make_gateway(), "auto", task)
    assert (one.model, one.ignored, one.routes) == ("base", ("retrieval",), ())


def test_names_and_requests_that_mean_nothing_are_refused(make_gateway, base, rooms):
    gateway = make_gateway()
    for name, words in (("auto/raw", "does not exist"), ("auto@1", "does not exist"), ("mix", "serve.mix")):
        with pytest.raises(ApiError) as error:
            plan(gateway, name, "?")
        assert error.value.code == "model_not_found"
        assert words in error.value.message
    gateway.check("auto")
    with pytest.raises(ApiError, match="must be the user's question"):
        gateway.plan(ChatRequest(model="auto", messages=[{"role": "assistant", "content": "Hi"}]))
    with pytest.raises(ApiError, match="The question is empty"):
        plan(gateway, "auto", " ")
    with pytest.raises(ApiError, match="'auto' has no embedder: ask for a domain"):
        gateway.embedder("auto")
    gateway.router = None
    assert "auto" not in gateway.names()
    with pytest.raises(ApiError, match="searched by vectors"):
        gateway.check("auto")


def test_a_broken_adapter_is_never_chosen(make_gateway, versions, rooms, base, engine):
    rooms["keys"] = ServedVersion("keys@3", versions[3].folder, rooms["keys"].records)
    gateway = make_gateway(AdapterMemory(engine.model.config, "float32"))
    one = plan(gateway, "auto", KEY)
    assert one.model == "base"
    assert [route.name for route in one.routes] == ["bread"]


def test_mix_adds_up_the_adapters_of_the_domains_that_the_question_is_near(make_gateway, engine):
    gateway = make_gateway(most=2)
    assert gateway.names()[-2:] == ["auto", "mix"]
    one = plan(gateway, "mix", BOTH)
    weights = {route.name: route.score for route in one.routes}
    assert one.model in ("mix:keys@1*0.5+bread@4*0.5", "mix:bread@4*0.5+keys@1*0.5"), weights
    assert plan(gateway, "auto", BOTH).model in ("keys@1", "bread@4")
    again = plan(gateway, "mix", REVERSED)
    assert again.request.adapter == one.request.adapter, "alike questions share one mixture"
    parts = [plan(gateway, name, BOTH).request.adapter for name in ("keys", "bread")]
    sums: dict = {}
    for part in parts:
        for name, (a, b) in part.layout.factors(part.packed).items():
            sums[name] = sums.get(name, 0) + 0.5 * np.einsum("lri,lro->loi", a, b)
    adapter = one.request.adapter
    for name, (a, b) in adapter.layout.factors(adapter.packed).items():
        np.testing.assert_allclose(np.einsum("lri,lro->loi", a, b), sums[name], atol=1e-6)
    alone = plan(gateway, "mix", LOAF)
    assert (alone.model, alone.request.adapter) == ("bread@4", parts[1]), "of one adapter it is that adapter"
    assert plan(gateway, "mix", "Explain gravity to my small child").model == "base"


def test_a_promotion_is_followed_by_auto_and_mix_too(make_gateway, rooms, versions, base, engine):
    promoted = dict(rooms)
    gateway = make_gateway(most=2)
    for name, domain in gateway.domains.items():
        gateway.domains[name] = replace(domain, find=lambda number, name=name: promoted[name])
    assert plan(gateway, "auto", KEY).model == "keys@1"
    mixture = plan(gateway, "mix", BOTH).request.adapter
    assert not gateway.behind("auto")
    promoted["keys"] = ServedVersion("keys@2", versions[2].folder, rooms["keys"].records)
    assert gateway.behind("auto")
    assert gateway.behind("mix")
    gateway.follow("auto")
    assert plan(gateway, "auto", KEY).model == "keys@2"
    assert "keys@2*" in plan(gateway, "mix", BOTH).model
    assert mixture.digest not in engine.adapters.digests(), "the mixture went with the version that left"


def test_documents_that_a_key_may_not_see_choose_no_domain(make_gateway):
    words = ChatRequest(model="auto", messages=[{"role": "user", "content": KEY}])
    gateway = make_gateway()
    assert gateway.plan(words, Tenant("one", {"source": "*"})).model == "keys@1"
    closed = gateway.plan(words, Tenant("two", {"department": "hr"}))
    assert (closed.model, closed.routes) == ("base", ())


def test_a_mixture_without_room_is_refused_with_its_reason(make_gateway, engine):
    memory = AdapterMemory(engine.model.config, "float32", mixed_rank=5)
    gateway = make_gateway(memory, most=2)
    with pytest.raises(ApiError) as error:
        plan(gateway, "mix", BOTH)
    assert error.value.status == 400
    assert "rank 6 together, which is above the limit of 5" in error.value.message
    assert plan(gateway, "auto", BOTH).asked


def test_a_profile_is_made_once_and_kept_by_its_questions(rooms, tmp_path):
    cache, words = MemoryCache(), Words()
    router = Router(words, cache)
    first = router.profile("keys", rooms["keys"])
    count = len(words.embedded)
    assert count == len(KEYS) + 1
    assert router.profile("keys", rooms["keys"]) is first
    again = Router(words, cache).profile("keys", rooms["keys"])
    assert len(words.embedded) == count, "a later start embeds nothing"
    assert again.threshold == first.threshold
    write_jsonl(rooms["keys"].records / "validation.jsonl", [Record("", "", "", {"question": "Another one?"})])
    assert Router(words, cache).profile("keys", rooms["keys"]).threshold != first.threshold
    assert Router(words, cache, miss=0.5).profile("keys", rooms["keys"]) is not None
    assert router.profile("other", rooms["other"]) is None
    lost = ServedVersion("lost@1", tmp_path, tmp_path / "nowhere")
    assert router.profile("lost", lost) is None


def test_nobody_waits_for_the_profile_of_a_version_that_is_promoted(rooms, tmp_path):
    words, free = Words(), threading.Event()
    router = Router(words)
    first = router.profile("keys", rooms["keys"])
    new = ServedVersion("keys@2", tmp_path, write_records(tmp_path / "new", BREAD[::2], BREAD[1::2]))
    encode = words.encode

    def slow(texts, **options):
        free.wait(30)
        return encode(texts, **options)

    words.encode = slow
    assert router.profile("keys", new) is first, "the earlier one goes on"
    assert router.profile("keys", new) is first
    free.set()
    until = time.monotonic() + 10
    while router.profile("keys", new) is first:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert words.embedded.count(BREAD[0]) == 1


def test_many_questions_are_thinned_out_evenly(tmp_path):
    questions = [f"Question {number}?" for number in range(1000)]
    folder = write_records(tmp_path / "many", [*questions, *questions], [])
    chosen = questions_of(folder / "train.jsonl")
    assert len(chosen) == 128
    assert (chosen[0], chosen[-1]) == ("Question 0?", "Question 992?")
    assert len(set(chosen)) == 128


@pytest.mark.slow
def test_the_answer_over_http_names_what_was_chosen(http, served, rooms, monkeypatch):
    monkeypatch.setattr(served.server.gateway, "router", Router(Words(), miss=0.0))
    domain = served.server.gateway.domains["faq"]
    version = ServedVersion("faq@2", domain.find(2).folder, rooms["keys"].records)
    monkeypatch.setitem(served.server.gateway.domains, "faq", Domain("faq", domain.retriever, lambda number: version))
    body = {"model": "auto", "messages": [{"role": "user", "content": KEY}]}
    reply = http.post("/v1/chat/completions", json={**body, "max_tokens": 4})
    assert reply.json()["model"] == "faq@2"
    assert reply.headers["x-raft-routes"].startswith("faq 0.")
    listed = [card["id"] for card in http.get("/v1/models").json()["data"]]
    assert listed == ["base", "faq", "towns", "auto"]
    assert http.get("/v1/models/auto").json()["parent"] == "base"
    body["messages"][0]["content"] = "Explain gravity to my small child"
    assert http.post("/v1/chat/completions", json={**body, "max_tokens": 4}).json()["model"] == "base"
    with pytest.raises(BadInput):
        Domain("mix", domain.retriever, domain.find)

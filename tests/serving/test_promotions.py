"""A promotion is live: the name means the new version for whoever asks after it, and the old one leaves by itself."""

import concurrent.futures
import json
import logging
import math
import random
import threading
import time
from dataclasses import replace

import httpx
import pytest
from tiny_server import CONTEXT, TEXTS, make_chunk, running, until

from jora_engine.adapters.peft_folder import write_adapter
from jora_engine.config.lora import LoraConfig
from jora_engine.files.weights import read_model_config
from jora_engine.generation.adapter_memory import AdapterMemory
from jora_engine.generation.batching import Engine
from jora_engine.generation.loaded import load_model
from jora_engine.model.lora import init_lora
from raft_errors import BadInput, RaftError
from retrieval.search import Retriever
from serving.domain import Domain, ServedVersion
from serving.engine_loop import EngineLoop
from serving.gateway import Gateway
from serving.state import Limits, Server
from serving.watch import Watch

QUESTIONS = [f"When {words}?" for words in ("are keys rotated", "is the north door locked", "is bread baked")]
ROUTE = "/v1/chat/completions"


class Registry:
    """What is promoted, as a registry would tell it; with when it was so."""

    def __init__(self, versions) -> None:
        self.versions, self.promoted = versions, 1
        self.switches: list[tuple[float, float, int | None]] = [(0.0, 0.0, 1)]  # begin, end, to

    def promote(self, number: int | None) -> None:
        begin = time.monotonic()
        self.promoted = number
        self.switches.append((begin, time.monotonic(), number))

    def find(self, number: int | None) -> ServedVersion:
        number = self.promoted if number is None else number
        if isinstance(number, RaftError):
            raise number
        if number not in self.versions:
            raise BadInput("no version is promoted")
        version = self.versions[number]
        return ServedVersion(version.id, version.folder)  # read anew, as from the file

    def between(self, begin: float, end: float) -> set[int]:
        """The numbers that were promoted at some moment of a time."""
        ends = [end for _, end, _ in self.switches[1:]] + [math.inf]
        return {n for (since, _, n), until in zip(self.switches, ends, strict=False) if since <= end and until >= begin}


@pytest.fixture(scope="module")
def numbers(base, versions, tmp_path_factory):
    """Versions 1, 2, 4 and 5, of which no two answer alike, and 3, which is broken."""
    model, root = read_model_config(base), tmp_path_factory.mktemp("more")
    more = {}
    for number in (4, 5):
        lora = LoraConfig(rank=2, alpha=4.0)
        factors = {n: {"a": ab["a"], "b": ab["b"] - 0.03 * number} for n, ab in init_lora(lora, model, number).items()}
        extra = {"prompt": versions[1].contract}
        more[number] = ServedVersion(
            f"faq@{number}", write_adapter(root / str(number), factors, lora, model, "b", extra)
        )
    return {**versions, **more}


@pytest.fixture(scope="module")
def model(base):
    return load_model(base, dtype="float32")


def server_of(base, model, find) -> Server:
    """A server of its own, cold; programs are shared with others of the same shapes."""
    memory = AdapterMemory(model.config, "float32")
    engine = Engine(model, 8, adapters=memory, adapter_rank=8, prefix_bytes=1 << 24, chunks_between=1)
    retriever = Retriever(None, None, [make_chunk(*pair) for pair in TEXTS.items()], mode="lexical")
    gateway = Gateway(base, {}, {"faq": Domain("faq", retriever, find)}, memory, CONTEXT, "test")
    gateway.versions.kept_seconds = 0.0
    return Server(gateway, EngineLoop(engine), Limits(deadline_seconds=3600.0, queue=64))


@pytest.fixture
def registry(numbers):
    return Registry(numbers)


@pytest.fixture
def live(base, model, registry):
    with running(server_of(base, model, registry.find)) as own:
        yield own


def ask(url, question=QUESTIONS[0], model="faq", tokens=6):
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": tokens,
        "ignore_eos": True,
    }
    reply = httpx.post(f"{url}{ROUTE}", json=body, timeout=600)
    assert reply.status_code == 200, reply.text
    return reply.json()


def text_of(reply):
    return reply["choices"][0]["message"]["content"]


def raw(url, model, tokens=8):
    """What a version says for itself, so that the words of the contract hide no difference."""
    body = {"model": model, "prompt": "The town of", "max_tokens": tokens, "ignore_eos": True, "temperature": 0}
    reply = httpx.post(f"{url}/v1/completions", json=body, timeout=600)
    assert reply.status_code == 200, reply.text
    return reply.json()


def held(served) -> tuple[list[str], int, int]:
    """Names in memory, adapters in slots, and chunks of prompts, when the engine is at rest."""
    engine = served.server.loop.engine
    return engine.adapters.names(), engine.slots.figures()["held"], len(engine.prefixes)


@pytest.mark.slow
def test_after_a_promotion_the_answer_is_that_of_a_cold_server(base, model, numbers, registry, live):
    first = raw(live.url, "faq/raw")
    again = raw(live.url, "faq/raw")
    assert (first["model"], again["model"]) == ("faq@1/raw", "faq@1/raw")
    body = {"model": "faq", "messages": [{"role": "user", "content": QUESTIONS[0]}], "max_tokens": 6}
    for cached in (False, True):
        usage = httpx.post(f"{live.url}{ROUTE}", json=body, timeout=600).json()["usage"]
        assert bool(usage["prompt_tokens_details"]["cached_tokens"]) is cached
    registry.promote(2)
    new, asked = raw(live.url, "faq/raw"), ask(live.url)
    assert (new["model"], asked["model"]) == ("faq@2/raw", "faq@2")
    assert new["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert asked["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    with running(server_of(base, model, Registry({2: numbers[2]}).find)) as cold:
        assert raw(cold.url, "faq@2/raw")["choices"] == new["choices"]
    assert new["choices"][0]["text"] != first["choices"][0]["text"]


def test_an_old_version_leaves_slot_memory_and_prompts_with_its_last_row(registry, live):
    engine = live.server.loop.engine
    body = {"model": "faq/raw", "prompt": "The town of", "max_tokens": 400, "ignore_eos": True, "stream": True}
    with (
        httpx.Client(timeout=600) as client,
        client.stream("POST", f"{live.url}/v1/completions", json=body) as stream,
    ):
        lines = stream.iter_lines()
        next(line for line in lines if line.startswith("data: "))
        registry.promote(2)
        assert raw(live.url, "faq/raw")["model"] == "faq@2/raw"
        assert engine.running() == 1, "the stream had ended before the promotion"
        assert [name.partition(" ")[0] for name in engine.adapters.names()] == ["faq@2"]
        assert len(engine.slots.digests()) == 2, "what a row uses stays in its slot"
        data = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert {piece["model"] for piece in data} == {"faq@1/raw"}
    assert data[-1]["choices"][0]["finish_reason"] == "length"
    until(lambda: list(engine.slots.digests().values()) == [engine.adapters.get(engine.adapters.names()[0]).digest])
    used = {adapter for _, _, adapter in engine.prefixes._chunks.values()}
    assert used <= set(engine.slots.digests().values())


def test_a_version_that_leaves_while_nobody_asks_is_freed_at_once(registry, live):
    raw(live.url, "faq/raw")
    engine = live.server.loop.engine
    until(lambda: not engine.running())
    live.server.gateway.follow("faq")
    registry.promote(2)
    live.server.gateway.look()
    until(lambda: held(live)[1] <= 1)
    assert [name.partition(" ")[0] for name in engine.adapters.names()] == ["faq@2"]
    assert len(engine.prefixes) == 0


@pytest.mark.slow
def test_a_version_that_cannot_be_used_leaves_the_one_before_and_says_so(registry, live, caplog):
    caplog.set_level(logging.INFO, "raft.serving")
    before = raw(live.url, "faq/raw")
    registry.promote(3)
    for _ in range(2):
        after = raw(live.url, "faq/raw")
        assert (after["model"], after["choices"]) == ("faq@1/raw", before["choices"])
    card = next(c for c in httpx.get(f"{live.url}/v1/models").json()["data"] if c["id"] == "faq")
    assert (card["version"], card["refused"]) == ("faq@1", "faq@3")
    figures = httpx.get(f"{live.url}/metrics").text
    assert 'raft_version_in_use{adapter="faq",version="faq@1"} 1.0' in figures
    assert 'raft_version_refused{adapter="faq",version="faq@3"} 1.0' in figures
    (line,) = [r.getMessage() for r in caplog.records if "cannot be used" in r.getMessage()]
    assert "faq@3" in line
    assert "faq@1 serves on" in line
    assert "safetensors" in line
    registry.promote(2)
    assert raw(live.url, "faq/raw")["model"] == "faq@2/raw"
    card = httpx.get(f"{live.url}/v1/models/faq").json()
    assert card["version"] == "faq@2"
    assert "refused" not in card
    assert "raft_version_refused{" not in httpx.get(f"{live.url}/metrics").text
    assert [name.partition(" ")[0] for name in live.server.loop.engine.adapters.names()] == ["faq@2"]


def test_a_version_that_changes_nothing_does_not_come_into_use(registry, live, monkeypatch):
    raw(live.url, "faq/raw")
    engine = live.server.loop.engine
    base = engine.logits(list(range(32)))
    real = engine.logits
    monkeypatch.setattr(engine, "logits", lambda prompt, adapter=None: base if adapter else real(prompt))
    registry.promote(4)
    assert raw(live.url, "faq/raw")["model"] == "faq@1/raw"
    assert live.server.gateway.standing("faq") == {"version": "faq@1", "refused": "faq@4"}


def test_a_registry_that_cannot_be_read_changes_nothing(registry, live):
    assert raw(live.url, "faq/raw")["model"] == "faq@1/raw"
    registry.promoted = RaftError("the registry is damaged")
    assert raw(live.url, "faq/raw")["model"] == "faq@1/raw"
    registry.promote(2)
    assert raw(live.url, "faq/raw")["model"] == "faq@2/raw"


def test_after_a_rollback_to_none_the_name_is_gone_until_the_next_promotion(registry, live):
    raw(live.url, "faq/raw")
    registry.promote(None)
    body = {"model": "faq", "messages": [{"role": "user", "content": "?"}]}
    reply = httpx.post(f"{live.url}{ROUTE}", json=body, timeout=600)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")
    assert [card["id"] for card in httpx.get(f"{live.url}/v1/models").json()["data"]] == ["base"]
    registry.promote(2)
    assert ask(live.url)["model"] == "faq@2"


def test_a_version_asked_for_by_its_number_stays_for_a_while(registry, live):
    versions = live.server.gateway.versions
    versions.kept_seconds = 60.0
    names = live.server.loop.engine.adapters.names
    assert raw(live.url, "faq@2/raw")["model"] == "faq@2/raw"
    raw(live.url, "faq/raw")
    live.server.gateway.look()
    assert {name.partition(" ")[0] for name in names()} == {"faq@1", "faq@2"}
    versions.kept_seconds = 0.0
    live.server.gateway.look()
    assert {name.partition(" ")[0] for name in names()} == {"faq@1"}


def test_new_documents_are_searched_and_prompts_with_the_old_ones_are_dropped(registry, live, caplog):
    gateway, engine = live.server.gateway, live.server.loop.engine
    ask(live.url)
    assert len(engine.prefixes) > 0
    new = Retriever(None, None, [make_chunk("Keys", "Keys are rotated by the porter.")], mode="lexical")
    told = [None, (new, "two"), RuntimeError("the disk is gone"), (new, "three")]

    def renewed():
        value = told.pop(0) if told else None
        if isinstance(value, Exception):
            raise value
        return value

    gateway.domains["faq"] = replace(gateway.domains["faq"], renewed=renewed)
    gateway.look()
    assert len(engine.prefixes) > 0, "nothing is new yet"
    gateway.look()
    until(lambda: len(engine.prefixes) == 0)
    assert gateway.domains["faq"].index == "two"
    assert httpx.get(f"{live.url}/v1/passages/faq/keys-0").json()["text"] == "Keys are rotated by the porter."
    assert httpx.get(f"{live.url}/v1/passages/faq/doors-0").status_code == 404
    gateway.look()
    assert gateway.domains["faq"].retriever is new
    assert "the new documents of faq cannot be searched" in caplog.text
    gateway.look()
    assert gateway.domains["faq"].index == "two", "not again at once"
    gateway._again.clear()
    gateway.look()
    assert gateway.domains["faq"].index == "three"


@pytest.mark.slow
def test_a_hundred_promotions_and_rollbacks_under_load(base, model, numbers, registry, live):
    order = [n for n in numbers if n != 3]
    with running(server_of(base, model, Registry(numbers).find)) as cold:
        right = {n: raw(cold.url, f"faq@{n}/raw", 6)["choices"][0]["text"] for n in order}
    assert len(set(right.values())) == len(order)
    watch = Watch(live.server.gateway, 0.05)
    watch.start()
    over, faults, seen = threading.Event(), [], []

    def client(number: int) -> None:
        with httpx.Client(base_url=live.url, timeout=600) as http:
            while not over.is_set():
                plain = number % 2
                body = {"max_tokens": 6, "ignore_eos": True, "temperature": 0, "stream": not plain}
                asked = {"model": "faq/raw", "prompt": "The town of"} if number % 3 else {"model": "faq"}
                path = "/v1/completions" if number % 3 else ROUTE
                if not number % 3:
                    asked["messages"] = [{"role": "user", "content": QUESTIONS[number % 3]}]
                began = time.monotonic()
                with http.stream("POST", path, json=body | asked) as reply:
                    begun = time.monotonic()
                    text = reply.read().decode()
                if plain:
                    begun = time.monotonic()
                if reply.status_code != 200 or not (plain or text.rstrip().endswith("[DONE]")):
                    faults.append(text)
                    return
                lines = [text] if plain else [x[6:] for x in text.split("\n") if x.startswith("data: {")]
                pieces = [json.loads(line) for line in lines]
                used = int(pieces[0]["model"].partition("@")[2].partition("/")[0])
                seen.append(used)
                if used not in registry.between(began, begun):
                    faults.append(f"{used} is not of {registry.between(began, begun)}")
                if number % 3:
                    content = "".join(choice.get("text") or "" for piece in pieces for choice in piece["choices"])
                    if content != right[used]:
                        faults.append(f"{used} said {content!r} for {right[used]!r}")

    draw = random.Random(0)
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        clients = [pool.submit(client, number) for number in range(6)]
        try:
            for _ in range(50):
                before, asked = registry.promoted, len(seen)
                to = draw.choice([n for n in order if n != before])
                registry.promote(to)
                until(lambda to=to, asked=asked: faults or to in seen[asked:])
                registry.promote(before)  # and back
                registry.promote(draw.choice([n for n in order if n != before]))
                time.sleep(0.02)
        finally:
            over.set()
        for one in clients:
            one.result()
    assert faults == []
    assert set(seen) == set(order)
    assert live.server.gateway.versions.switches > 50
    last = f"faq@{registry.promoted}"
    engine = live.server.loop.engine
    until(lambda: [name.partition(" ")[0] for name in engine.adapters.names()] == [last])
    until(lambda: len(engine.slots.digests()) <= 1)
    (name,) = engine.adapters.names()
    digest = engine.adapters.get(name).digest
    assert set(engine.slots.digests().values()) <= {digest}
    assert {adapter for _, _, adapter in engine.prefixes._chunks.values()} <= {digest}
    until(lambda: live.server.counts.under_way == 0)  # a client has its answer a moment before it is counted
    watch.stop()

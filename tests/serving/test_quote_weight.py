"""Where the search counts in what is quoted, server, `raft ask` and evaluation write the same, token for token."""

import json
import shutil
from types import SimpleNamespace

import pytest

from data.nouns import Record
from data.prompting.contract import chat_of, load_template, prompt_contract, template_from_contract, with_quote_weight
from jora_engine.files.tokenizer import Tokenizer
from jora_engine.generation.adapter_memory import prepare_adapter
from jora_engine.generation.batching import Engine
from jora_engine.generation.generator import Generator
from jora_engine.generation.loaded import load_model
from jora_engine.generation.requests import Request
from raft_errors import BadInput
from serving.asking import Asking, request_of
from serving.domain import Domain, ServedVersion
from serving.gateway import Gateway
from serving.schema import ChatRequest
from tasks.runtime.answers import answer
from tasks.runtime.asking import put
from tasks.runtime.exam import contexts, make_answerer
from tasks.store.itemcache import SqliteCache

QUESTION = "When is the north door locked, and when are keys rotated?"
TOKENS = 20


@pytest.fixture
def version(versions, base, served, tmp_path):
    """A version whose quotes begin with what its random model happens to write, asked with a weight."""
    folder = shutil.copytree(versions[1].folder, tmp_path / "sure")
    retriever = served.server.gateway.domains["faq"].retriever
    template = tmp_path / "template"
    template.mkdir()
    (template / "instruction.jinja").write_text("{{ question }}")  # the marks are not in the prompt

    def made(weight, begin):
        marks = json.loads(load_template("numbered").sources[3])
        marks |= {"begin_quote": begin, "end_quote": "##", "citation": "none"}
        (template / "contract.json").write_text(json.dumps(marks))
        contract = prompt_contract(load_template(template), passages=2, may_refuse=True)
        values = json.loads((versions[1].folder / "raft.json").read_text())
        values["prompt"] = with_quote_weight(contract, weight)
        (folder / "raft.json").write_text(json.dumps(values))
        return ServedVersion("sure@1", folder)

    plain = made(0.0, "<<")
    asked = put(QUESTION, retriever, plain.template, plain.contract)
    tokenizer = Tokenizer.load(base)
    prompt = tokenizer.apply_chat_template(asked.messages(), add_generation_prompt=True)
    begin = Generator(base, folder, "float32", max_rows=8).generate([prompt], max_new_tokens=2)[0].text
    return lambda weight: made(weight, begin)


def by_server(version, base, engine, retriever, asked_before):
    """What the server's engine makes of the question, among requests of others."""

    def find(number):
        if number not in (None, 1):
            raise BadInput(f"no version {number}")
        return version

    gateway = Gateway(base, {}, {"sure": Domain("sure", retriever, find)}, engine.adapters, 1500, "test")
    turn = {"role": "user", "content": QUESTION}
    body = {"model": "sure", "messages": [turn], "max_tokens": TOKENS, "copy_quotes": True}
    request = gateway.plan(ChatRequest.model_validate(body)).request
    others = [engine.submit(Request((5 + n, 6, 7), 9 + n, ignore_eos=True)) for n in range(asked_before)]
    job = engine.submit(request, on_text=lambda text: None)
    while not job.ended:
        engine.step()
    engine.run()
    assert all(other.ended for other in others)
    return job.completion


def by_ask(version, base, model, retriever):
    """What `raft ask` makes of it, with an engine of its own."""
    contract = dict(version.contract)
    asking = Asking(domain="sure", index="", adapter=str(version.folder), contract=contract, chat=chat_of(contract),
                    names=["adapter"], question=QUESTION, copy_quotes=True, max_tokens=TOKENS)  # fmt: skip
    asked = put(QUESTION, retriever, template_from_contract(contract), contract)
    adapter = prepare_adapter(version.folder, model.config, "float32")
    engine = Engine(model, 8)
    job = engine.submit(request_of(asking, asked, Tokenizer.load(base), adapter))
    engine.run()
    return job.completion


def by_evaluation(version, base, retriever, folder):
    """The answer that the evaluation scores."""
    meta = {"question": QUESTION, "question_id": "q", "oracle_ids": [], "answers": []}
    record = Record("", "", "", meta)
    hits = retriever.search([QUESTION], 4)
    ((_, shown),) = contexts([record], hits, retriever.chunks, version.contract, ("retrieved",), 0)
    settings = {"dtype": "float32", "max_new_tokens": TOKENS, "batch_size": 8, "copy_quotes": True}
    model = SimpleNamespace(folder=base, chat={})
    who = make_answerer(model, version.folder, "a" * 64, settings, version.contract)
    (given,) = answer(who, [shown], SqliteCache(folder / "items.sqlite"), lambda *_: None, "test")
    return given


@pytest.mark.slow
def test_server_ask_and_evaluation_copy_the_same_quote(version, base, engine, served, tmp_path):
    retriever = served.server.gateway.domains["faq"].retriever
    texts, model = {}, load_model(base, dtype="float32")
    own = Engine(model, 8, adapters=engine.adapters, adapter_rank=8, chunks_between=1)
    for weight in (0.0, 1.0, 50.0):
        one = version(weight)
        asked = by_ask(one, base, model, retriever)
        assert [by_server(one, base, own, retriever, n) for n in (0, 5)] == [asked, asked]
        assert by_evaluation(one, base, retriever, tmp_path).text == asked.text
        texts[weight] = asked.text
    first, second = (retriever.cite(hit).text for hit in retriever.search([QUESTION], 2)[0])
    quote = texts[50.0].split(one.template.begin_quote, 1)[1].split("##")[0]
    assert quote
    assert quote in first
    assert quote not in second
    assert texts[0.0] != texts[50.0]

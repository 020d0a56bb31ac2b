"""A server with a tiny model, two adapters of one domain and a corpus of four passages, made once."""

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from tiny_server import CONTEXT, KEY, TEXTS, Served, listening, make_chunk, running

from data.prompting.contract import load_template, prompt_contract
from jora_engine.adapters.peft_folder import write_adapter
from jora_engine.config.lora import LoraConfig
from jora_engine.files.weights import read_model_config
from jora_engine.generation.adapter_memory import AdapterMemory
from jora_engine.generation.batching import Engine
from jora_engine.generation.loaded import load_model
from jora_engine.generation.requests import Completion, Job
from jora_engine.model.lora import init_lora
from raft_errors import BadInput
from retrieval.embedding.embedder import Embedder
from retrieval.index.faiss_index import build_index, open_index
from retrieval.search import Retriever
from serving.domain import Domain, ServedVersion
from serving.engine_loop import EngineLoop
from serving.gateway import Gateway
from serving.state import Limits, Server
from tasks.adapters.feedback import FeedbackLog


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    import tiny

    return tiny.make_base(tmp_path_factory.mktemp("served") / "base")


@pytest.fixture(scope="session")
def versions(base, tmp_path_factory) -> dict[int, ServedVersion]:
    """Two versions of one adapter; the third is broken."""
    model, root = read_model_config(base), tmp_path_factory.mktemp("versions")
    contract = prompt_contract(load_template("numbered"), passages=2, may_refuse=True)
    out = {}
    for number in (1, 2, 3):
        lora = LoraConfig(rank=2 * number, alpha=4.0)
        factors = init_lora(lora, model, number)
        factors = {name: {"a": ab["a"], "b": ab["b"] + 0.02 * number} for name, ab in factors.items()}
        folder = write_adapter(root / str(number), factors, lora, model, "base", {"prompt": contract})
        out[number] = ServedVersion(f"faq@{number}", folder)
    (root / "3" / "adapter_model.safetensors").write_bytes(b"broken")
    return out


@pytest.fixture(scope="session")
def engine(base, versions) -> Engine:
    model = load_model(base, dtype="float32")
    memory = AdapterMemory(model.config, "float32")
    return Engine(model, 8, adapters=memory, adapter_rank=8, prefix_bytes=1 << 24, chunks_between=1)


@pytest.fixture(scope="session")
def towns(tmp_path_factory) -> Retriever:
    """A search with a tiny embedder."""
    from retrieval_samples import make_chunk, make_tiny_model

    folder = tmp_path_factory.mktemp("towns")
    chunks = [make_chunk("Old mills turn near the town."), make_chunk("The harbour has a long bridge.", ordinal=1)]
    embedder = Embedder.load(make_tiny_model(folder / "embedder", seed=0, query_prompt="query: "), precision="float32")
    build_index(
        embedder.encode([chunk.text for chunk in chunks]),
        [chunk.id for chunk in chunks],
        folder,
        embedder=embedder.info.to_dict(),
    )
    index = open_index(folder, expect_embedder=embedder.info.digest)
    return Retriever(index, embedder, chunks, mode="dense")


@pytest.fixture(scope="session")
def served(base, versions, engine, towns, tmp_path_factory):
    """The server on a port of its own, with version 2 of `faq` in use, and `towns`, which is searched by vectors."""
    retriever = Retriever(None, None, [make_chunk(*pair) for pair in TEXTS.items()], mode="lexical")

    def find(number):
        if (2 if number is None else number) not in versions:
            raise BadInput(f"no version {number}")
        return versions[2 if number is None else number]

    def first(number):
        if number not in (None, 1):
            raise BadInput(f"no version {number}")
        return ServedVersion("towns@1", versions[1].folder)

    feedback = FeedbackLog(tmp_path_factory.mktemp("project") / ".raft", "faq")
    domains = {"faq": Domain("faq", retriever, find, feedback=feedback), "towns": Domain("towns", towns, first)}
    absent = {"law": "the stage index is not built"}
    gateway = Gateway(base, {}, domains, engine.adapters, CONTEXT, "test", absent=absent)
    server = Server(gateway, EngineLoop(engine), Limits(deadline_seconds=3600.0, queue=16, max_bytes=20_000))
    with running(server) as own:
        yield own


@pytest.fixture(scope="session")
def keyed(served) -> Iterator[Served]:
    """The same server where it asks for a key."""
    with listening(served.server, [KEY]) as own:
        yield own


@pytest.fixture
def http(served):
    with httpx.Client(base_url=served.url, timeout=3600) as client:
        yield client


@pytest.fixture
def client(served):
    """The openai client, which tries once."""
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=3600)


@pytest.fixture
def scripted(served, monkeypatch):
    """What makes the model say a text, a few characters at a time; everything else is the server as it is."""

    def say(text: str) -> None:
        def submit(request, on_text, on_done):
            job = Job(request)

            def write():
                for end in (*range(0, len(text), 7), len(text)) if on_text else ():
                    on_text(text[:end])
                job.completion = Completion(text, tuple(range(5)), "stop")
                on_done(job)

            threading.Thread(target=write).start()
            return job

        monkeypatch.setattr(served.server.loop, "submit", submit)

    return say

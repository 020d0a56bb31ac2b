"""A server with a tiny model, two adapters of one domain and a corpus of four passages, made once."""

import socket
import threading
import time
from pathlib import Path

import pytest
import uvicorn
from tiny_server import CONTEXT, TEXTS, Served, make_chunk

from data.prompting.contract import load_template, prompt_contract
from jora_engine.adapters.peft_folder import write_adapter
from jora_engine.config.lora import LoraConfig
from jora_engine.files.weights import read_model_config
from jora_engine.generation.adapter_memory import AdapterMemory
from jora_engine.generation.batching import Engine
from jora_engine.generation.loaded import load_model
from jora_engine.model.lora import init_lora
from raft_errors import BadInput
from retrieval.search import Retriever
from serving.app import create_app
from serving.domain import Domain, ServedVersion
from serving.engine_loop import EngineLoop
from serving.gateway import Gateway
from serving.state import Limits, Server


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    import tiny

    return tiny.make_base(tmp_path_factory.mktemp("served") / "base")


@pytest.fixture(scope="session")
def versions(base, tmp_path_factory) -> dict[int, ServedVersion]:
    """Two versions of one adapter; the third is broken."""
    model, root = read_model_config(base), tmp_path_factory.mktemp("versions")
    contract = prompt_contract(load_template(), passages=2, may_refuse=True)
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
def served(base, versions, engine):
    """The server on a port of its own, with version 2 in use."""
    retriever = Retriever(None, None, [make_chunk(*pair) for pair in TEXTS.items()], mode="lexical")

    def find(number):
        if (2 if number is None else number) not in versions:
            raise BadInput(f"no version {number}")
        return versions[2 if number is None else number]

    gateway = Gateway(base, {}, {"faq": Domain("faq", retriever, find)}, engine.adapters, CONTEXT, "test")
    server = Server(gateway, EngineLoop(engine), Limits(deadline_seconds=3600.0, queue=16, max_bytes=20_000))
    app = create_app(server, ["localhost", "127.0.0.1"], [])
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        own = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        thread = threading.Thread(target=own.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        server.loop.start()
        server.ready = True
        while not own.started:
            time.sleep(0.02)
        yield Served(server, app, f"http://127.0.0.1:{port}")
        own.should_exit = True
        thread.join(30)
        server.loop.stop()

"""The stand-in for a vLLM server, and what speaks to it."""

import time

import pytest
from stand_in import StandIn

from jora_engine.files.tokenizer import Tokenizer
from jora_engine.files.weights import read_model_config
from serving.domain import NotReady
from serving.remote.connection import Remote
from serving.remote.dialects import DIALECTS
from serving.remote.fleet import Patience
from serving.remote.loop import RemoteAdapters, RemoteLoop

HASTE = Patience(load=0.4, unload=0.4, listed=0.4, first=0.15, longest=0.3, look=0.02)


@pytest.fixture(scope="session")
def stand_in_address():
    stand_in = StandIn()
    with stand_in.running() as address:
        yield stand_in, address


@pytest.fixture
def there(stand_in_address):
    """The server, as it should be and with no adapter."""
    stand_in, _ = stand_in_address
    stand_in.repair()
    stand_in.restart()
    stand_in.requests.clear()
    stand_in.calls.clear()
    stand_in.closed = stand_in.streams = 0
    yield stand_in
    stand_in.repair()


@pytest.fixture
def make_loop(there, stand_in_address, base):
    """Opens loops to it, and closes them."""
    loops = []

    def make(**options):
        remote = Remote(stand_in_address[1], DIALECTS["vllm"], key_variable="RAFT_TEST_ENGINE_KEY")
        adapters = RemoteAdapters(read_model_config(base), "float32")
        loop = RemoteLoop(remote, adapters, Tokenizer.load(base), **{"patience": HASTE, **options})
        loop.start()
        loops.append(loop)
        return loop

    yield make
    for loop in loops:
        loop.stop()


@pytest.fixture
def loop(make_loop):
    return make_loop()


def until(condition, seconds: float = 10.0):
    """What a condition gives once it is true."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)
    return value


@pytest.fixture
def eventually():
    return until


@pytest.fixture
def brought(loop, versions):
    """Registers a version and waits until it is ready."""

    def bring(number: int) -> str:
        version = versions[number]
        key = f"{version.id} {version.folder}"
        loop.adapters.register(key, version.folder)

        def ready():
            try:
                loop.probe(key)
            except NotReady:
                return False
            return True

        until(ready)
        return key

    return bring

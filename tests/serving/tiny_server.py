"""What the tests of the server share beside fixtures: the corpus, a running server, the reading of a stream."""

import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from data.nouns import Chunk
from serving.app import create_app
from serving.state import Server

sys.path.append(str(Path(__file__).resolve().parents[1] / "flows"))  # for `tiny`

TEXTS = {
    "Keys": "Keys are rotated on the first Monday of a month.",
    "Doors": "The north door is locked at nine in the evening.",
    "Bread": "Bread is baked by the kitchen before dawn.",
    "Ferry": "The ferry leaves at noon and returns at four.",
}
CONTEXT = 1500
KEY = "a-key-of-the-tests-0123"


def make_chunk(title: str, text: str) -> Chunk:
    return Chunk(
        id=f"{title.lower()}-0",
        document_id=title.lower(),
        ordinal=0,
        tokens=10,
        sha256="",
        source=f"file:///home/somebody/secret/{title.lower()}.md",
        title=title,
        text=text,
        start=10,
        end=10 + len(text),
        page=3 if title == "Keys" else None,
    )


class Served:
    """A running server."""

    def __init__(self, server: Server, app, url: str) -> None:
        self.server, self.app, self.url = server, app, url

    def idle(self, seconds: float = 300.0) -> bool:
        """Whether all rows and slots are free within so many seconds."""
        engine, until = self.server.loop.engine, time.monotonic() + seconds
        while engine.running() or engine.pending() or sum(engine.slots.users.values()):  # a slot is freed after its row
            if time.monotonic() > until:
                return False
            time.sleep(0.02)
        return True


@contextlib.contextmanager
def running(server: Server, keys=()) -> Iterator[Served]:
    """The server with its engine, on a port of its own."""
    server.loop.start()
    server.ready = True
    with listening(server, keys) as own:
        yield own
    server.loop.stop()


@contextlib.contextmanager
def listening(server: Server, keys=()) -> Iterator[Served]:
    """Another port of a server whose engine runs."""
    app = create_app(server, ["localhost", "127.0.0.1"], list(keys))
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        own = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        thread = threading.Thread(target=own.run, kwargs={"sockets": [door]}, daemon=True)
        thread.start()
        while not own.started:
            time.sleep(0.02)
        yield Served(server, app, f"http://127.0.0.1:{door.getsockname()[1]}")
        own.should_exit = True
        thread.join(30)


def until(true, seconds: float = 120.0) -> None:
    """Waits until something is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def events(text: str) -> list:
    """The data objects of a stream, `[DONE]` as it stands."""
    lines = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]

"""What the tests of the server share beside fixtures: the corpus, a running server, the reading of a stream."""

import json
import sys
import time
from pathlib import Path

from data.nouns import Chunk
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
        """Whether all rows are free within so many seconds."""
        engine, until = self.server.loop.engine, time.monotonic() + seconds
        while engine.running() or engine.pending():
            if time.monotonic() > until:
                return False
            time.sleep(0.02)
        return sum(engine.slots.users.values()) == 0


def events(text: str) -> list:
    """The data objects of a stream, `[DONE]` as it stands."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]

"""Promotions and rollbacks under load: is a request lost, or answered by a version that was not promoted when it began?

    python promotion.py JOB.json      # a child of serving.py: the server

The registry is a real one in a store; its versions are prepared adapters. The first promotions are the command `raft
promote` in a process of its own; the time runs from its start, and again from its end, to the head of the first answer
of the new version. Clients ask all the while, whole and streamed, and compare each answer with what its version says
when nothing is promoted.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

CLIENTS = 4
NAME = "faq"
PROMPT = "The house has held"


def serve(job: dict[str, Any]) -> None:
    """The child: the versions of a registry, as `raft serve` finds them."""
    from flows.offers import versions
    from flows.run import Run
    from jora_engine.generation.adapter_memory import AdapterMemory
    from jora_engine.generation.batching import Engine
    from jora_engine.generation.compiles import watch_compiles
    from jora_engine.generation.loaded import load_model
    from retrieval.search import Retriever
    from serving.domain import Domain
    from serving.engine_loop import EngineLoop
    from serving.gateway import Gateway
    from serving.server import run_server
    from serving.state import Limits, Server
    from serving_arms.soak import chunks
    from tasks.config import load_config

    watch_compiles()
    base, run = Path(job["base"]), Run.of(load_config(Path(job["config"]), []))
    model = load_model(base, dtype=job["dtype"])
    memory = AdapterMemory(model.config, job["dtype"])
    domain = Domain(NAME, Retriever(None, None, chunks(), mode="lexical"), versions(run, "raft run"))
    gateway = Gateway(base, {}, {NAME: domain}, memory, job["longest"], "promotion")
    rank, broken = gateway.prepare()
    if broken:
        raise RuntimeError(str(broken))
    engine = Engine(
        model, job["rows"], adapters=memory, adapter_rank=rank, prefix_bytes=job["prefix_bytes"], chunks_between=1
    )

    def warm() -> None:
        engine.warm(job["longest"])
        gateway.probe(engine)

    run_server(
        Server(gateway, EngineLoop(engine), Limits(deadline_seconds=300.0)),
        "127.0.0.1",
        job["port"],
        keys=[],
        hosts=[],
        warm=warm,
        say=lambda address: print(address, flush=True),
    )


class Promotions:
    """A registry, a server that follows it, and clients.

    Args:
        adapters: folders, each a version; switches: promotions and rollbacks in all, of which the first `commands` are
            commands.
    """

    def __init__(self, place: Path, base: Path, adapters: list[Path], switches: int, commands: int, **job: Any) -> None:
        self.switches, self.commands, self._place = switches, commands, place
        self._numbers = range(1, len(adapters) + 1)
        (place / "docs").mkdir()
        (place / "docs" / "houses.md").write_text("# Houses\n\nHouse 1 has held 4 barrels since the year 1701.\n")
        self._config = place / "raft.yaml"
        values = {
            "name": NAME,
            "store": str(place / "store"),
            "corpus": [str(place / "docs")],
            "models": {"base": str(base)},
        }
        self._config.write_text(json.dumps(values))  # JSON is YAML
        self.registry = _registry(place / "store", adapters)
        self.registry.promote(1, reason="the first")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        whole = {"base": str(base), "config": str(self._config), "port": self._port, **job}
        (place / "promotion.json").write_text(json.dumps(whole))
        self._promoted: list[tuple[float, float, int]] = [(0.0, 0.0, 1)]  # begin and end of the switch, to what
        self._right: dict[str, str] = {}
        self.ends: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._over = threading.Event()

    def run(self) -> dict[str, Any]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])}
        server = subprocess.Popen(
            [sys.executable, "-P", __file__, str(self._place / "promotion.json")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            assert server.stdout
            if not server.stdout.readline().startswith("http"):
                raise RuntimeError(f"the server ended with code {server.wait()}")
            return self._run()
        finally:
            server.terminate()
            server.wait(60)

    def _run(self) -> dict[str, Any]:
        for number in self._numbers:
            self._right[f"{NAME}@{number}"] = self._ask(f"{NAME}@{number}/raw", False)[1]
        compiled = self._figures()["raft_compiled_programs_total"]
        threads = [threading.Thread(target=self._client, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            times = [self._switch(number) for number in range(self.switches)]
        finally:
            self._over.set()
            for thread in threads:
                thread.join()
        commands = [one for one in times[: self.commands] if one]
        after = self._at_rest()
        return {
            "lost": sum(count for end, count in self.ends.items() if end != "answered") + int(after["left"]),
            "ends": dict(self.ends),
            "compiles": int(after["raft_compiled_programs_total"] - compiled),
            "left_loaded": int(after["left"]),
            "seconds_from_command": _spread([from_start for from_start, _ in commands]),
            "seconds_from_its_end": _spread([from_end for _, from_end in commands]),
            "seconds_from_registry": _spread([from_end for _, from_end in times[self.commands :]]),
            "figures": {"promotion_seconds": max(from_start for from_start, _ in commands)},
        }

    def _switch(self, number: int) -> tuple[float, float]:
        """One promotion or rollback; seconds from its begin and from its end to the first answer of the version."""
        draw, now = random.Random(number), self._promoted[-1][2]
        to = draw.choice([n for n in self._numbers if n != now])
        back = number % 3 == 2 and self.registry.read().before
        begin = time.monotonic()
        if number < self.commands:
            verb = ["rollback"] if back else ["promote", str(to)]
            words = [sys.executable, "-P", "-m", "flows.cli", *verb, "--config", str(self._config)]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            subprocess.run(words, env=environment, check=True, stdout=subprocess.DEVNULL)
        elif back:
            self.registry.roll_back(reason="benchmark")
        else:
            self.registry.promote(to, reason="benchmark")
        end = time.monotonic()
        to = self.registry.read().promoted or 0
        self._promoted.append((begin, end, to))
        while True:
            model, _, head = self._ask(f"{NAME}/raw", True)
            if model == f"{NAME}@{to}/raw":
                return head - begin, head - end
            if head - end > 60:
                raise RuntimeError(f"version {to} did not come into use within a minute")

    def _client(self, number: int) -> None:
        draw = random.Random(f"client {number}")
        while not self._over.is_set():
            begin, stream = time.monotonic(), draw.random() < 0.5
            try:
                model, text, head = self._ask(f"{NAME}/raw", stream)
            except (OSError, ValueError, LookupError, http.client.HTTPException) as error:
                end = f"lost ({type(error).__name__})"
            else:
                end = self._judged(model.removesuffix("/raw"), text, begin, head)
            with self._lock:
                self.ends[end] += 1
            time.sleep(draw.random() * 0.05)

    def _judged(self, model: str, text: str, begin: float, head: float) -> str:
        number = int(model.partition("@")[2])
        for _ in range(200):  # the switch that brought the version may not be written down yet
            ends = [end for _, end, _ in self._promoted[1:]] + [math.inf]
            spans = zip(self._promoted, ends, strict=False)
            if any(n == number and since <= head and until >= begin for (since, _, n), until in spans):
                return "answered" if text == self._right[model] else "wrong text"
            time.sleep(0.05)
        return "not promoted then"

    def _ask(self, model: str, stream: bool) -> tuple[str, str, float]:
        """Model, text, and when the head of the answer came."""
        body = {
            "model": model,
            "prompt": PROMPT,
            "max_tokens": 8,
            "temperature": 0,
            "ignore_eos": True,
            "stream": stream,
        }
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=300)
        with contextlib.closing(connection):
            connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
            reply = connection.getresponse()
            head, text = time.monotonic(), reply.read().decode()
        if reply.status != 200:
            raise ValueError(text)
        if not stream:
            whole = json.loads(text)
            return whole["model"], whole["choices"][0]["text"], head
        lines = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
        if lines[-1] != "[DONE]":
            raise ValueError("the stream broke off")
        pieces = [json.loads(line) for line in lines[:-1]]
        text = "".join(choice["text"] for piece in pieces for choice in piece["choices"])
        return pieces[0]["model"], text, head

    def _figures(self) -> dict[str, float]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        with contextlib.closing(connection):
            connection.request("GET", "/metrics")
            lines = connection.getresponse().read().decode().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}

    def _at_rest(self) -> dict[str, float]:
        """The server's figures once old versions had time to leave, and how many did not (`left`)."""
        for _ in range(1000):
            figures = self._figures()
            left = max(figures["raft_adapters_in_memory"], figures["raft_adapter_slots_held"]) - 1
            if left <= 0:
                break
            time.sleep(0.1)
        return {**figures, "left": max(left, 0)}


def _registry(root: Path, adapters: list[Path]) -> Any:
    """A registry with a version for each adapter, whose files lie in the store."""
    import shutil

    from tasks.adapters.registry import Registry
    from tasks.store.store import Store

    store = Store(root)
    store.prepare()
    registry = Registry(store, NAME)
    for number, folder in enumerate(adapters, 1):
        with store.publish("export", f"benchmark{number}") as (out, manifest):
            shutil.copytree(folder, out / "adapter")
        registry.register({"export": manifest}, reason="benchmark")
    return registry


def _spread(seconds: list[float]) -> dict[str, float] | None:
    if not seconds:
        return None
    return {"median": round(statistics.median(seconds), 3), "max": round(max(seconds), 3), "count": len(seconds)}


if __name__ == "__main__":
    serve(json.loads(Path(sys.argv[1]).read_text()))

"""Thousands of requests of every end against the server with a tiny model, while versions come and go, and a kill.

    python soak.py JOB.json      # a child of serving.py: the server

Clients ask the adapter's version in use and the base, whole and streamed, send what is refused, and hang up. Every so
many requests the next version is in use, and the one before leaves. A third of the way the server is
killed (-9) and started again. An answer must be the one that the same question got from the same version before.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COPIES = 4  # adapters with numbers of their own; version n is a name for the copy n modulo this
QUESTIONS = [f"What is kept in house {n}, and since when?" for n in range(40)]


def serve(job: dict[str, Any]) -> None:
    """The child: a server whose version in use stands in a file."""
    from jora_engine.generation.adapter_memory import AdapterMemory
    from jora_engine.generation.batching import Engine
    from jora_engine.generation.loaded import load_model
    from retrieval.search import Retriever
    from serving.domain import Domain, ServedVersion
    from serving.engine_loop import EngineLoop
    from serving.gateway import Gateway
    from serving.server import run_server
    from serving.state import Limits, Server

    base, adapters, current = Path(job["base"]), [Path(p) for p in job["adapters"]], Path(job["current"])
    model = load_model(base, dtype="float32")
    memory = AdapterMemory(model.config, "float32", max_bytes=job["adapter_bytes"])
    engine = Engine(model, 8, adapters=memory, adapter_rank=8, prefix_bytes=job["prefix_bytes"], chunks_between=1)

    def find(number: int | None) -> ServedVersion:
        number = int(current.read_text()) if number is None else number
        return ServedVersion(f"faq@{number}", adapters[number % len(adapters)])

    retriever = Retriever(None, None, chunks(), mode="lexical")
    gateway = Gateway(base, {}, {"faq": Domain("faq", retriever, find)}, memory, job["longest"], "soak")
    server = Server(gateway, EngineLoop(engine), Limits(deadline_seconds=120.0, queue=64))

    run_server(
        server,
        "127.0.0.1",
        job["port"],
        keys=[],
        hosts=[],
        warm=lambda: None,  # the few programs that these requests need compile with the first of them
        say=lambda address: print(address, flush=True),
    )


def chunks() -> list[Any]:
    """The passages that are searched."""
    from data.nouns import Chunk

    texts = [f"House {n} has held {n + 3} barrels since the year {1700 + n}." for n in range(40)]
    return [
        Chunk(
            id=f"house-{n}",
            document_id="houses",
            ordinal=n,
            tokens=10,
            sha256="",
            source="houses.md",
            title=f"House {n}",
            text=text,
            start=0,
            end=len(text),
        )
        for n, text in enumerate(texts)
    ]


@dataclass
class Tally:
    """What the clients saw.

    Attributes:
        ends: requests by how they ended.
        wrong: answers other than the same question got before.
        memory: MiB of the server's process at times.
    """

    ends: Counter[str] = field(default_factory=Counter)
    answers: dict[tuple[str, str], str] = field(default_factory=dict)
    wrong: int = 0
    memory: list[tuple[int, float]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Soak:
    """A server's life and its clients.

    Args:
        cycles: versions that come into use over all requests.
    """

    def __init__(self, place: Path, base: Path, adapters: list[Path], requests: int, cycles: int) -> None:
        self.requests, self.cycles = requests, cycles
        self._place, self._current = place, place / "current"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        job = {
            "base": str(base),
            "adapters": [str(path) for path in adapters],
            "current": str(self._current),
            "adapter_bytes": 1 << 20,
            "prefix_bytes": 4 << 20,
            "longest": 1500,
            "port": self._port,
        }
        (place / "soak.json").write_text(json.dumps(job))
        self._next, self.tally = 0, Tally()
        self._counts: list[dict[str, float]] = []

    def run(self) -> dict[str, Any]:
        self._use(0)
        self._start()
        try:
            seconds = self._live_twice()
            self._server.terminate()
            code = self._server.wait(60)
        finally:
            self._server.kill()
        return {**self._figures(), "requests_per_second": round(self.requests / seconds, 1), "ended_with": code}

    def _live_twice(self) -> float:
        """Seconds of all requests, with a kill after a third of them."""
        first, began = self.requests // 3, time.perf_counter()
        self._ask_until(first)
        self._counts.append(self._counters())
        killing = threading.Timer(0.05, lambda: os.kill(self._server.pid, signal.SIGKILL))
        killing.start()
        self._ask_until(first + 16)
        killing.join()
        self._server.wait()
        self._start()
        self._ask_until(self.requests)
        seconds = time.perf_counter() - began
        self._counts.append(self._counters())
        return seconds

    def _use(self, version: int) -> None:
        new = self._place / "next"
        new.write_text(str(version))
        new.replace(self._current)

    def _start(self) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "JAX_COMPILATION_CACHE_DIR": str(self._place / "programs"),  # of the first life, for the second
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        self._server = subprocess.Popen(
            [sys.executable, __file__, str(self._place / "soak.json")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._server.stdout
        if not self._server.stdout.readline().startswith("http"):
            raise RuntimeError(f"the server ended with code {self._server.wait()}")

    def _ask_until(self, end: int) -> None:
        threads = [threading.Thread(target=self._client, args=(number, end)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _client(self, number: int, end: int) -> None:
        draw = random.Random(f"{number} {end}")
        while True:
            with self.tally.lock:
                index = self._next
                if index >= end:
                    return
                self._next += 1
                if index * self.cycles // self.requests != (index - 1) * self.cycles // self.requests:
                    self._use(index * self.cycles // self.requests)
                if index % max(1, self.requests // 300) == 0:
                    self.tally.memory.append((index, self._resident()))
            try:
                end_of_it = self._one(draw)
            except (OSError, http.client.HTTPException):
                end_of_it = "interrupted"  # by the kill
                time.sleep(0.02)
            with self.tally.lock:
                self.tally.ends[end_of_it] += 1

    def _one(self, draw: random.Random) -> str:
        kind = draw.choices(["whole", "stream", "refused", "unknown", "hang up"], [60, 25, 5, 5, 5])[0]
        question, model = draw.choice(QUESTIONS), draw.choice(["faq", "faq", "base"])
        body: dict[str, Any] = {
            "model": "nobody" if kind == "unknown" else model,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": 40 if kind == "hang up" else 6,
            "temperature": 9 if kind == "refused" else 0,
            "stream": kind in ("stream", "hang up"),
            "ignore_eos": True,
        }
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        with contextlib.closing(connection):
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
            reply = connection.getresponse()
            if kind == "hang up":
                reply.read(1)
                return "hung up"
            text = reply.read().decode()
        if reply.status != 200:
            return "refused"
        if kind != "stream":
            whole = json.loads(text)
            self._compare(whole["model"], question, whole["choices"][0]["message"]["content"])
            return "answered"
        lines = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
        if lines[-1] != "[DONE]":
            return "broken off"
        pieces = [json.loads(line) for line in lines[:-1]]
        content = "".join(piece["choices"][0]["delta"].get("content") or "" for piece in pieces)
        self._compare(pieces[0]["model"], question, content)
        return "answered"

    def _compare(self, model: str, question: str, content: str) -> None:
        name = model if model == "base" else f"copy {int(model.partition('@')[2]) % COPIES}"
        with self.tally.lock:
            self.tally.wrong += self.tally.answers.setdefault((name, question), content) != content

    def _counters(self) -> dict[str, float]:
        """The server's own, once nothing is under way."""
        for _ in range(200):
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
            with contextlib.closing(connection):
                connection.request("GET", "/metrics")
                lines = connection.getresponse().read().decode().splitlines()
            values = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}
            ended = sum(v for name, v in values.items() if name.startswith("raft_requests_ended_total"))
            if values["raft_requests_received_total"] == ended:
                break
            time.sleep(0.05)
        return {**values, "unaccounted": values["raft_requests_received_total"] - ended}

    def _resident(self) -> float:
        with contextlib.suppress(OSError, IndexError):
            pages = int(Path(f"/proc/{self._server.pid}/statm").read_text().split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
        return 0.0

    def _figures(self) -> dict[str, Any]:
        ends, last = self.tally.ends, self._counts[-1]
        third = [mib for index, mib in self.tally.memory if index >= 2 * self.requests // 3]
        quarter = max(1, len(third) // 4)
        begin, end = statistics.median(third[:quarter]), statistics.median(third[-quarter:])
        lost = abs(self.requests - sum(ends.values())) + ends["broken off"] + self.tally.wrong
        return {
            "lost": int(lost + sum(abs(counts["unaccounted"]) for counts in self._counts)),
            "memory_growth": round(end / begin - 1, 4),
            "memory_mib": [round(begin, 1), round(end, 1)],
            "ends": dict(ends),
            "wrong": self.tally.wrong,
            "cycles": self.cycles,
            "slots_used": last["raft_adapter_slots_used"],
            "adapters_in_memory": last["raft_adapters_in_memory"],
            "prefix_bytes": last["raft_prefix_bytes"],
        }


if __name__ == "__main__":
    serve(json.loads(Path(sys.argv[1]).read_text()))

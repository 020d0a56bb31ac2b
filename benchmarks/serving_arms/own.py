"""This project's side: the engine in the thread in which `raft serve` runs it, asked by threads of this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jora_engine.adapters.peft_folder import write_adapter
from jora_engine.config.lora import LoraConfig
from jora_engine.config.parameters import linear_layers
from jora_engine.files.weights import read_model_config
from jora_engine.generation.adapter_memory import AdapterMemory
from jora_engine.generation.batching import Engine
from jora_engine.generation.compiles import count_compiles, watch_compiles
from jora_engine.generation.loaded import load_model
from jora_engine.generation.requests import Job, Request
from serving.engine_loop import EngineLoop
from serving_arms.load import Ask, Block

AHEAD = 8  # requests that wait for a row while the load is above capacity: their adapters are read meanwhile


def make_adapters(
    base: Path,
    root: Path,
    numbers: Iterable[int],
    rank: int,
    extra: Mapping[str, Any] | None = None,
    size: float = 0.02,
) -> list[Path]:
    """Adapters of random factors of that size, B not 0, on all linear layers, where none is yet; `extra` goes into
    raft.json."""
    model, lora, out = read_model_config(base), LoraConfig(rank=rank, alpha=float(rank)), []
    shapes = {name: linear_layers(model)[name].shape for name in lora.targets(model)}
    for number in numbers:
        folder = root / f"a{number}"
        if folder.is_dir():  # of an earlier run: folders appear whole
            out.append(folder)
            continue
        rng = np.random.default_rng(number)
        factors = {
            name: {
                part: rng.standard_normal((model.num_layers, *shape), np.float32) * np.float32(size)
                for part, shape in (("a", (rank, columns)), ("b", (rows, rank)))
            }
            for name, (rows, columns) in shapes.items()
        }
        out.append(write_adapter(folder, factors, lora, model, "base", extra))
    return out


class Own:
    """An engine as `raft serve` makes it, and its adapters by number.

    Attributes:
        lost: requests that did not end as they should.
    """

    def __init__(
        self,
        base: Path,
        adapters: Sequence[Path],
        *,
        rows: int,
        rank: int,
        longest: int,
        adapter_bytes: int,
        prefix_bytes: int = 0,
        dtype: str = "bfloat16",
    ) -> None:
        watch_compiles()
        self.model = load_model(base, dtype=dtype)
        self.memory = AdapterMemory(self.model.config, dtype, max_bytes=adapter_bytes)
        for number, folder in enumerate(adapters):
            self.memory.register(f"a{number}", folder)
        self.engine = Engine(
            self.model,
            rows,
            adapters=self.memory,
            adapter_rank=rank,
            prefix_bytes=prefix_bytes,
            chunks_between=1,
        )
        self.engine.warm(longest)
        self.loop, self.lost = EngineLoop(self.engine), 0
        self.loop.start()
        self.saturate([Ask((3,) * 9, 3, 0 if adapters else None)] * 2)
        self._compiled = count_compiles()

    @property
    def vocab(self) -> int:
        return self.model.config.vocab_size

    @property
    def compiles(self) -> int:
        """Programs compiled since everything was warm."""
        return count_compiles() - self._compiled

    def close(self) -> None:
        self.loop.stop()

    def saturate(self, asks: Sequence[Ask], listen: bool = False) -> Block:
        """All requests, as fast as they go: a few always wait, so that no row is idle before the end."""
        room = threading.Semaphore(self.engine.rows + AHEAD)
        jobs, first, due = [], dict[int, float](), dict[int, float]()
        began, cpu = time.perf_counter(), time.process_time()
        for number, ask in enumerate(asks):
            room.acquire()
            due[number] = time.perf_counter()

            def heard(text: str, number: int = number) -> None:
                first.setdefault(number, time.perf_counter() - due[number])

            jobs.append(self._submit(ask, heard if listen else None, lambda job: room.release()))
        for _ in range(self.engine.rows + AHEAD):
            room.acquire()
        return self._block(jobs, began, cpu, list(first.values()))

    def users(self, each: Sequence[Sequence[Ask]], think_seconds: float) -> Block:
        """One user per list, who asks the next when the answer to the last has come and some time has passed."""
        jobs: list[Job] = []
        first: list[float] = []
        began, cpu = time.perf_counter(), time.process_time()

        def user(asks: Sequence[Ask]) -> None:
            due = began
            for ask in asks:
                time.sleep(max(0.0, due - time.perf_counter()))
                heard: list[float] = []
                ended = threading.Event()
                jobs.append(
                    self._submit(ask, lambda _, to=heard: to.append(time.perf_counter()), lambda _, e=ended: e.set())
                )
                ended.wait()
                first.append(heard[0] - due)
                due = time.perf_counter() + think_seconds

        threads = [threading.Thread(target=user, args=(asks,)) for asks in each]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self._block(jobs, began, cpu, first)

    def first_token(self, ask: Ask) -> float:
        """Seconds to the first token of one request alone."""
        return self.saturate([ask], listen=True).first[0]

    def asked(self) -> dict[str, tuple[int, int]]:
        """How often an adapter was wanted, and was there: in memory, in a slot."""
        figures = {"memory": self.memory.figures(), "slots": self.engine.slots.figures()}
        return {name: (of["asked"], of["hits"]) for name, of in figures.items()}

    def hit_rates(self, before: Mapping[str, tuple[int, int]]) -> dict[str, float]:
        """Shares since `asked` gave `before`."""
        since = {name: [now - was for now, was in zip(of, before[name])] for name, of in self.asked().items()}
        return {name: hits / max(asked, 1) for name, (asked, hits) in since.items()}

    def _submit(self, ask: Ask, on_text: Any, on_done: Any) -> Job:
        name = None if ask.adapter is None else f"a{ask.adapter}"
        request = Request(ask.prompt, ask.new_tokens, adapter=name, ignore_eos=True)
        return self.loop.submit(request, on_text, on_done)

    def _block(self, jobs: Sequence[Job], began: float, cpu: float, first: list[float]) -> Block:
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        right = [j for j in jobs if j.completion and len(j.completion.token_ids) == j.request.max_new_tokens]
        self.lost += len(jobs) - len(right)
        return Block(seconds, cpu, len(right), sum(len(j.made) for j in right), first)

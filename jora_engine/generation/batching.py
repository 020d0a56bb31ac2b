"""Continuous batching: requests of many adapters share one fixed number of rows, and come and go between decode calls.

A prompt enters in chunks of fixed sizes from position 0, some between two decode calls, so that a long one holds nobody
up; a row that ends is free at once. Rows, chunks and adapter slots have fixed shapes and what a request asks for is
data, so a request compiles nothing and its tokens are those that it would get alone. One thread calls `step`; `submit`
and `cancel` may be called from any.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jora_engine.generation import decode as programs
from jora_engine.generation.adapter_memory import AdapterMemory, unknown_adapter
from jora_engine.generation.adapter_slots import AdapterSlots
from jora_engine.generation.decode import STEPS, Limits, Rows
from jora_engine.generation.loaded import LoadedModel
from jora_engine.generation.prefix_cache import PrefixCache, chunk_key
from jora_engine.generation.requests import Completion, Job, Request, TokenScore, check_request
from jora_engine.generation.row_arrays import limits, row_arrays
from jora_engine.generation.sampling import Sampling
from jora_engine.model import kv_cache
from jora_engine.model.rope_table import by_length
from raft_errors import BadInput

CHUNKS = (32, 64, 128, 256)  # tokens of a prompt run at once
AHEAD = 128  # new tokens that a fresh row's columns allow for: growing later means another program
PATIENCE = 32  # decode calls after which columns that no row needs are dropped


class Engine:
    """A model, its rows, and the requests in them.

    Attributes:
        rows: requests decoded side by side, fixed: with fewer than 8 XLA:CPU is slower and rounds differently.
        adapters: the adapters that requests may name; None for none.
        prefixes: chunks kept for later prompts; None for none.
    """

    def __init__(
        self,
        model: LoadedModel,
        rows: int,
        *,
        adapters: AdapterMemory | None = None,
        adapter_rank: int = 0,
        prefix_bytes: int = 0,
        chunks_between: int | None = None,
    ) -> None:
        """Args:
        adapter_rank: rank that the slots are made for from the start; without it the first adapter makes new programs.
        prefix_bytes: bound of the prefix cache, 0 for none.
        chunks_between: prompt chunks run between two decode calls at most, for each row whose prompt is still run: with
            fewer most rows would wait for their prompt while few decode. None runs the prompts of all free rows first,
            which serves a batch fastest and makes a listener wait.
        """
        self.model, self.rows, self.adapters = model, rows, adapters
        self.prefixes = PrefixCache(prefix_bytes) if prefix_bytes else None
        # one slot does for an adapter that is everybody's
        self.slots = AdapterSlots(model.config, model.dtype, rows if model.adapter is None else 1)
        if adapter_rank:
            self.slots.reserve(adapter_rank)
        self._chunks_between = chunks_between
        self._waiting: deque[Job] = deque()
        self._rows: list[Job | None] = [None] * rows
        self._lock = threading.Lock()
        self._cache = self._new_cache(rows, kv_cache.FIRST)
        self._unneeded = self._admitted = 0
        self._leaving: set[str] = set()  # digests of adapters that were unloaded
        self._forgetting = False
        self._probed: set[str] = set()  # digests of adapters that passed
        self._base_probe: np.ndarray | None = None
        shape = rows, model.config.vocab_size
        self._no_limits = Limits(jnp.zeros(shape, bool), jnp.zeros(shape, jnp.float32))
        self._angles_by_length = any(kind.rope and by_length(kind.rope) for kind in model.config.kinds)

    def submit(
        self,
        request: Request,
        on_text: Callable[[str], None] | None = None,
        on_done: Callable[[Job], None] | None = None,
        name: str = "the prompt",
    ) -> Job:
        """Puts a request into the queue. Its adapter is read from disk here, in the caller's thread, if need be.

        Args:
            on_text: called in the engine's thread with the text so far, every few tokens; each text begins with the one
                before it, and the last one is the completion's.
            on_done: called in the engine's thread once, with the job ended.
            name: of the prompt, for messages.

        Raises:
            BadInput: the request cannot work, or its adapter is unknown or broken.
        """
        check_request(request, self.model.config, name)
        memory = self.adapters or AdapterMemory(self.model.config, self.model.dtype)
        name_of = request.adapter if isinstance(request.adapter, str) else None
        prepared = None if isinstance(request.adapter, str) else request.adapter
        adapter = (prepared or self.model.adapter) if name_of is None else memory.get(name_of)
        job = Job(request, adapter, on_text, on_done)
        with self._lock:
            if name_of is not None and not memory.registered(name_of):
                raise unknown_adapter(name_of)  # unloaded while it was read
            if prepared and prepared.digest not in memory.digests():
                self._leaving.add(prepared.digest)  # unloaded since it was prepared: it goes again with this request
            self._waiting.append(job)
        return job

    def cancel(self, job: Job) -> None:
        """Ends a job as `abort` before the next decode call; one that has ended stays as it is."""
        job.cancelled = True

    def unload(self, name: str) -> None:
        """Forgets an adapter's name and its host memory at once, and the mixtures that hold it; slots and cached chunks
        go with their last row.

        Requests that were submitted before still run with it.
        """
        if self.adapters is None:
            return
        with self._lock:
            self._leaving |= self.adapters.remove(name)

    def forget_prompts(self) -> None:
        """Drops all cached chunks before the next step and keeps none of the requests under way, for texts that must be
        gone."""
        self._forgetting = True

    def pending(self) -> int:
        """Requests that wait for a row."""
        return len(self._waiting)

    def running(self) -> int:
        """Rows in use."""
        return sum(job is not None for job in self._rows)

    def step(self) -> bool:
        """Frees rows of cancelled requests, fills free ones, runs prompt chunks and one decode call.

        Returns:
            Whether there is more to do.
        """
        self._drop_cancelled()
        self._drop_unloaded()
        self._admit()
        self._fit()
        self._prefill()
        self._decode()
        with self._lock:
            return bool(self._waiting) or any(self._rows) or bool(self._leaving)

    def run(self) -> None:
        """Steps until nothing is left to do."""
        while self.step():
            pass

    def probe(self, name: str) -> None:
        """Checks that an adapter changes what the base says, as one whose B is not 0 must; not while `step` runs.

        Raises:
            BadInput: unknown or broken, it changes nothing, or logits are not finite; it is remembered as broken.
        """
        assert self.adapters is not None
        adapter = self.adapters.get(name)
        if adapter.digest in self._probed:
            return
        prompt = [number % self.model.config.vocab_size for number in range(CHUNKS[0])]
        if self._base_probe is None:
            self._base_probe = self.logits(prompt)
        own = self.logits(prompt, name)
        wrong = "changes nothing" if adapter.adds and np.array_equal(self._base_probe, own) else ""
        if wrong := wrong or ("" if np.isfinite(own).all() else "gives numbers that are not finite"):
            error = BadInput(f"adapter {name!r} {wrong}", expected="an adapter of this base", do="export it again")
            self.adapters.refuse(name, error)
            raise error
        self._probed.add(adapter.digest)

    def clear(self) -> None:
        """Cancels everything and gives all rows back."""
        with self._lock:
            jobs = [*self._waiting, *filter(None, self._rows)]
        for job in jobs:
            self.cancel(job)
        self._drop_cancelled()

    def fail(self, error: Exception) -> None:
        """Ends everything with an error after a step that raised, and makes the cache anew: a failed program may have
        consumed it."""
        with self._lock:
            waiting, self._waiting = list(self._waiting), deque()
        for job in waiting:
            self._end(job, error)
        for place, row in enumerate(self._rows):
            if row:
                self._free(place, error)
        self._cache = self._new_cache(self.rows, kv_cache.FIRST)

    def warm(self, longest: int, progress: Callable[[int, int, str], None] = lambda done, total, what: None) -> None:
        """Compiles every program that requests of up to so many tokens, prompt and answer, can need.

        Args:
            progress: called with how many steps are done, how many there are, and what the next one prepares.
        """
        model, last = self.model, kv_cache.columns_for(longest + STEPS)
        widths = [kv_cache.FIRST]
        while widths[-1] * 2 <= last:
            widths.append(widths[-1] * 2)
        steps = [(columns, size) for columns in widths for size in (*(s for s in CHUNKS if s <= columns), 0)]
        idle = row_arrays(self._rows, model.tokenizer.eos_ids)
        progress(0, len(steps), "adapters")
        self.slots.warm()
        for done, (columns, size) in enumerate(steps):
            within = f"in conversations of up to {columns} tokens"
            progress(done, len(steps), f"prompts, {size} tokens at once, {within}" if size else f"answers, {within}")
            if done == 0 or columns != steps[done - 1][0]:
                cache = self._new_cache(self.rows, columns)
            if size:
                _, cache, chunk = self._run_chunk(cache, 0, 0, np.zeros(size, np.int32), size, 0)
                if self.prefixes is not None:
                    cache = programs.restore(cache, 0, 0, chunk)
            else:
                self._run_steps(cache, idle, self._no_limits)
        progress(len(steps), len(steps), "done")

    def logits(self, prompt: Sequence[int], adapter: str | None = None) -> np.ndarray:
        """Float32 logits `[len(prompt), vocab]` of a prompt, computed as generation computes them."""
        check_request(Request(tuple(prompt), 0), self.model.config)
        named = self.adapters.get(adapter) if adapter is not None and self.adapters else self.model.adapter
        slot = self.slots.acquire(named)
        try:
            cache = self._new_cache(1, kv_cache.columns_for(_width(len(prompt), 0)))
            hidden, start = [], 0
            while start < len(prompt):
                part = _chunk(prompt, start, len(prompt))
                x, cache, _ = self._run_chunk(cache, 0, start, part, len(prompt), slot)
                hidden.append(x)
                start += len(part)
            x = programs.logits(self.model.params, jnp.concatenate(hidden), config=self.model.config)
            return np.asarray(x[: len(prompt)], np.float32)
        finally:
            self.slots.release(slot)

    def figures(self) -> dict[str, Any]:
        """For people and metrics."""
        return {
            "running": self.running(),
            "waiting": self.pending(),
            "columns": kv_cache.columns_of(self._cache),
            "slots": self.slots.figures(),
            "adapters": self.adapters.figures() if self.adapters else {},
            "prefixes": self.prefixes.figures() if self.prefixes is not None else {},
        }

    # ---- rows

    def _drop_cancelled(self) -> None:
        with self._lock:
            gone = [job for job in self._waiting if job.cancelled]
            self._waiting = deque(job for job in self._waiting if not job.cancelled)
        for job in gone:
            self._end(job, self._aborted(job))
        for place, row in enumerate(self._rows):
            if row and row.cancelled:
                self._free(place, self._aborted(row))

    def _drop_unloaded(self) -> None:
        """Frees what unloaded adapters still hold, once no request has them."""
        if self._forgetting and self.prefixes is not None:
            self._forgetting = False
            self.prefixes.forget()
            with self._lock:
                for job in filter(None, [*self._waiting, *self._rows]):
                    job.kept = False
        if not self._leaving:
            return
        with self._lock:
            jobs = [*self._waiting, *self._rows]
            used = {job.adapter.digest for job in jobs if job and job.adapter}
            back = self.adapters.digests() if self.adapters else set()  # loaded again since
            gone, self._leaving = self._leaving - used - back, (self._leaving & used) - back
        for digest in gone:
            self.slots.evict(digest)
            if self.prefixes is not None:
                self.prefixes.forget(digest)

    def _aborted(self, job: Job) -> Completion:
        return job.completed(job.settled(self.model.tokenizer), len(job.made), "abort")

    def _admit(self) -> None:
        """Gives free rows, and slots, to those who have waited longest."""
        for place, row in enumerate(self._rows):
            if row is not None:
                continue
            job = self._waiting[0] if self._waiting else None
            if job is None:
                return
            job.slot = self.slots.acquire(job.adapter)  # it waits until then, so that one who fails here is told
            with self._lock:
                self._waiting.popleft()
            job.number = self._admitted = self._admitted + 1
            job.times.admitted = time.time_ns()
            self._rows[place] = job

    def _free(self, place: int, end: Completion | Exception) -> None:
        """The one way out of a row: its slot is given back, its caller told."""
        job = self._rows[place]
        assert job is not None
        self._rows[place] = None
        self.slots.release(job.slot)
        self._end(job, end)

    def _end(self, job: Job, end: Completion | Exception) -> None:
        job.times.ended = time.time_ns()
        if isinstance(end, Completion):
            job.completion = end
            if job.on_text and end.finish_reason != "abort":
                job.on_text(end.text)
        else:
            job.error = end
        if job.on_done:
            job.on_done(job)

    def _new_cache(self, rows: int, columns: int) -> kv_cache.Cache:
        cache = kv_cache.new_cache(self.model.config, rows, columns, self.model.cache_dtype)
        return jax.device_put(cache, jax.devices()[0])  # committed like all later ones, or programs compile twice

    def _fit(self) -> None:
        """Columns as the rows need them: wider at once, narrower when nobody has needed them for a while."""
        jobs = [job for job in self._rows if job]
        if not jobs:
            return
        columns = kv_cache.columns_for(max(map(_columns_of, jobs)))
        have = kv_cache.columns_of(self._cache)
        self._unneeded = self._unneeded + 1 if columns < have else 0
        if columns > have or self._unneeded > PATIENCE:
            cache = kv_cache.resized(self.model.config, self._cache, self.rows, columns, self.model.cache_dtype)
            self._cache, self._unneeded = jax.device_put(cache, jax.devices()[0]), 0

    # ---- prompts

    def _prefill(self) -> None:
        """Runs chunks of prompts, the one that was begun first to its end; those from the cache cost nothing."""
        places = [place for place, job in enumerate(self._rows) if job and not job.ready]
        budget = None
        if self._chunks_between is not None and any(job and job.ready for job in self._rows):
            budget = self._chunks_between * len(places)
        for place in sorted(places, key=lambda place: self._rows[place].number):  # type: ignore[union-attr]
            job = self._rows[place]
            while job and not job.ready:
                if budget is not None and budget <= 0:
                    return
                if self._next_chunk(place, job) and budget is not None:
                    budget -= 1
                if budget is None and self._chunks_between is not None and job.ready:
                    return  # it can be decoded while the next prompt is run

    def _next_chunk(self, place: int, job: Job) -> bool:
        """Runs the next chunk of a row's prompt, or takes it from the cache; says whether it was computed."""
        start, prompt = job.prefilled, job.request.prompt
        part = _chunk(prompt, start, job.waits_for)
        own = prompt[start : min(start + len(part), job.waits_for)]
        job.prefilled = start + len(part)
        chunk = None
        if self.prefixes is not None:
            job.parent = self._key(job, own, len(part))
            chunk = self.prefixes.get(job.parent, len(own))
        if chunk is not None:
            self._cache = programs.restore(self._cache, place, start, chunk)
            job.cached_tokens += len(own)
            return False
        _, self._cache, chunk = self._run_chunk(self._cache, place, start, part, len(prompt), job.slot)
        if self.prefixes is not None and job.kept:
            self.prefixes.put(job.parent, chunk, job.adapter.digest if job.adapter else None)
        return True

    def _key(self, job: Job, own: Sequence[int], padded: int) -> str:
        return chunk_key(
            job.parent,
            own,
            padded=padded,
            weights=f"{self.model.identity} {self.model.dtype}",
            adapter=job.adapter.digest if job.adapter else None,
            tenant=job.request.tenant,
            length=len(job.request.prompt) if self._angles_by_length else None,
        )

    def _run_chunk(self, cache, row: int, start: int, part: np.ndarray, length: int, slot: int):
        model = self.model
        frozen = (model.params, model.layers, self.slots.layers)
        return programs.prefill(*frozen, cache, row, start, part, length, slot, model.config, model.native)

    # ---- tokens

    def _run_steps(self, cache, arrays: tuple[Rows, Sampling, np.int32], held: Limits):
        model = self.model
        frozen = (model.params, model.layers, self.slots.layers)
        return programs.decode(*frozen, cache, *arrays, held, config=model.config, native=model.native)

    def _decode(self) -> None:
        jobs = [job if job and job.ready else None for job in self._rows]
        if not any(jobs):
            return
        for decoded in filter(None, jobs):
            decoded.times.ready = decoded.times.ready or time.time_ns()
        try:
            held = limits(jobs, self._no_limits)
        except Exception as error:  # noqa: BLE001  a constraint is the caller's code, and its fault that job's alone
            self._blame(jobs, error)
            return
        arrays = row_arrays(self._rows, self.model.tokenizer.eos_ids)
        self._cache, made = self._run_steps(self._cache, arrays, held)
        tokens = np.asarray(made.token)
        scored = any(job and job.request.logprobs is not None for job in jobs)
        scores = [np.asarray(x) for x in made[1:]] if scored else []
        for place, job in enumerate(jobs):
            if job is None:
                continue
            try:
                self._take(place, job, tokens[place].tolist(), [x[place] for x in scores])
            except _CallerFault as fault:
                self._free(place, fault.error)

    def _take(self, place: int, job: Job, tokens: list[int], scores: list[np.ndarray]) -> None:
        """Adds what a row made, tells who listens, and frees the row if that ends it."""
        try:
            tokens = job.permitted(tokens)
        except Exception as error:
            raise _CallerFault(error) from error
        wanted = job.request.logprobs
        own = [] if wanted is None else [_score(t, n, scores, wanted) for n, t in enumerate(tokens) if t >= 0]
        completion = job.take(tokens, own, self.model.tokenizer)
        if completion:
            self._free(place, completion)
        elif job.on_text:
            job.on_text(job.settled(self.model.tokenizer))

    def _blame(self, jobs: list[Job | None], error: Exception) -> None:
        """Ends the jobs whose constraint fails."""
        for place, job in enumerate(jobs):
            if job and job.request.allowed:
                try:
                    job.request.allowed(job.made)
                except Exception as own:  # noqa: BLE001
                    self._free(place, own)


class _CallerFault(Exception):
    """What a caller's own function raised."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _score(token: int, number: int, scores: list[np.ndarray], wanted: int) -> TokenScore:
    logprob, best, ids = (x[number] for x in scores)
    pairs = tuple((int(i), float(p)) for i, p in zip(ids[:wanted], best[:wanted], strict=True) if i >= 0)
    return TokenScore(token, float(logprob), pairs)


def _chunk(prompt: Sequence[int], start: int, end: int) -> np.ndarray:
    """The tokens of the chunk from `start` on, padded to one of the sizes; whole ones first, so that what a chunk holds
    does not depend on what follows."""
    size = bucket(min(end - start, CHUNKS[-1]), CHUNKS)
    part = np.zeros(size, np.int32)
    own = prompt[start : min(start + size, end)]
    part[: len(own)] = own
    return part


def bucket(size: int, sizes: Sequence[int]) -> int:
    """The smallest of `sizes` that is at least `size`, else the largest."""
    return next((s for s in sizes if s >= size), sizes[-1])


def _columns_of(job: Job) -> int:
    ahead = max(len(job.made), min(job.request.max_new_tokens, AHEAD))
    return _width(job.waits_for, len(job.request.prompt) + ahead)


def _width(prefilled: int, used: int) -> int:
    """Columns that a row needs: its prompt in whole chunks, what an idle row may scribble behind them, the next
    tokens."""
    full, rest = divmod(prefilled, CHUNKS[-1])
    chunks = full * CHUNKS[-1] + (bucket(rest, CHUNKS) if rest else 0)
    return max(chunks, used + STEPS, CHUNKS[0])

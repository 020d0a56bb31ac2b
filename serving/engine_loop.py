"""The thread in which the engine runs, and what requests on other threads do with it.

Nothing of JAX is called on the event loop: a compile there would stop every stream. A step that fails ends the requests
under way with an error and leaves a usable engine.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from jora_engine.files.tokenizer import Spelling
from jora_engine.generation.batching import Engine
from jora_engine.generation.requests import Job, Request

log = logging.getLogger("raft.serving")


SWITCH_SECONDS = 0.0005
"""How long another thread may keep Python from the engine's: at each of its calls it would wait for Python's usual 5 ms
while a request's adapter or passages are prepared."""


class EngineLoop:
    """Steps an engine while there is work.

    Attributes:
        engine: only this thread calls its `step`.
        last_step: when the last step ended, by `time.monotonic`.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.last_step = time.monotonic()
        self._work = threading.Event()
        self._stopping = False
        self._probes: deque[tuple[str, Future[None]]] = deque()
        self._thread = threading.Thread(target=self._run, name="raft-engine", daemon=True)

    def start(self) -> None:
        sys.setswitchinterval(SWITCH_SECONDS)
        self._thread.start()

    def stop(self) -> None:
        """Cancels what is under way and ends the thread."""
        self._stopping = True
        self._work.set()
        if self._thread.is_alive():
            self._thread.join()
        while self._probes:
            self._probes.popleft()[1].cancel()

    def submit(
        self, request: Request, on_text: Callable[[str], None] | None, on_done: Callable[[Job], None] | None
    ) -> Job:
        """See `Engine.submit`; the callbacks are called in the engine's thread."""
        job = self.engine.submit(request, on_text, on_done)
        self._work.set()
        return job

    def cancel(self, job: Job) -> None:
        """Frees the job's row within one decode call."""
        self.engine.cancel(job)
        self._work.set()

    def unload(self, name: str) -> None:
        """See `Engine.unload`; an engine at rest frees slot and chunks at once too."""
        self.engine.unload(name)
        self._work.set()

    def forget_prompts(self) -> None:
        """Has the engine drop every prompt it remembers, before its next step."""
        self.engine.forget_prompts()
        self._work.set()

    def probe(self, name: str) -> None:
        """See `Engine.probe`; in the engine's thread between two steps, once a slot is free for it. Waits for it.

        Raises:
            BadInput: the adapter does not pass.
            CancelledError: the server ends.
        """
        if not self._thread.is_alive():
            self.engine.probe(name)
            return
        done: Future[None] = Future()
        self._probes.append((name, done))
        self._work.set()
        if self._stopping:  # `stop` may have looked for those who wait already
            done.cancel()
        done.result()

    def alive(self, seconds: float) -> bool:
        """Whether the thread runs, and has not been inside one step for longer than so many seconds."""
        idle = not self.engine.running() and not self.engine.pending()
        return self._thread.is_alive() and (idle or time.monotonic() - self.last_step < seconds)

    def pending(self) -> int:
        """Requests that wait for a row."""
        return self.engine.pending()

    def spell(self, token: int) -> Spelling:
        """How a token reads."""
        return self.engine.model.tokenizer.spelling(token)

    def figures(self) -> dict[str, Any]:
        return self.engine.figures()

    def _run(self) -> None:
        while not self._stopping:
            self._work.wait()
            self._work.clear()
            self.last_step = time.monotonic()
            while not self._stopping and (self._step() or self._probes):
                self._answer_probes()
                self.last_step = time.monotonic()
        self.engine.clear()

    def _answer_probes(self) -> None:
        while self._probes and self.engine.slots.has_room:
            name, done = self._probes.popleft()
            if not done.set_running_or_notify_cancel():
                continue
            try:
                self.engine.probe(name)
                done.set_result(None)
            except Exception as error:  # noqa: BLE001  it is for the one who waits
                done.set_exception(error)

    def _step(self) -> bool:
        try:
            return self.engine.step()
        except Exception as error:
            log.exception("a step of the engine failed; the requests under way end with an error")
            self.engine.fail(error)
            return False

"""The thread that looks now and then what is promoted, and what the documents are by now.

A request for a name looks by itself first, so this is for the lists, for what must be freed while nobody asks, and for
new documents.
"""

from __future__ import annotations

import logging
import threading

from serving.gateway import Gateway

log = logging.getLogger("raft.serving")

SECONDS = 1.0


class Watch:
    """Calls `Gateway.look` every so many seconds."""

    def __init__(self, gateway: Gateway, seconds: float = SECONDS) -> None:
        self._gateway, self._seconds = gateway, seconds
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="raft-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._end.set()

    def _run(self) -> None:
        while not self._end.wait(self._seconds):
            try:
                self._gateway.look()
            except Exception:
                log.exception("a look at what is promoted failed; what is in use serves on")

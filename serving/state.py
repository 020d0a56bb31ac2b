"""What the routes of a server share: its models, its engine, its bounds and its counts."""

from __future__ import annotations

import secrets
import threading
import time
from collections import defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from serving.engine_loop import EngineLoop
from serving.gateway import Gateway
from serving.remote.loop import RemoteLoop

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer


@dataclass
class Limits:
    """Bounds of the server.

    Attributes:
        deadline_seconds: of a request, from its arrival to its last token.
        queue: requests that may wait for a row.
        max_bytes: of a body; body_seconds: that it may take to arrive, which a drain may have to wait for.
    """

    deadline_seconds: float = 300.0
    queue: int = 64
    max_bytes: int = 1 << 20
    body_seconds: float = 30.0


class Allowance:
    """How much each caller may leave here in a time. Safe to use from several threads.

    Args:
        most: bytes. seconds: within which so many are taken.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self.most, self.seconds = most, seconds
        self._entries: defaultdict[str, deque[tuple[float, int]]] = defaultdict(deque)  # (when, bytes), oldest first
        self._lock = threading.Lock()

    def take(self, who: str, size: int) -> float:
        """Takes so many bytes if there is room for them; a caller who has left nothing yet has room for anything.

        Returns:
            0 where they were taken, else the seconds after which there is room.
        """
        now = time.monotonic()
        with self._lock:
            entries = self._entries[who]
            while entries and entries[0][0] <= now - self.seconds:
                entries.popleft()
            over = sum(one for _, one in entries) + size - self.most
            if over <= 0 or not entries:
                entries.append((now, size))
                return 0.0
            for when, one in entries:
                over -= one
                if over <= 0:
                    return when + self.seconds - now
            return entries[-1][0] + self.seconds - now


@dataclass
class Counts:
    """Requests by how they ended; received = answered + refused + aborted once nothing is under way."""

    received: int = 0
    answered: int = 0
    refused: int = 0
    aborted: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def under_way(self) -> int:
        """Requests that have not ended."""
        return self.received - self.answered - self.refused - self.aborted


@dataclass
class Server:
    """What the routes share.

    Attributes:
        ready: whether requests are taken; false while it starts and drains.
        searching: requests that wait for a search, vectors or a version that comes into use.
        tracer: of OpenTelemetry; None for no spans.
        opinions: how much feedback a caller may leave.
        nonce: a secret between the server and programs of its own user (`serving.local`).
    """

    gateway: Gateway
    loop: EngineLoop | RemoteLoop
    limits: Limits = field(default_factory=Limits)
    ready: bool = False
    searching: int = 0
    counts: Counts = field(default_factory=Counts)
    opinions: Allowance = field(default_factory=lambda: Allowance(8 << 20, 3600.0))
    tracer: Tracer | None = None
    nonce: str = field(default_factory=lambda: secrets.token_hex(24))
    searches: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="raft-search")
    )

    def __post_init__(self) -> None:
        self.gateway.connect(self.loop)

    def waiting(self) -> int:
        """Requests that wait for a search or a row."""
        return self.searching + self.loop.pending()

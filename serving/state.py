"""What the routes of a server share: its models, its engine, its bounds and its counts."""

from __future__ import annotations

import secrets
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
        searching: requests that wait for a search or vectors.
        tracer: of OpenTelemetry; None for no spans.
        nonce: a secret between the server and programs of its own user (`serving.local`).
    """

    gateway: Gateway
    loop: EngineLoop | RemoteLoop
    limits: Limits = field(default_factory=Limits)
    ready: bool = False
    searching: int = 0
    counts: Counts = field(default_factory=Counts)
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

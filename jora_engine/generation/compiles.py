"""How many programs XLA has compiled in this process: under load the number must stand still."""

from __future__ import annotations

import functools
from typing import Any

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"
_seen: list[float] = []


@functools.cache
def watch_compiles() -> None:
    """Begins to count, once."""

    def compiled(event: str, duration_secs: float, **_: Any) -> None:
        if event == _EVENT:
            _seen.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(compiled)


def count_compiles() -> int:
    """Programs compiled, or taken from the cache on disk, since `watch_compiles` was called first."""
    return len(_seen)

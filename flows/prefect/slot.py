"""Prefect's limit of one training at a time on a machine."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def training_slot(say: Callable[[str], None]) -> Iterator[None]:
    """Prefect's limit of one training at a time on this machine; its holders and those who wait stand in the pages.

    A server that is lost keeps nobody from training, and hides nothing of what training raised.
    """
    from prefect.concurrency.sync import concurrency

    from tasks.prefect.link import only_told

    slot = concurrency(training_limit(), occupy=1, lease_duration=60)
    held = False
    with only_told(say):
        slot.__enter__()
        held = True
    try:
        yield
    finally:
        if held:
            with only_told(say):
                slot.__exit__(None, None, None)


def training_limit() -> str:
    """The name of that limit."""
    return f"raft-training-{socket.gethostname()}"

"""A night's events as lines of its log, which Prefect keeps with the run."""

from __future__ import annotations

import logging

from tasks.build.events import Damaged, Event, Finished, Said, Started, Waiting

log = logging.getLogger("raft.flows")


def log_event(event: Event) -> None:
    """The reporter of a night: its lines go to the run's log."""
    match event:
        case Started(stage):
            log.info("%s …", stage)
        case Waiting(stage, holder):
            log.info("%s is being built by %s: waiting for it", stage, holder or "another run")
        case Damaged(stage, what):
            log.warning("%s in the store is damaged (%s): making it again", stage, what)
        case Finished(manifest, cached):
            took = "cached" if cached else f"{manifest.seconds:.1f} s"
            log.info("%s (%s): %s", event.stage, took, manifest.summary)
        case Said(text):
            log.info("%s", text)

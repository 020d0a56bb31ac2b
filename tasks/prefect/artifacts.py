"""What a stage shows in Prefect's pages: a summary, its figures as a table, links to its pages, and live progress.

The pages are a display: whatever goes wrong with it is logged and never stops a stage.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from data.text.shown import markdown
from tasks.build.events import Event, Finished, Progressed, Reporter, Started, voice_of
from tasks.prefect.link import lost, only_told
from tasks.store.manifest import Manifest

log = logging.getLogger("raft.tasks")

PAGES = "/raft"  # where `raft server` serves the pages of results, under whatever name it is called
SUMMARY = "summary.md"  # what a stage itself writes for readers
UPDATE_SECONDS = 5.0  # each update is a request
LAST_SECONDS = 1.0  # sooner where it is complete


def publish(manifest: Manifest, say: Callable[[str], None] = log.warning) -> None:
    """The result of a stage: `<stage>`, `<stage>-figures`, and `<stage>-<page>` for each HTML page it wrote."""
    if lost():
        return
    with only_told(say):
        words = markdown(manifest.summary)
        create_markdown_artifact(summary(manifest), key=_key(manifest.stage), description=words)
        figures = [{"figure": name, "value": value} for name, value in flat(manifest.metrics)]
        if figures:
            create_table_artifact(figures, key=_key(manifest.stage, "figures"), description=words)
        for entry in manifest.files:
            name, _, suffix = entry.path.rpartition(".")
            if suffix == "html" and "/" not in name:
                place = f"{PAGES}/{manifest.stage}/{manifest.key}/{entry.path}"
                create_link_artifact(place, entry.path, key=_key(manifest.stage, name), description=words)


def _key(*parts: str) -> str:
    """An artifact's key, in which Prefect takes lower-case letters, digits and dashes alone."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def summary(manifest: Manifest) -> str:
    """The stage's result for a reader."""
    lines = [
        f"# {manifest.stage}",
        "",
        markdown(manifest.summary),
        "",
        f"{manifest.seconds:.1f} s, key `{manifest.key}`",
        "",
    ]
    if any(entry.path == SUMMARY for entry in manifest.files):
        lines += [manifest.path(SUMMARY).read_text(encoding="utf-8"), ""]
    lines += ["| file | bytes | sha256 |", "|---|---|---|"]
    lines += [f"| {markdown(entry.path)} | {entry.size} | `{entry.sha256[:16]}` |" for entry in manifest.files]
    return "\n".join(lines)


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested figures as `(dotted name, scalar)`; lists are left out."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        elif not isinstance(value, (list, tuple)):
            yield f"{prefix}{name}", value


class Pages:
    """A reporter that passes everything on, and draws it in the pages too: progress, and what a stage has built."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter, self._say = reporter, voice_of(reporter)
        self._drawn: UUID | None = None
        self._last = 0.0

    def __call__(self, event: Event) -> None:
        self._reporter(event)
        match event:
            case Started(stage):
                self._begin(stage)
            case Progressed(stage, done, total, what) if total:
                pause = LAST_SECONDS if done >= total else UPDATE_SECONDS
                self._update(100.0 * done / total, f"{stage}: {what}", pause)
            case Finished(manifest, cached=False):
                self._update(100.0, f"{event.stage}: {manifest.summary}", 0.0)
                publish(manifest, self._say)

    def _begin(self, stage: str) -> None:
        self._drawn, self._last = None, time.monotonic()
        if not lost():
            with only_told(self._say):
                self._drawn = create_progress_artifact(0.0, key=_key(stage, "progress"), description=stage)  # type: ignore[assignment]

    def _update(self, percent: float, words: str, pause_seconds: float) -> None:
        now = time.monotonic()
        if self._drawn and not lost() and now - self._last >= pause_seconds:
            self._last, drawn, self._drawn = now, self._drawn, None  # a server that is away is asked once
            with only_told(self._say):
                update_progress_artifact(drawn, min(100.0, percent), description=markdown(words))
                self._drawn = drawn

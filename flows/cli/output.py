"""What the verbs show: results as one JSON object or a table on standard output, a run's events on standard error.

Of a run there is one line a stage, with a live bar where there is a terminal and a line now and then where not.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from data.nouns import Progress as ProgressFunction
from data.text.shown import shown
from tasks.store.locks import Holder
from tasks.store.store import Manifest

LINE_SECONDS = 15.0  # between progress lines where no bar can be drawn


class Display:
    """A `tasks.build.stage.Reporter` for people."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self.states: dict[str, str] = {}
        self._said: set[str] = set()
        self._bar: Progress | None = None

    def started(self, stage: str) -> None:
        self._stop()
        self.console.print(f"[bold]{stage}[/bold] …")

    def progress(self, stage: str) -> ProgressFunction:
        return self._bar_progress(stage) if self.console.is_terminal else self._line_progress(stage)

    def waiting(self, stage: str, holder: Holder | None) -> None:
        who = str(holder) if holder else "another run"
        self.console.print(f"[yellow]{stage}[/yellow] is being built by {who}: waiting for it")

    def damaged(self, stage: str, what: str) -> None:
        self.console.print(f"[yellow]{stage}[/yellow] in the store is damaged ({plain(what)}): making it again")

    def finished(self, manifest: Manifest, cached: bool) -> None:
        self._stop()
        self.states[manifest.stage] = "cached" if cached else "built"
        took = "cached" if cached else f"{manifest.seconds:.1f} s"
        self.console.print(
            f"[green]✓[/green] [bold]{manifest.stage}[/bold] ({took}): {plain(manifest.summary)}", soft_wrap=True
        )

    def say(self, text: str) -> None:
        if text in self._said:
            return
        self._said.add(text)
        self.console.print(plain(text, lines=True), soft_wrap=True)

    def close(self) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _bar_progress(self, stage: str) -> ProgressFunction:
        def show(done: int, total: int | None, what: str) -> None:
            if self._bar is None:
                self._bar = Progress(
                    SpinnerColumn(),
                    TextColumn("{task.description}"),
                    BarColumn(),
                    MofNCompleteColumn(),
                    TimeRemainingColumn(),
                    console=self.console,
                    transient=True,
                )
                self._bar.add_task(stage, total=total)
                self._bar.start()
            self._bar.update(
                self._bar.task_ids[0], completed=done, total=total, description=f"  {stage}: {plain(what)}"
            )

        return show

    def _line_progress(self, stage: str) -> ProgressFunction:
        last = time.monotonic()

        def show(done: int, total: int | None, what: str) -> None:
            nonlocal last
            if time.monotonic() - last >= LINE_SECONDS:
                last = time.monotonic()
                self.console.print(f"  {stage}: {done}{f'/{total}' if total else ''} {plain(what)}", soft_wrap=True)

        return show


def plain(text: str, *, lines: bool = False) -> str:
    """Foreign text inside Rich markup: nothing in it is markup, and no character commands the terminal."""
    return escape(shown(text, lines=lines))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A plain table; the last column takes the room that is left."""
    drawn = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for position, column in enumerate(columns):
        drawn.add_column(column, overflow="fold", ratio=1 if position == len(columns) - 1 else None)
    for row in rows:
        drawn.add_row(*(Text(shown(cell, lines=True)) for cell in row))
    return drawn


def emit(value: Any) -> None:
    """One JSON object on standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()

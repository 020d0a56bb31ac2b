"""What the verbs show: results as one JSON object or a table on standard output, a run's events on standard error.

A run gives one line per stage, with a live bar on a terminal and a line now and then elsewhere.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from data.text.shown import shown
from tasks.build.events import Damaged, Event, Finished, Progressed, Said, Started, Waiting

LINE_SECONDS = 15.0  # between progress lines where no bar can be drawn


class Terminal(Console):
    """Standard output (or error), for sentences and tables.

    A line with `soft_wrap=True` is one line of the output; on a terminal it is wrapped between words, unless it has a
    path that is longer than the terminal is wide, which stays whole so that it can be copied.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"highlight": False, **settings})

    def print(self, *objects: Any, soft_wrap: bool | None = None, end: str = "\n", **settings: Any) -> None:
        """See `rich.console.Console.print`."""
        words = [word for text in objects if isinstance(text, str) for word in text.split()]
        if self.is_terminal and end == "\n" and max(map(len, words), default=0) <= self.width:
            soft_wrap = None
        super().print(*objects, soft_wrap=soft_wrap, end=end, **settings)


class Display:
    """A reporter for people: draws a run's events on the terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Terminal(stderr=True)
        self.states: dict[str, str] = {}
        self._sentences: set[str] = set()
        self._bar: Progress | None = None
        self._last_line: dict[str, float] = {}  # stage -> when its progress was last due

    def __call__(self, event: Event) -> None:
        match event:
            case Started(stage):
                self.close()
                self._last_line[stage] = time.monotonic()
                self.console.print(f"[bold]{stage}[/bold] …")
            case Progressed():
                (self._draw_bar if self.console.is_terminal else self._print_now_and_then)(event)
            case Waiting(stage, holder):
                who = str(holder) if holder else "another run"
                self.console.print(f"[yellow]{stage}[/yellow] is being built by {who}: waiting for it")
            case Damaged(stage, what):
                self.console.print(f"[yellow]{stage}[/yellow] in the store is damaged ({plain(what)}): making it again")
            case Finished():
                self._finished(event)
            case Said(text):
                self._say(text)

    def close(self) -> None:
        """Removes the bar, if there is one."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _finished(self, event: Finished) -> None:
        self.close()
        self.states[event.stage] = "cached" if event.cached else "built"
        took = "cached" if event.cached else f"{event.manifest.seconds:.1f} s"
        summary = plain(event.manifest.summary)
        self.console.print(f"[green]✓[/green] [bold]{event.stage}[/bold] ({took}): {summary}", soft_wrap=True)

    def _say(self, text: str) -> None:
        """Each sentence once."""
        if text not in self._sentences:
            self._sentences.add(text)
            self.console.print(plain(text, lines=True), soft_wrap=True)

    def _draw_bar(self, event: Progressed) -> None:
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
            self._bar.add_task(event.stage, total=event.total)
            self._bar.start()
        words = f"  {event.stage}: {plain(event.what)}"
        self._bar.update(self._bar.task_ids[0], completed=event.done, total=event.total, description=words)

    def _print_now_and_then(self, event: Progressed) -> None:
        now = time.monotonic()
        if now - self._last_line.setdefault(event.stage, now) >= LINE_SECONDS:
            self._last_line[event.stage] = now
            count = f"{event.done}{f'/{event.total}' if event.total else ''}"
            self.console.print(f"  {event.stage}: {count} {plain(event.what)}", soft_wrap=True)


def plain(text: str, *, lines: bool = False) -> str:
    """Foreign text for Rich: nothing in it acts as markup, and no character controls the terminal."""
    return escape(shown(text, lines=lines))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A plain table; the last column takes the remaining width."""
    grid = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for position, column in enumerate(columns):
        grid.add_column(column, overflow="fold", ratio=1 if position == len(columns) - 1 else None)
    for row in rows:
        grid.add_row(*(Text(shown(cell, lines=True)) for cell in row))
    return grid


def indented(text: str, columns: int, hanging: int = 0) -> Padding:
    """Foreign text that keeps its distance from the left edge where its lines are wrapped.

    Args:
        hanging: how much further its second and later lines begin.
    """
    body = Text(shown(text, lines=True))
    if not hanging:
        return Padding(body, (0, 0, 0, columns), expand=False)
    grid = Table.grid(padding=0)
    grid.add_column(width=hanging)
    grid.add_column()
    grid.add_row(body[:hanging], body[hanging:])
    return Padding(grid, (0, 0, 0, columns), expand=False)


def show_next(out: Console, steps: Sequence[tuple[str, str]]) -> None:
    """What people do next: commands, and what each is for."""
    width = max((len(command) for command, _ in steps), default=0)
    for number, (command, what) in enumerate(steps):
        out.print(f"{'' if number else 'Next:':<6}{command:<{width}}  {what}", soft_wrap=True, markup=False)


def warn(stale: object) -> None:
    """That what follows is behind its corpus or configuration, if it is: one line on standard error."""
    if stale is not None:
        Terminal(stderr=True).print(shown(str(stale)), style="yellow", markup=False, soft_wrap=True)


def below_here(path: Path | str) -> str:
    """A path relative to the working directory, if it lies below it."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def emit(value: Any) -> None:
    """One JSON object on standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()

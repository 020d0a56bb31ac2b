"""`raft` with verbs of its own, for tests of how it ends: python signal_program.py VERB [FILE]."""

import atexit
import sys
import time
from pathlib import Path

import typer

from flows.cli import app as cli
from tasks.build.supervisor import run_child

app = typer.Typer()


def say(word: str) -> None:
    print(word, flush=True)


@app.command()
def trains(state: Path) -> None:
    """Waits for a child that takes its time to save its state."""
    run_child(
        "child_program",
        ["saves slowly", str(state)],
        log_file=state.with_suffix(".log"),
        on_event=lambda event: say("ready"),
    )


@app.command()
def imports() -> None:
    """A library that makes an error of its own of whatever happens while it is imported."""
    say("ready")
    try:
        time.sleep(60)
    except BaseException as error:
        raise ImportError("the library is broken") from error


@app.command()
def ends() -> None:
    """Is done, and takes a while to go."""
    atexit.register(lambda: (say("ready"), time.sleep(2)))


class Library:
    """Something large whose end takes long."""

    def __init__(self, note: Path) -> None:
        self.note = note

    def __del__(self) -> None:
        self.note.write_text("taken down")


@app.command()
def loads(folder: Path, code: int) -> None:
    """Loads a library, has something to tell a server at its end, and returns an exit code."""
    cli.loaded = Library(folder / "library")
    atexit.register(lambda: (folder / "server").write_text("told"))
    sys.stdout.write("not flushed")
    raise typer.Exit(code)


if __name__ == "__main__":
    cli.command = lambda: app
    if "early" in sys.argv:  # between the first instruction and the verb
        cli.logging.basicConfig = lambda **_: (say("ready"), time.sleep(60))
    cli.main()

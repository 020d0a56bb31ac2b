"""`raft` with verbs of its own, for tests that send it signals: python signal_program.py VERB [FILE]."""

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


if __name__ == "__main__":
    cli.command = lambda: app
    if "early" in sys.argv:  # between the first instruction and the verb
        cli.logging.basicConfig = lambda **_: (say("ready"), time.sleep(60))
    cli.main()

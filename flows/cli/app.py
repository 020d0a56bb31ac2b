"""The `raft` command: verbs, exit codes and messages. 0 done, 1 failed, 2 bad input, 75 interrupted with state saved.

Each verb parses its arguments and calls one function of `flows`; errors become one message, a traceback only with
`--debug`.
"""

from __future__ import annotations

import functools
import gc
import importlib.metadata
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from data.text.shown import shown
from data.text.urls import text_without_secrets
from flows.cli.output import emit
from raft_errors import Interrupted, RaftError
from raft_names import keep_working_folder_out
from tasks.store.places import settle_home

# The base of typer's own messages about arguments; it has moved between typer's releases.
_UsageError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

DISTRIBUTION = "jora-raft"
_TYPERS_INTERRUPT = 130  # what typer makes of a KeyboardInterrupt


class PlainFormatter(logging.Formatter):
    """Log lines without terminal commands and without what is secret in URLs, whoever wrote them."""

    def format(self, record: logging.LogRecord) -> str:
        return shown(text_without_secrets(super().format(record)), lines=True)


def _show_version(on: bool) -> None:
    if not on:
        return
    try:
        number = importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError as error:
        raise RaftError(
            f"{DISTRIBUTION} runs from its sources and has no installed version", do="pip install -e . in its folder"
        ) from error
    typer.echo(f"raft {number}")
    raise typer.Exit


@functools.cache
def command() -> typer.Typer:
    """The command with all its verbs."""
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        help="From a folder of documents to a domain-adapted language model.",
        epilog="Example: raft init && raft plan && raft run",
    )
    app.callback()(_options)
    _register(app)
    return app


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit")
    ] = False,
) -> None: ...


def _register(app: typer.Typer) -> None:
    from flows.cli.verbs import (
        advise,
        ask,
        card,
        domains,
        evaluate_retrieval,
        explain,
        export,
        forget,
        gc,
        ingest,
        init,
        models,
        plan,
        promote,
        questions,
        records,
        retrain,
        run,
        schedule,
        search,
        serve,
        server,
    )

    _command(app, run.run, "raft run my.yaml --set train.max_steps=50")
    _command(app, plan.plan, "raft plan my.yaml")
    _command(app, ingest.ingest, "raft ingest my.yaml --dry-run")
    for name, verb in run.stage_verbs().items():
        _command(app, verb, f"raft {name} my.yaml", name=name)
    _command(app, questions.questions, "raft questions my.yaml --preview 5; raft questions my.yaml --dropped")
    _command(app, export.export, "raft export my.yaml; raft export my.yaml --check all")
    _command(app, records.records, "raft records my.yaml --show 3; raft records --diff previous latest")
    _command(app, evaluate_retrieval.evaluate_retrieval, "raft evaluate retrieval my.yaml", name="evaluate retrieval")
    _command(app, advise.advise, "raft advise my.yaml --questions 40")
    _command(app, search.search, 'raft search "How do closures work?" -k 3')
    _command(app, ask.ask, 'raft ask "How do closures work?"')
    _command(app, serve.serve, "raft serve my.yaml --port 8000")
    _command(app, retrain.retrain, "raft retrain my.yaml --no-prefect")
    _command(app, promote.promote, 'raft promote 3 --reason "looked at by hand"')
    _command(app, promote.rollback, 'raft rollback --reason "complaints"')
    _command(app, promote.adapters, "raft adapters")
    _command(app, explain.explain, "raft explain --verify")
    _command(app, card.card, "raft card --out my-adapter")
    _command(app, forget.forget, "raft forget handbook/leave.md")
    _command(app, gc.gc, "raft gc --days 7 --yes")
    _command(app, domains.domains, "raft domains domains.yaml --jobs 2")
    _command(app, schedule.schedule, 'raft schedule --cron "0 3 * * *" --watch 60')
    _command(app, server.server, "raft server")
    _command(app, init.init, "raft init --corpus docs/")
    _command(app, init.schema, "raft schema > raft.schema.json")
    _command(app, models.models, "raft models --fetch")


def _command(app: typer.Typer, function: Callable[..., Any], example: str, name: str | None = None) -> None:
    name = name or function.__name__
    if name in {command.name for command in app.registered_commands}:
        raise ValueError(f"two verbs are called {name}: name the call in flows/pipeline.py otherwise")
    app.command(name, epilog=f"Example: {example}")(function)


def main() -> NoReturn:
    """Entry point of the `raft` command."""
    _listen()
    try:
        code = _prepare_and_run()
        _deaf()
    except KeyboardInterrupt:  # before or after the verb; during it, `invoke` has reported what is kept
        _deaf()
        code = _interrupted("--json" in sys.argv)
    if link := sys.modules.get("tasks.prefect.link"):
        link.leave(code)
    sys.exit(code)


def _prepare_and_run() -> int:
    """Sets the process up, then runs the verb."""
    # torch's threads spin while they wait, which on a busy machine makes every operation many times slower
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_working_folder_out()
    debug = "--debug" in sys.argv
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(name)s: %(message)s")
    for handler in logging.getLogger().handlers:
        handler.setFormatter(PlainFormatter("%(name)s: %(message)s"))
    if not debug:
        for noisy in ("httpx", "httpcore", "jax", "prefect", "sentence_transformers", "filelock"):
            logging.getLogger(noisy).setLevel(logging.ERROR)
    # Stages hold many small objects for as long as they work; with Python's own thresholds the collector looks through
    # all of them again and again, which makes small changes noticeably slower.
    gc.set_threshold(100_000, 50, 50)
    return invoke(sys.argv[1:])


def invoke(arguments: Sequence[str]) -> int:
    """Runs the command in this process; returns its exit code. `--debug`, anywhere, lets errors through."""
    rest = [argument for argument in arguments if argument != "--debug"]
    return _run(rest, len(rest) < len(arguments), "--json" in rest)


def _run(arguments: list[str], debug: bool, as_json: bool) -> int:
    try:
        settle_home()
        result = command()(args=_verb_first(arguments), prog_name="raft", standalone_mode=False)
        code = result if isinstance(result, int) else 0
        return _interrupted(as_json) if code == _TYPERS_INTERRUPT else code
    except typer.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted(as_json)
    except _UsageError as error:
        error.show()
        return 2
    except RaftError as error:
        if debug:
            raise
        return _interrupted(as_json) if _stopping else _failed(error, as_json)
    except BrokenPipeError:
        # The reader of our output is gone (`raft plan | head`): there is nobody to report to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        if _stopping:  # a library has turned the interruption into an error of its own
            return _interrupted(as_json)
        unexpected = RaftError(
            f"Unexpected {type(error).__name__}: {str(error).strip() or 'no message'}",
            do="run again with --debug to see where it happened; finished stages are kept",
        )
        return _failed(unexpected, as_json)


def _verb_first(arguments: list[str]) -> list[str]:
    """A verb of two words (`evaluate retrieval`) becomes one argument, as the parser knows it."""
    both = " ".join(arguments[:2])
    names = {registered.name for registered in command().registered_commands}
    return [both, *arguments[2:]] if both in names else arguments


def _interrupted(as_json: bool) -> int:
    stopped = Interrupted("Interrupted", do="run the same command again: finished stages and checkpoints are kept")
    return _failed(stopped, as_json)


def _failed(error: RaftError, as_json: bool) -> int:
    if as_json:
        row = {
            "ok": False,
            "exit_code": error.exit_code,
            "error": text_without_secrets(error.what),
            "expected": error.expected,
            "do": error.do,
        }
        emit(row)
    console = Console(stderr=True, highlight=False)
    word = "Stopped" if error.exit_code == 75 else "Error"
    what = shown(text_without_secrets(error.what.rstrip(".")), lines=True)
    console.print(f"{word}: {what}.", style="red", markup=False, soft_wrap=True)
    for label, text in (("Expected", error.expected), ("Do", error.do)):
        if text:
            console.print(f"{label}: {shown(text.rstrip('.'), lines=True)}.", markup=False, soft_wrap=True)
    return error.exit_code


_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_PATIENCE_SECONDS = 30.0  # longer than a trainer may take to save its state
_stopping: list[float] = []  # when the process received its first signal


def _listen() -> None:
    """SIGTERM acts like Ctrl-C: stages stop, the trainer writes its checkpoint."""
    _stopping.clear()
    for number in _SIGNALS:
        signal.signal(number, _told_to_stop)


def _told_to_stop(number: int, frame: Any) -> None:
    """The first signal ends the work; further ones are ignored while it may still be saving its state."""
    now = time.monotonic()
    if _stopping and now - _stopping[-1] < _PATIENCE_SECONDS:
        return
    _stopping.append(now)
    raise KeyboardInterrupt


def _deaf() -> None:
    """There is nothing left to stop, so a signal must not change the exit code."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)

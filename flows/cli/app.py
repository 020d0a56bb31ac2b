"""The `raft` command: verbs, exit codes and messages. 0 done, 1 failed, 2 bad input, 75 interrupted with state saved.

Each verb parses its arguments and calls one function of `flows`; errors become one message, a traceback only with
`--debug`.
"""

from __future__ import annotations

import atexit
import functools
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NoReturn

import typer

from data.text.shown import shown
from data.text.urls import text_without_secrets
from flows.cli.grouped_help import GroupedHelp
from flows.cli.options import with_config_option
from flows.cli.output import Terminal, emit
from flows.cli.usage import usage_error
from raft_errors import BadInput, Interrupted, RaftError
from raft_names import keep_working_folder_out
from raft_version import VERSION
from tasks.store.places import settle_home

# The base of typer's own messages about arguments; it has moved between typer's releases.
_UsageError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

_TYPERS_INTERRUPT = 130  # what typer makes of a KeyboardInterrupt


class PlainFormatter(logging.Formatter):
    """Log lines without terminal commands and without what is secret in URLs, whoever wrote them."""

    def format(self, record: logging.LogRecord) -> str:
        return shown(text_without_secrets(super().format(record)), lines=True)


def _show_version(on: bool) -> None:
    if not on:
        return
    typer.echo(f"raft {VERSION}")
    raise typer.Exit


@functools.cache
def command() -> typer.Typer:
    """The command with all its verbs."""
    GroupedHelp.groups.clear()
    app = typer.Typer(
        cls=GroupedHelp,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        help="From a folder of documents to a domain-adapted language model.",
        epilog="Example: raft init && raft plan && raft run. Every verb explains itself: raft VERB --help",
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
        compare_bases,
        domains,
        evaluate_retrieval,
        explain,
        export,
        feedback,
        forget,
        gc,
        ingest,
        init,
        plan,
        promote,
        questions,
        records,
        report,
        retrain,
        run,
        schedule,
        search,
        serve,
        server,
    )

    begin = functools.partial(_command, app, "Begin")
    begin(init.init, "raft init --corpus docs/", "write a configuration, each field explained")
    begin(plan.plan, "raft plan my.yaml", "what a run would do, and why; starts nothing")
    begin(init.models, "raft models --fetch", "the models of a run: are they here, and whole?")
    begin(init.schema, "raft schema > raft.schema.json", "the configuration's JSON schema")
    build = functools.partial(_command, app, "Build")
    build(run.run, "raft run my.yaml --set train.max_steps=50", "everything, from the corpus to the report")
    verbs = run.stage_verbs() | {
        verb.__name__: verb for verb in (ingest.ingest, questions.questions, records.records, export.export)
    }
    for call in run.CALLS:
        help_ = call.stage.help[:1].lower() + call.stage.help[1:].rstrip(".")
        short = _SHORT.get(call.name, help_)
        build(verbs[call.name], _EXAMPLES.get(call.name, f"raft {call.name} my.yaml"), short, name=call.name)
    look = functools.partial(_command, app, "Look")
    look(report.report, "raft report --open", "the report on the adapter, in the browser")
    look(
        evaluate_retrieval.evaluate_retrieval,
        "raft evaluate retrieval my.yaml",
        "dense, lexical and hybrid search compared",
        name="evaluate retrieval",
    )
    look(advise.advise, "raft advise my.yaml --questions 40", "will fine-tuning pay? asks the base model")
    look(
        compare_bases.compare_bases,
        "raft compare-bases my.yaml --bases ./base-a,owner/base-b",
        "several bases under one recipe",
        name="compare-bases",
    )
    look(explain.explain, "raft explain --verify", "what an adapter was made from")
    use = functools.partial(_command, app, "Use")
    use(search.search, 'raft search "How do closures work?" -k 3', "look something up in the index")
    use(ask.ask, 'raft ask "How do closures work?"', "ask the adapter; it answers with citations")
    use(serve.serve, "raft serve my.yaml --port 8000", "the adapter in use behind the API that everybody speaks")
    use(card.card, "raft card --out my-adapter", "the adapter with its model card, to upload")
    keep = functools.partial(_command, app, "Keep up")
    keep(retrain.retrain, "raft retrain my.yaml --no-prefect", "do what the changes of the corpus require")
    keep(schedule.schedule, 'raft schedule --cron "0 3 * * *" --watch 60', "retrain by the clock and on changes")
    keep(server.server, "raft server", "Prefect's server with its pages")
    keep(domains.domains, "raft domains domains.yaml --jobs 2", "several domains from one file")
    keep(promote.adapters, "raft adapters", "the versions of every adapter")
    keep(promote.promote, 'raft promote 3 --reason "looked at by hand"', "put a version into use")
    keep(promote.rollback, 'raft rollback --reason "complaints"', "go back to the version before")
    keep(feedback.feedback, "raft feedback review", "what people said about answers, and what of it trains")
    keep(forget.forget, "raft forget handbook/leave.md", "what a document is in, and its removal")
    keep(gc.gc, "raft gc --days 7 --yes", "what the store no longer needs, and its removal")


_SHORT = {
    "questions": "import questions, or ask the teacher for them",
    "records": "compose RAFT records",
    "export": "the PEFT adapter and the merged model",
    "evaluate": "base against adapter on held-out documents",
}
_EXAMPLES = {
    "ingest": "raft ingest my.yaml --dry-run",
    "questions": "raft questions my.yaml --preview 5; raft questions my.yaml --dropped",
    "records": "raft records my.yaml --show 3; raft records --diff previous latest",
    "export": "raft export my.yaml; raft export my.yaml --check all",
}


def _command(
    app: typer.Typer, group: str, function: Callable[..., Any], example: str, short: str, name: str | None = None
) -> None:
    name = name or function.__name__
    if name in {command.name for command in app.registered_commands}:
        raise ValueError(f"two verbs are called {name}: name the call in flows/pipeline.py otherwise")
    GroupedHelp.groups.setdefault(group, []).append(name)
    app.command(name, epilog=f"Example: {example}", short_help=short)(with_config_option(function))


def main() -> NoReturn:
    """Entry point of the `raft` command."""
    ending = _Ending()
    atexit.register(ending)  # first, so that it is called last
    _listen()
    try:
        code = _prepare_and_run()
        _deaf()
    except KeyboardInterrupt:  # before or after the verb; during it, `invoke` has reported what is kept
        _deaf()
        code = _interrupted("--json" in sys.argv)
    if link := sys.modules.get("tasks.prefect.link"):
        link.leave(code)
    ending.code = code
    sys.exit(code)


class _Ending:
    """The last thing this process does, after Prefect has sent its events and stopped its server: it goes at once.

    Python would first take down every library that was loaded, object by object, which after a run takes JAX, torch
    and Prefect ten seconds and more, for nothing. Without a code (an error before the end) it leaves Python to it.
    """

    code: int | None = None

    def __call__(self) -> None:
        if self.code is None:
            return
        code = self.code
        try:
            logging.shutdown()
            sys.stdout.flush()
        except BrokenPipeError:  # nobody reads our output any more
            pass
        except OSError:  # a full disk: what was printed is not all there
            code = code or 1
        os._exit(code)


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
        if type(error).__name__ == "NoArgsIsHelpError":  # `raft` alone
            error.show()
            return 2
        return _failed(usage_error(error), as_json)
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
        return _failed(_unexpected(error, arguments), as_json)


def _unexpected(error: Exception, arguments: Sequence[str]) -> RaftError:
    """An error that nobody has foreseen; bad input where the system refuses a file that the command itself named."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        path = os.fsdecode(error.filename)
        what = f"{path}: {error.strerror[:1].lower()}{error.strerror[1:]}"
        if any(path == word or path.startswith(word.rstrip("/") + "/") for word in arguments if word):
            return BadInput(what, do="correct the path, or make the folder that it is to stand in")
        return RaftError(what, do="see to that file and run again (finished stages are kept); --debug shows where")
    return RaftError(
        f"Unexpected {type(error).__name__}: {str(error).strip() or 'no message'}",
        do="run again with --debug to see where it happened; finished stages are kept",
    )


def _verb_first(arguments: list[str]) -> list[str]:
    """A verb of two words (`evaluate retrieval`) becomes one argument, as the parser knows it."""
    both = " ".join(arguments[:2])
    names = {registered.name for registered in command().registered_commands}
    return [both, *arguments[2:]] if both in names else arguments


def _interrupted(as_json: bool) -> int:
    stopped = Interrupted("Interrupted", do="run the same command again: what is finished is kept")
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
    console = Terminal(stderr=True)
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

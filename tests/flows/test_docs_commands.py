"""Every command in README, CONTRIBUTING and docs names a verb, an option and a file that are there.

Commands in code blocks are parsed whole by the parser that a user meets; those in a sentence may leave out arguments.
"""

import argparse
import importlib.util
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence

import pytest
import typer
import typer.main
from doc_blocks import PROGRAMS, ROOT, blocks, commands_of, spans

from flows.cli import app

BLOCKS = list(blocks())
COMMANDS = [(block.place, command) for block in BLOCKS for command in block.commands]


class Parsed(Exception):
    """Raised in place of what a script would do after its arguments were parsed."""


def parse_raft(arguments: Sequence[str]) -> None:
    """By the command's own parser; what `raft --version` prints is its callback's and is left out."""
    group = typer.main.get_command(app.command())
    context = group.make_context("raft", list(app._verb_first(list(arguments))), resilient_parsing=not arguments)
    rest = [*context._protected_args, *context.args] if hasattr(context, "_protected_args") else context.args
    if rest:
        name, verb, rest = group.resolve_command(context, rest)
        verb.make_context(name, list(rest), parent=context)


def parse_python(arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    first, *rest = arguments
    if first == "-c":
        compile(rest[0], "-c", "exec")
        return
    if first == "-m":
        module, *rest = rest
        assert importlib.util.find_spec(module), f"no module {module}"
        if module == "pytest":
            assert all((ROOT / path).exists() for path in rest if not path.startswith("-")), rest
        return
    script = ROOT / first
    assert script.is_file(), f"no file {first}"
    whole = argparse.ArgumentParser.parse_args

    def parse_args(self, args=None, namespace=None):
        whole(self, args, namespace)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(sys, "argv", [first, *rest])
    monkeypatch.syspath_prepend(str(script.parent))
    with pytest.raises(Parsed):
        runpy.run_path(str(script), run_name="__main__")


def parse_make(arguments: Sequence[str]) -> None:
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    done = subprocess.run(["make", "-n", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def parse_pip(arguments: Sequence[str]) -> None:
    """The extras that it names are in pyproject.toml; nothing is looked up anywhere."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for argument in arguments:
        if extras := re.fullmatch(r"(?:\.|jora-raft)\[([\w,-]+)\]", argument):
            assert set(extras[1].split(",")) <= project["optional-dependencies"].keys()


def parse(command: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Raises where the program would refuse the arguments."""
    program, *arguments = command
    if program == "raft":
        parse_raft(arguments)
    elif program == "python":
        parse_python(arguments, monkeypatch)
    elif program == "make":
        parse_make(arguments)
    elif program == "pip":
        parse_pip(arguments)


@pytest.mark.parametrize(("place", "command"), COMMANDS, ids=[f"{p} {' '.join(c)}"[:80] for p, c in COMMANDS])
def test_a_command_of_a_code_block_is_taken_as_it_stands(place, command, monkeypatch):
    parse(command, monkeypatch)


MENTIONS = sorted({tuple(command) for _, command in spans() if len(command) > 1})
WITHOUT = ("Missing ", "requires an argument", "are required")  # words of the parsers for what is left out
OF_ONES_OWN = {("raft", "redact")}  # the verb of the stage that docs/extending.md adds


@pytest.mark.parametrize("command", MENTIONS, ids=[" ".join(command)[:80] for command in MENTIONS])
@pytest.mark.slow
def test_a_command_in_a_sentence_names_what_there_is(command, monkeypatch, capsys):
    try:
        parse(command, monkeypatch)
    except app._UsageError as error:
        told, number_by_name = error.format_message(), command[-1].isupper()  # `raft promote N`
        assert any(word in told for word in WITHOUT) or number_by_name or command in OF_ONES_OWN, told
    except typer.Exit:
        assert command == ("raft", "--version")
    except SystemExit:
        assert any(word in capsys.readouterr().err for word in WITHOUT)


@pytest.mark.parametrize(
    "command",
    [
        ["raft", "rum"],
        ["raft", "plan", "--engin"],
        ["raft", "promote", "three"],
        ["raft", "ask"],
        ["make", "rum"],
        ["python", "benchmarks/scalling.py"],
        ["python", "benchmarks/scaling.py", "--quik"],
        ["python", "-m", "no_such_module"],
        ["pip", "install", "-e", ".[orc]"],
    ],
    ids=" ".join,
)
def test_what_is_not_there_is_noticed(command, monkeypatch):
    with pytest.raises((app._UsageError, SystemExit, AssertionError)):
        parse(command, monkeypatch)


def test_commands_are_read_from_a_line_of_a_shell():
    line = ".venv/bin/raft records && raft ask 'a # b' --json > out.json  # words && raft rum"
    assert commands_of(line) == [["raft", "records"], ["raft", "ask", "a # b", "--json"]]
    assert commands_of("0 3 * * * cd /srv && /srv/venv/bin/raft retrain 2>> log || mail -s x") == [["raft", "retrain"]]
    assert commands_of("A=1 raft server") == [["raft", "server"]]
    assert commands_of("ingest     built  0.5 s") == []
    assert commands_of("podman run --rm -v a:/work jora-raft:cuda13 serve --port 1") == [
        ["raft", "serve", "--port", "1"]
    ]
    assert commands_of("podman build -t jora-raft .") == []


def test_every_page_with_commands_is_read():
    assert {program for _, (program, *_) in COMMANDS} == set(PROGRAMS)
    assert {"README.md", "pipeline.md", "retraining.md", "performance.md"} <= {block.page.name for block in BLOCKS}

"""The user's own test after a promotion decides, and says why it failed."""

import sys

import pytest

from raft_errors import BadInput, RaftError
from tasks.adapters.smoke import require_command, run_command


def test_the_command_is_told_what_was_promoted(tmp_path):
    script = (
        "import os, pathlib; pathlib.Path('{}').write_text(os.environ['RAFT_VERSION'] + os.environ['RAFT_ADAPTER'])"
    )
    run_command(f'{sys.executable} -c "{script.format(tmp_path / "told")}"', tmp_path / "export", 7, 60)
    assert (tmp_path / "told").read_text() == f"7{tmp_path / 'export' / 'adapter'}"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (f"{sys.executable} -c \"import sys; sys.exit('no answer')\"", "ended with 1: no answer"),
        ("/nowhere/deploy", "cannot be started"),
        (f'{sys.executable} -c "import time; time.sleep(60)"', "took longer than"),
    ],
)
@pytest.mark.slow
def test_a_failing_command_is_an_error_that_says_why(tmp_path, command, words):
    with pytest.raises(RaftError, match=words):
        run_command(command, tmp_path, 7, 1.0 if "sleep" in command else 60)


def test_a_failing_command_may_speak_in_any_encoding(tmp_path):
    with pytest.raises(RaftError, match="ended with 3: gr\ufffdn"):
        run_command(r"sh -c 'printf gr\\374n; exit 3'", tmp_path, 7, 60)
    run_command(r"sh -c 'printf gr\\374n'", tmp_path, 7, 60)


def test_a_command_that_could_not_be_started_is_found_before_a_night(tmp_path, monkeypatch):
    script = tmp_path / "own.sh"
    script.write_text("#!/bin/sh\ntrue\n")
    for command, words in {
        "no-such-program --now": "no-such-program is no program here",
        "FAST=1 sh x.sh": "FAST=1 is no program here",
        "": "is empty",
        "  ": "is empty",
        "sh -c 'true": "cannot be read",
        "sh a.sh && sh b.sh": "&& means nothing without a shell",
        "echo hello > /dev/null": "> means nothing without a shell",
        str(script): "may not be executed",
    }.items():
        with pytest.raises(BadInput, match=words):
            require_command(command)
    script.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    for command in (str(script), "./own.sh --now", "sh own.sh", "sh -c 'true && true'", f"{sys.executable} -V"):
        require_command(command)


def test_a_command_with_an_open_quotation_mark_is_an_error_of_ours(tmp_path):
    with pytest.raises(RaftError, match="cannot be read"):
        run_command("sh -c 'true", tmp_path, 7, 60)

"""The user's own test after a promotion decides, and says why it failed."""

import sys

import pytest

from raft_errors import RaftError
from tasks.adapters.smoke import run_command


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
def test_a_failing_command_is_an_error_that_says_why(tmp_path, command, words):
    with pytest.raises(RaftError, match=words):
        run_command(command, tmp_path, 7, 1.0 if "sleep" in command else 60)

"""However often `raft` is told to stop, and whenever: it ends with 75 and its state saved, or as it had ended."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture
def stopped():
    """Starts a verb of `signal_program` and, once it is ready, sends it signals until it has ended."""

    def run(*arguments: str, numbers=(signal.SIGTERM, signal.SIGINT, signal.SIGTERM)) -> subprocess.CompletedProcess:
        environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1] / "tasks")}
        process = subprocess.Popen(
            [sys.executable, str(HERE / "signal_program.py"), *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        for number in numbers * 200:
            if process.poll() is not None:
                break
            process.send_signal(number)
            time.sleep(0.02)
        _, output = process.communicate(timeout=60)
        return subprocess.CompletedProcess(arguments, process.returncode, "", output)

    return run


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.slow
def test_further_signals_do_not_disturb_what_saves_its_state(stopped, tmp_path, first):
    done = stopped("trains", str(tmp_path / "state"), numbers=(first, signal.SIGTERM, signal.SIGINT))
    assert done.returncode == 75, done.stderr
    assert (tmp_path / "state").read_text() == "state"
    assert "run the same command again" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("when", ["imports", "early"])
@pytest.mark.slow
def test_it_can_be_stopped_before_there_is_anything_to_save(stopped, when):
    done = stopped(when)
    assert done.returncode == 75, done.stderr
    assert "run the same command again" in done.stderr
    assert "broken" not in done.stderr


@pytest.mark.slow
def test_a_signal_to_a_command_that_is_done_changes_nothing(stopped):
    assert stopped("ends").returncode == 0


@pytest.mark.parametrize("code", [0, 4])
@pytest.mark.slow
def test_it_goes_as_soon_as_it_is_done_and_leaves_its_libraries_where_they_are(tmp_path, code):
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1] / "tasks")}
    command = [sys.executable, str(HERE / "signal_program.py"), "loads", str(tmp_path), str(code)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "not flushed", "")
    assert [path.name for path in tmp_path.iterdir()] == ["server"], "what is to be told at the end is told, no more"

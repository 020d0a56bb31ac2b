"""Real processes: kill -9 in the middle of a stage, and two runs at once."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "fake_stages.py"


def start(tmp_path, *options):
    command = [sys.executable, str(PROGRAM), str(tmp_path / "raft"), str(tmp_path / "log"), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wait_for(process, line):
    for words in process.stdout:
        if words.startswith(line):
            return words.strip()
    raise AssertionError(f"{line} was never said")


def ran(tmp_path):
    return (tmp_path / "log").read_text().split()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What a run says last that nobody kills: the digest of its last result."""
    out, _ = start(tmp_path_factory.mktemp("undisturbed")).communicate(timeout=300)
    return out.splitlines()[-1]


@pytest.mark.parametrize("name", ["first", "second", "third"])
@pytest.mark.slow
def test_after_kill_9_the_next_run_goes_on_and_ends_with_the_same_result(tmp_path, name, undisturbed):
    process = start(tmp_path, "--hold", name, "never")
    wait_for(process, f"started {name}")
    while not list((tmp_path / "raft" / "store" / name).glob(".*/half.txt")):
        assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert list((tmp_path / "raft" / "store" / name).glob(".*")), "the kill should leave a half-made folder"

    out, _ = start(tmp_path).communicate(timeout=300)
    assert out.splitlines()[-1] == undisturbed
    stages = ["first", "second", "third"]
    again = stages[stages.index(name) :]
    assert ran(tmp_path) == [*stages[: stages.index(name)], name, *again]
    assert not list((tmp_path / "raft" / "store" / name).glob(".*"))


@pytest.mark.slow
def test_of_two_runs_at_once_one_builds_and_the_other_waits_and_says_for_whom(tmp_path):
    one = start(tmp_path, "--hold", "second", str(tmp_path / "go"))
    wait_for(one, "started second")
    two = start(tmp_path)
    line = wait_for(two, "waiting second")
    (tmp_path / "go").touch()
    assert f"process {one.pid} on " in line
    first, second = one.communicate(timeout=300)[0], two.communicate(timeout=60)[0]
    assert first.splitlines()[-1] == second.splitlines()[-1]
    assert ran(tmp_path) == ["first", "second", "third"]


@pytest.mark.slow
def test_when_the_builder_is_killed_the_waiting_run_takes_over(tmp_path):
    one = start(tmp_path, "--hold", "second", "never")
    wait_for(one, "started second")
    two = start(tmp_path)
    wait_for(two, "waiting second")
    one.kill()
    one.wait()
    assert two.communicate(timeout=300)[0].splitlines()
    assert two.returncode == 0
    assert ran(tmp_path) == ["first", "second", "second", "third"]

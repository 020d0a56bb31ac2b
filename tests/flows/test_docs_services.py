"""`raft serve` as a service, as docs/serving.md has it: systemd takes the unit, and its command does what is said."""

import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from doc_blocks import ROOT, Block, blocks

from raft_errors import BadInput, Interrupted

PAGE = [block for block in blocks() if block.page.name == "serving.md"]


def block_with(words: str) -> Block:
    (block,) = (block for block in PAGE if words in block.text)
    return block


@pytest.fixture
def unit(tmp_path) -> Path:
    """The unit that the page's lines write, in a project and with a `raft` whose folders have spaces in their names."""
    home, project, programs = tmp_path / "home", tmp_path / "my project", tmp_path / "my programs"
    for folder in (home, project, programs):
        folder.mkdir()
    program = programs / "raft"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m flows.cli "$@"\n')
    program.chmod(0o755)
    lines = block_with("systemd").text
    typed, _, enabled = lines.rpartition("systemctl")
    assert enabled.split() == ["--user", "enable", "--now", "raft"]
    environment = {"HOME": str(home), "PATH": f"{programs}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-ec", typed], cwd=project, env=environment, check=True)
    return home / ".config" / "systemd" / "user" / "raft.service"


def settings(unit: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in unit.read_text().splitlines() if "=" in line)


def test_systemd_takes_the_unit(unit, tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (apt-get install systemd)")
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(runtime)}
    command = ["systemd-analyze", "--user", "verify", str(unit)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.slow
def test_the_unit_s_command_says_what_is_missing_and_is_not_tried_again(unit, tmp_path):
    values = settings(unit)
    bare = {"HOME": str(tmp_path / "home"), "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}  # as systemd's
    bare |= {"PYTHONPATH": str(ROOT)}  # an installed `raft` finds its packages by itself
    command = shlex.split(values["ExecStart"])
    done = subprocess.run(
        command, cwd=values["WorkingDirectory"], env=bare, capture_output=True, text=True, timeout=600
    )
    assert "raft.yaml" in done.stderr
    assert done.returncode == BadInput.exit_code == int(values["RestartPreventExitStatus"])
    assert int(values["SuccessExitStatus"]) == Interrupted.exit_code


def test_a_stop_waits_for_the_longest_request(unit):
    from flows.cli.verbs.serve import serve

    deadline = inspect.signature(serve).parameters["deadline"].default
    options = shlex.split(block_with("podman").text.replace("\\\n", " "))
    assert int(settings(unit)["TimeoutStopSec"]) > deadline
    assert int(options[options.index("--stop-timeout") + 1]) > deadline


def test_the_container_writes_where_the_image_has_volumes():
    options = shlex.split(block_with("podman").text.replace("\\\n", " "))
    mounted = [options[place + 1].rpartition(":")[2] for place, word in enumerate(options) if word == "-v"]
    (volumes,) = re.findall(r"^VOLUME (.+)$", (ROOT / "Containerfile").read_text(), re.MULTILINE)
    assert mounted == volumes.split()
    assert options[options.index("-p") + 1].endswith(":8000"), "the port that `raft serve` has by itself"

"""What only Linux has is used in few places, and each of them does without on macOS; Windows is refused in one line."""

import ast
import importlib.util
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import raft_command
from data.loading import confinement, worker
from jora_engine.model import sharding
from jora_engine.training import machine, plan
from raft_names import NAMES
from retrieval.embedding import sentence_model

ROOT = Path(__file__).resolve().parents[1]
LINUX_ONLY = {"prctl", "sched_getaffinity", "sched_setaffinity", "memfd_create", "pidfd_open", "eventfd", "unshare"}
LINUX_ONLY |= {
    "setns",
    "posix_fadvise",
    "posix_fallocate",
    "copy_file_range",
    "splice",
    "O_TMPFILE",
    "O_PATH",
    "F_OFD_SETLK",
}
PLACES = {
    "data/loading/confinement.py": {"/sys/fs/cgroup", "/proc/self/cgroup"},
    "data/loading/worker.py": {"prctl"},
    "flows/cli/verbs/report.py": {"/proc/sys/fs/binfmt_misc/WSLInterop"},  # is it there?
    "jora_engine/model/native/library.py": {"/proc/cpuinfo"},
    "jora_engine/model/sharding.py": {"sched_getaffinity"},
    "jora_engine/training/job.py": {"prctl"},
    "jora_engine/training/machine.py": {"sched_getaffinity", "/proc/cpuinfo"},
    "jora_engine/training/plan.py": {"/proc/meminfo", "/sys/fs/cgroup"},
    "retrieval/embedding/sentence_model.py": {"/proc/cpuinfo"},
}
"""Where they stand. A new place needs a fallback and a test here."""


def linux_only(source: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in LINUX_ONLY:
            names.add(node.attr)
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and node.value.startswith(("/proc/", "/sys/"))
        ):
            names.add(node.value)
    return names


@pytest.mark.slow
def test_what_only_linux_has_stands_in_few_places():
    files = [*ROOT.glob("raft_*.py"), *(path for name in NAMES for path in (ROOT / name).rglob("*.py"))]
    uses = {str(path.relative_to(ROOT)): linux_only(path.read_text(encoding="utf-8")) for path in files}
    assert {place: names for place, names in uses.items() if names} == PLACES


@pytest.fixture
def mac(monkeypatch, tmp_path):
    """This machine without what macOS lacks."""
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    real = Path.read_text

    def read_text(self, *arguments, **options):
        if str(self).startswith(("/proc/", "/sys/")):
            raise FileNotFoundError(str(self))
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", read_text)


def test_a_machine_without_proc_is_described_by_what_python_knows(mac):
    facts = machine.describe()
    assert facts["cores"] == os.cpu_count()
    assert facts["cpu"]
    assert facts["cpu_features"] == []
    assert sentence_model.hardware("cpu")[1] is False
    assert plan._free_memory() is None
    assert list(confinement._cgroup_limits()) == []
    sharding.use_cores(2)


def test_where_no_address_space_is_limited_a_worker_still_leaves_no_core_files(monkeypatch):
    limits = {}

    def setrlimit(limit, values):
        if limit == resource.RLIMIT_AS:
            raise ValueError("current limit exceeds maximum limit")
        limits[limit] = values

    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())  # has no prctl
    worker._protect(2**30)
    assert limits == {resource.RLIMIT_CORE: (0, 0)}


@pytest.mark.slow
def test_a_trainer_ends_with_its_supervisor_where_the_kernel_does_not_tell(tmp_path):
    trainer = (
        "import pathlib, sys, time, jora_engine.training.job as job\n"
        "sys.platform = 'darwin'\n"
        "job._PARENT_SECONDS = 0.05\n"
        "job._follow_supervisor()\n"
        f"pathlib.Path({str(tmp_path / 'ready')!r}).touch()\n"
        "time.sleep(120)\n"
    )
    supervisor = (
        "import os, subprocess, sys, time\n"
        "os.environ['RAFT_SUPERVISOR'] = str(os.getpid())\n"
        f"child = subprocess.Popen([sys.executable, '-P', '-c', {trainer!r}])\n"
        "print(child.pid, flush=True)\n"
        f"while child.poll() is None and not os.path.exists({str(tmp_path / 'ready')!r}): time.sleep(0.05)\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", supervisor], stdout=subprocess.PIPE, text=True, timeout=300)
    assert (tmp_path / "ready").exists()
    deadline = time.monotonic() + 60
    while alive(int(done.stdout)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(int(done.stdout))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_a_system_without_file_locks_is_refused_in_one_line(monkeypatch, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "fcntl" else real(name, *rest))
    with pytest.raises(SystemExit) as ended:
        raft_command.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "Error: raft runs on Linux and macOS. Do: on Windows run it under WSL2\n"

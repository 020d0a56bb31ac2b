"""Shared fixtures: throw-away homes before anything imports prefect or the store, and the shared data sets."""

import atexit
import collections
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

SLOW_WEIGHT = 30  # a slow test takes about as long as so many others

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a shell starts what it runs in the background deaf to Ctrl-C, and every child would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)

_home = os.environ.get("RAFT_TESTS_HOME", "")  # a worker inherits its controller's environment
if not _home:
    _home = os.environ["RAFT_TESTS_HOME"] = tempfile.mkdtemp(prefix="raft-tests-")
    atexit.register(shutil.rmtree, _home, ignore_errors=True)
elif worker := os.environ.get("PYTEST_XDIST_WORKER"):
    os.environ["PREFECT_HOME"] += f"-{worker}"  # a database that two make at once is made by neither
for _name, _value in {
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_HOME": f"{_home}/prefect",
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": f"{_home}/compiled",  # many tests compile the same tiny programs
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",  # also those of a moment: every process needs dozens
    "RAFT_NATIVE": "off",  # bytes that do not depend on whether a compiler is here; tests of the kernels switch them on
    "OMP_WAIT_POLICY": "PASSIVE",  # torch's threads spin otherwise, and starve JAX's on a busy machine
}.items():
    os.environ.setdefault(_name, _value)


os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each of hundreds of processes would compile this project again


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts long files first: a worker takes a whole file, and one that begins last keeps the other worker waiting."""
    weights = collections.Counter()
    for item in items:
        weights[item.path] += SLOW_WEIGHT if item.get_closest_marker("slow") else 1
    items.sort(key=lambda item: (-weights[item.path], item.path))  # within a file the order stays


@pytest.fixture(autouse=True)
def own_search_path():
    """What `raft` does to the environment of its own process ends with the test that ran it within this one."""
    before = os.environ.get("PYTHONSAFEPATH")
    yield
    if before is None:
        os.environ.pop("PYTHONSAFEPATH", None)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of shared data sets, or a skip that says how to supply it."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("RAFT_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip("shared data not found: set RAFT_SHARED_DATA or place it at ../shared/data")
    return folder

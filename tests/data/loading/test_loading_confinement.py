"""What the processes that read foreign files are given of the parent's environment and of the machine's memory."""

import logging
import os
from pathlib import Path

import pytest

from data.loading import LoadOptions, confinement, load_corpus
from data.loading.confinement import _cgroup_limits, fitting_workers, machine_memory
from data.loading.pool import Pool
from raft_errors import BadInput

TELLTALE = """
import os
def work(request):
    return {"environment": dict(os.environ), "kernel": open("/proc/self/environ", "rb").read().decode("latin-1")}
"""
GIB = 2**30


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks at /proc")
def test_a_worker_knows_no_secret_no_proxy_and_no_home_of_its_parent(tmp_path: Path, monkeypatch):
    (tmp_path / "raft_test_telltale.py").write_text(TELLTALE)
    monkeypatch.syspath_prepend(str(tmp_path))
    secrets = {
        "OPENAI_API_KEY": "planted-key",
        "AWS_SECRET_ACCESS_KEY": "planted-aws",
        "HTTPS_PROXY": "http://planted-proxy:1",
        "HOME": "/planted/home",
        "SOME_FUTURE_TOKEN": "planted-token",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    with Pool(1, max_seconds=5, max_memory_bytes=GIB, target="raft_test_telltale:work") as pool:
        answer = next(pool.map(["look"]))
    assert "planted" not in answer["kernel"]
    assert not set(secrets) - {"HOME"} & set(answer["environment"])
    assert answer["environment"]["HOME"] == answer["environment"]["TMPDIR"]
    assert answer["environment"]["LC_ALL"] == "C.UTF-8"
    assert answer["environment"]["PATH"] == os.environ["PATH"]


def test_workers_together_fit_into_the_memory_of_the_machine(monkeypatch):
    monkeypatch.setattr(confinement, "machine_memory", lambda: 10 * GIB)
    monkeypatch.setattr(os, "cpu_count", lambda: 32)
    assert fitting_workers(None, 1000, 4 * GIB) == 2
    assert fitting_workers(None, 1000, GIB) == 8
    assert fitting_workers(None, 1, GIB) == 1
    assert fitting_workers(None, 1000, 64 * GIB) == 1  # one reads in any case
    assert fitting_workers(2, 1000, 4 * GIB) == 2
    with pytest.raises(BadInput, match=r"ingest\.workers: 3 processes of up to 4 GiB.*at most 2 of that size"):
        fitting_workers(3, 1000, 4 * GIB)


def test_a_load_refuses_more_workers_than_fit_and_says_how_many_it_takes(tmp_path: Path, monkeypatch, caplog):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(f"Text {name}.")
    monkeypatch.setattr(confinement, "machine_memory", lambda: 8 * GIB)
    with pytest.raises(BadInput, match=r"ingest\.workers"):
        load_corpus([str(tmp_path)], options=LoadOptions(workers=3))
    with caplog.at_level(logging.INFO, logger="raft.data"):
        load_corpus([str(tmp_path)], options=LoadOptions(workers=2))
    assert "reading with 2 processes of at most 4096 MiB each" in caplog.text


@pytest.mark.parametrize(
    ("line", "files", "limit"),
    [
        ("0::/job/step", {"job/memory.max": "2000", "job/step/memory.max": "max", "memory.max": "5000"}, 2000),
        ("0::/elsewhere", {"memory.max": "5000"}, 5000),  # a container that does not see its own path
        ("4:memory:/job", {"memory/job/memory.limit_in_bytes": "3000"}, 3000),
        ("3:cpuset:/job", {"memory.max": "7"}, None),
    ],
)
def test_the_limit_of_a_container_is_that_of_the_narrowest_group(tmp_path: Path, line, files, limit):
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(text + "\n")
    (tmp_path / "cgroup").write_text(line + "\n")
    assert min(_cgroup_limits(tmp_path / "fs", tmp_path / "cgroup"), default=None) == limit


def test_this_machine_tells_its_memory():
    memory = machine_memory()
    assert memory is not None
    assert memory > 2**28

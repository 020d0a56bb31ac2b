"""The wheel holds all that the package needs, and works where there is no checkout."""

import contextlib
import os
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "flows"))
from tiny import make_base, make_embedder

from raft_names import NAMES
from raft_version import VERSION

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_every_file_of_our_packages_is_in_the_wheel(wheel, listed):
    ours = {name for name in listed if name.split("/")[0] in NAMES or ("/" not in name and name.endswith(".py"))}
    assert {Path(name).suffix for name in ours} >= {".py", ".pyi", ".jinja", ".json", ".jsonl", ".css"}
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert sorted(ours - inside) == []
    assert {name.split("/")[0] for name in inside - ours} == {f"jora_raft-{VERSION}.dist-info"}


def test_the_sdist_holds_what_it_is_built_from_and_its_licence(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "constraints.txt", "raft_version.py"} <= names
    assert [name for name in names if name.startswith("tests/")] == []  # those that setuptools adds lack their fixtures


@pytest.mark.heavy  # `make release` does the same in an empty environment
def test_a_user_s_first_run_from_the_wheel_alone(installed, tmp_path):
    base, embedder = make_base(tmp_path / "base"), make_embedder(tmp_path / "embedder")
    values = (f"models.base={base}", f"models.embedder={embedder}", "retrieval.mode=lexical", "train.dtype=float32")
    settings = [word for value in values for word in ("--set", value)]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    process = subprocess.Popen(
        [ROOT / ".ci" / "first_run", installed / "raft", tmp_path / "project", *settings],
        env={**inherited, "RAFT_CACHE": str(tmp_path / "cache")},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        out, error = process.communicate(timeout=1200)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)  # what it started as well, where it came to no end
    assert process.returncode == 0, error
    assert out.startswith(f"raft {VERSION}\n")
    assert "the smith" in (tmp_path / "project" / "search.txt").read_text()
    assert "Passages shown:" in out
    assert list(tmp_path.glob("project/.raft/store/evaluate/*/report.html"))

"""Commands where something is missing, closed, damaged or in the way: they work, or say in one line what to do."""

import json
import os
import stat
import subprocess
import sys

import pytest

from flows.prefect.server import prefect_home
from tasks.store.store import Store

NOBODY = """
import pwd, runpy, sys
def unknown(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = unknown
sys.argv = ["raft", *sys.argv[1:]]
runpy.run_module("flows.cli", run_name="__main__")
"""


def modes(folder):
    """The modes of the folders and of the files in a folder, itself included."""
    paths = [folder, *(p for p in folder.rglob("*") if not p.is_symlink())]
    folders = {oct(stat.S_IMODE(p.stat().st_mode)) for p in paths if p.is_dir()}
    return folders, {oct(stat.S_IMODE(p.stat().st_mode)) for p in paths if p.is_file()}


@pytest.mark.parametrize(
    ("access", "umask", "folders", "files"),
    [("private", 0o000, "0o700", "0o600"), ("group", 0o077, "0o2770", "0o660")],
)
@pytest.mark.slow
def test_a_run_leaves_nothing_that_is_more_or_less_open_than_its_store(project, access, umask, folders, files):
    project.values["store_access"] = access
    project.write()
    before = os.umask(umask)
    try:
        project.raft("questions", "--no-prefect")
        assert os.umask(umask) == umask, "a run leaves the umask as it was"
    finally:
        os.umask(before)
    assert modes(project.folder / ".raft") == ({folders}, {files})


def test_prefects_files_are_each_users_own(tmp_path):
    homes = {}
    for mode in (0o700, 0o2770, 0o755):
        root = tmp_path / f"{mode:o}"
        root.mkdir()
        root.chmod(mode)
        homes[mode] = prefect_home(Store(root))
        assert stat.S_IMODE(homes[mode].stat().st_mode) == 0o700
    assert [homes[mode].name for mode in homes] == ["prefect", f"prefect-{os.getuid()}", "prefect"]


@pytest.mark.slow
def test_a_store_that_everybody_may_read_is_told_by_the_run_and_the_plan(project):
    (project.folder / ".raft").mkdir()
    (project.folder / ".raft").chmod(0o755)
    line = f"Every user of this machine may read the store {project.folder}/.raft (mode 755)"
    assert line in project.raft("chunk", "--no-prefect").stderr
    assert any(notice.startswith(line) for notice in project.json("plan")["notices"])


@pytest.mark.slow
def test_without_a_home_and_a_name_commands_work(project, tmp_path):
    (tmp_path / "tmp").mkdir()
    taken = ("HOME", "RAFT_CACHE", "XDG_CACHE_HOME", "HF_HOME", "LOGNAME", "USER")
    environment = {n: v for n, v in os.environ.items() if n not in taken} | {"TMPDIR": str(tmp_path / "tmp")}
    command = [sys.executable, "-c", NOBODY, "chunk", "--no-prefect", "--json"]
    done = subprocess.run(
        command, cwd=project.folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tmp" / f"raft-home-{os.getuid()}" / ".cache" / "raft" / "code.sqlite").is_file()


@pytest.mark.slow
def test_a_result_that_became_a_fifo_is_named_and_built_again(project):
    built = {row["stage"]: row for row in project.json("chunk", "--no-prefect")["stages"]}
    file = project.folder / ".raft" / "store" / "chunk" / built["chunk"]["key"] / "chunks.jsonl"
    file.unlink()
    os.mkfifo(file)
    done = project.raft("chunk", "--no-prefect")
    assert "chunks.jsonl is a FIFO" in done.stderr
    again = {row["stage"]: row for row in project.json("chunk")["stages"]}
    assert again["chunk"]["digest"] == built["chunk"]["digest"]


@pytest.mark.slow
def test_damaged_caches_fail_no_command_and_change_no_result(project):
    built = {row["stage"]: row["digest"] for row in project.json("chunk", "--no-prefect")["stages"]}
    caches = sorted((project.folder / ".raft" / "cache").glob("*.sqlite"))
    assert caches
    for cache in caches:
        cache.write_bytes(b"\xa5" * 20000)
        for part in ("-wal", "-shm"):
            cache.with_name(cache.name + part).unlink(missing_ok=True)
    done = project.process("chunk", "--no-prefect", "--force", "--json")
    again = json.loads(done.stdout.splitlines()[-1])
    assert {row["stage"]: row["digest"] for row in again["stages"]} == built
    warnings = [line for line in done.stderr.splitlines() if "is damaged" in line]
    assert len(warnings) == len({*warnings}), "each is told once"
    assert all(any(str(cache) in text for cache in caches) for text in warnings)
    assert [text for text in warnings if "files.sqlite" in text]

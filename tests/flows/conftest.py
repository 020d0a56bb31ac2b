"""A small domain with tiny random models, made once, and a run over it."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from raft_project import Project, Said


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on the finished run are slow: whichever comes first makes the run, which takes most of a minute."""
    for item in items:
        if "finished" in getattr(item, "fixturenames", ()) and not item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """`once(name, fill)`: a folder that is filled once a session; the worker that comes second waits for the first."""
    common = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        common = common.parent

    def get(name: str, fill: Callable[[Path], None]) -> Path:
        folder, whole = common / f"{name}-of-all", common / f"{name}-is-whole"
        with (common / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not whole.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                whole.touch()
        return folder

    return get


@pytest.fixture(scope="session")
def domain(once) -> Path:
    """A folder with documents, questions, base and embedder."""

    def fill(folder: Path) -> None:
        tiny.write_documents(folder / "docs")
        tiny.write_questions(folder / "questions.jsonl")
        tiny.make_base(folder / "base")
        tiny.make_embedder(folder / "embedder")

    return once("domain", fill)


DATABASE = """
import asyncio
from prefect.server.database import provide_database_interface
asyncio.run(provide_database_interface().create_db())
"""


@pytest.fixture(scope="session")
def with_database(once) -> Callable[[Path], None]:
    """`with_database(home)`: puts Prefect's database there, empty, as its migrations leave it.

    They take longer than a run; what a server does where there is no database yet, tests/flows/prefect shows.
    """

    def fill(folder: Path) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        command = [sys.executable, "-P", "-c", DATABASE]
        subprocess.run(command, cwd=folder, env={**environment, "PREFECT_HOME": str(folder)}, check=True)

    def put(home: Path) -> None:
        if not (home / "prefect.db").exists():
            for folder in (home.parent, home):
                folder.mkdir(mode=0o700, exist_ok=True)
            shutil.copy(once("database", fill) / "prefect.db", home)

    return put


@pytest.fixture(scope="session")
def new_project(domain) -> Callable[[Path], Project]:
    """Makes a project in a folder, for fixtures that live longer than a test."""
    return lambda folder: Project(folder, domain)


@pytest.fixture
def project(tmp_path, domain) -> Project:
    return Project(tmp_path, domain)


@pytest.fixture(scope="session")
def finished(once, domain) -> tuple[Project, Said]:
    """A project that was run to its end undisturbed, and what the run said; for reading, see `warm`."""

    def fill(folder: Path) -> None:
        (folder / "said.json").write_text(json.dumps(Project(folder, domain).raft("run", "--no-prefect")))

    project = Project(once("finished", fill), domain)
    return project, Said(*json.loads((project.folder / "said.json").read_text()))


@pytest.fixture
def warm(project, finished) -> Project:
    """A project of its own with a copy of the finished one's store: what it does not change is cached.

    A copy, so that what one test builds is never found by another.
    """
    shutil.copytree(finished[0].folder / ".raft", project.folder / ".raft", symlinks=True)
    return project

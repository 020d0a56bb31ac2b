"""A small domain with tiny random models, made once, and a run over it."""

import contextlib
import fcntl
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tiny
import yaml

from flows.cli.app import invoke


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


SMALL = {
    "chunk": {"max_tokens": 64},
    "embed": {"precision": "float32"},
    "records": {"distractors": 2, "max_tokens": 2048, "test": 0.25, "validation": 0.13},
    "train": {"rank": 4, "max_steps": 4, "micro_batch_rows": 1, "sequence_length": 2048, "dtype": "float32"},
    "export": {"gate_prompts": 2, "gate_tokens": 4},
    "evaluate": {"max_new_tokens": 8, "dtype": "float32", "samples": 200, "general": 2},
}


class Said(NamedTuple):
    """How a `raft` command ended, and what it said."""

    returncode: int
    stdout: str
    stderr: str


class Project:
    """A folder with a configuration, in which `raft` is run as a user runs it."""

    def __init__(self, folder: Path, domain: Path) -> None:
        self.folder, self.domain = folder, domain
        self.values = {
            **json.loads(json.dumps(SMALL)),
            "corpus": [str(domain / "docs")],
            "questions": {"file": str(domain / "questions.jsonl")},
            "models": {"base": str(domain / "base"), "embedder": str(domain / "embedder")},
        }
        self.write()

    @property
    def prefect_home(self) -> Path:
        """Where a run in a process of its own has Prefect's files."""
        return self.folder / ".raft" / "prefect"

    @property
    def config(self) -> Path:
        return self.folder / "raft.yaml"

    def write(self) -> None:
        self.config.write_text(yaml.safe_dump(self.values))

    @property
    def environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if name != "PREFECT_HOME"}
        return {**inherited, "RAFT_CACHE": str(self.domain / "cache")}

    def start(self, *arguments: str, **pipes: Any) -> subprocess.Popen[str]:
        """Starts `raft` as a process of its own in the project's folder; its messages come on one pipe."""
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, **pipes}
        command = [sys.executable, "-P", "-m", "flows.cli", *arguments]
        return subprocess.Popen(command, cwd=self.folder, env=self.environment, text=True, **pipes)

    def process(self, *arguments: str) -> Said:
        """Runs `raft` as a process of its own to its end."""
        process = self.start(*arguments, stdout=subprocess.PIPE)
        out, err = process.communicate(timeout=600)
        return Said(process.returncode, out, err)

    def raft(self, *arguments: str, check: bool = True) -> Said:
        """Runs `raft` within this process (libraries are loaded once), in the project's folder."""
        out, err = io.StringIO(), io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            patch.chdir(self.folder)
            patch.setenv("RAFT_CACHE", self.environment["RAFT_CACHE"])
            code = invoke(arguments)
        assert not check or code == 0, err.getvalue()
        return Said(code, out.getvalue(), err.getvalue())

    def json(self, *arguments: str, check: bool = True) -> dict:
        """The JSON object that `raft ... --json` prints."""
        return json.loads(self.raft(*arguments, "--json", check=check).stdout.splitlines()[-1])


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

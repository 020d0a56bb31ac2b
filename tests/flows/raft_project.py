"""A project in which `raft` is run as a user runs it, within this process or in one of its own."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from kept_json import checked

from flows.cli.app import invoke

SMALL = {
    "chunk": {"max_tokens": 64},
    "embed": {"precision": "float32"},
    "records": {"distractors": 2, "max_tokens": 2048, "test": 0.25, "validation": 0.13},
    "train": {
        "rank": 4,
        "max_steps": 4,
        "micro_batch_rows": 1,
        "sequence_length": 2048,
        "dtype": "float32",
        "rehearsal": 0,  # what it takes is a process more
    },
    "export": {"gate_prompts": 2, "gate_tokens": 4},
    "evaluate": {"max_new_tokens": 8, "dtype": "float32", "samples": 200, "general": 2},
}


class Said(NamedTuple):
    """How a `raft` command ended, and what it said."""

    returncode: int
    stdout: str
    stderr: str


def raft_here(folder: Path, *arguments: str) -> Said:
    """Runs `raft` within this process, in a folder."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = invoke(arguments)
    return Said(code, out.getvalue(), err.getvalue())


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
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAFT_CACHE", self.environment["RAFT_CACHE"])
            done = raft_here(self.folder, *arguments)
        assert not check or done.returncode == 0, done.stderr
        return done

    def json(self, *arguments: str, check: bool = True) -> dict:
        """The JSON object that `raft ... --json` prints, with all the keys that are kept."""
        return checked(arguments, json.loads(self.raft(*arguments, "--json", check=check).stdout.splitlines()[-1]))

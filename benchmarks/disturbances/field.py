"""The project that `chaos.py` disturbs: a domain in miniature, how `raft` is started in it, and how it is judged."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flows.cli.app import invoke
from tasks.store.store import Store

STAGES = ("ingest", "chunk", "embed", "index", "questions", "records", "train", "export", "evaluate")
CONFIG: dict[str, Any] = {
    "chunk": {"max_tokens": 64},
    "embed": {"precision": "float32"},
    "records": {
        "distractors": 2,
        "max_tokens": 2048,
        "test": 0.4,
        "validation": 0.13,
        "p_oracle": 0.0,
        "absent": "answer",
    },
    "train": {
        "rank": 8,
        "epochs": 20,
        "learning_rate": 0.02,
        "micro_batch_rows": 1,
        "sequence_length": 2048,
        "dtype": "float32",
        "checkpoint_every_steps": 4,
        "rehearsal": 0,
    },
    "export": {"gate_prompts": 2, "gate_tokens": 4},
    "evaluate": {"max_new_tokens": 16, "dtype": "float32", "samples": 200, "general": 0},
    "gate": {"least_questions": 4},
}
VARIANTS = {
    "rank 4": ("--set", "train.rank=4"),
    "rank 8": (),
    "rank 16": ("--set", "train.rank=16"),
    "early stop": (  # after 8 of 20 steps
        *("--set", "train.rank=4", "--set", "train.eval_every_steps=2"),
        *("--set", "train.early_stopping_patience=2"),
    ),
}
"""Trainings whose checkpoints are disturbed, by the settings that differ from the run's."""
GONE_SECONDS = 60.0  # in which a child must have ended after its parent


@dataclass(frozen=True)
class Case:
    """What became of one disturbance."""

    kind: str
    stage: str
    landed: bool
    identical: bool
    orphans: int
    halves: int
    note: str = ""


class Field:
    """The project in which everything happens, with the digests of the undisturbed run."""

    def __init__(self, home: Path, domain: Path) -> None:
        self.home, self.domain = home, domain
        self.store = home / ".raft"
        # native kernels would be compiled anew, into this cache
        self.environment = {"RAFT_NATIVE": "off", **os.environ, "RAFT_CACHE": str(domain / "cache")}
        self.environment.pop("PREFECT_API_URL", None)
        values = {
            **CONFIG,
            "corpus": [str(domain / "docs")],
            "questions": {"file": str(domain / "questions.jsonl")},
            "models": {"base": str(domain / "base"), "embedder": str(domain / "embedder")},
        }
        (home / "raft.yaml").write_text(yaml.safe_dump(values))
        self.seconds: dict[str, float] = {}
        self.truth: dict[str, str] = {}
        self.trainings: dict[str, dict[str, str]] = {}

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """`raft` as a process in a session of its own, by which everything it starts can be found."""
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "flows.cli", *arguments],
            cwd=self.home,
            env={**self.environment, **environment},
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def again(self, *arguments: str) -> dict[str, Any]:
        """Runs `raft ... --no-prefect --json` within this process: what it printed, and its exit code."""
        out, here = io.StringIO(), Path.cwd()
        os.environ |= {name: self.environment[name] for name in ("RAFT_CACHE", "RAFT_NATIVE")}
        os.chdir(self.home)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()) as err:
                code = invoke([*arguments, "--no-prefect", "--json"])
        finally:
            os.chdir(here)
        lines = out.getvalue().splitlines()
        return {"code": code, "said": err.getvalue(), **(json.loads(lines[-1]) if lines else {})}

    def learn(self, variants: Iterable[str] = VARIANTS, night: bool = True) -> None:
        """The undisturbed run, trainings of `variants`, and the undisturbed `night`."""
        done = self.again("run")
        assert done["code"] == 0, done["said"]
        self.seconds = {row["stage"]: row["seconds"] for row in done["stages"]}
        self.trainings = {name: self.training(name) for name in variants}
        if night:
            self.take_out("train")
            done = self.again("retrain")
            assert done["result"] == "promoted", done
            self.seconds["retrain"] = done["seconds"]
            shutil.rmtree(self.store / "registry")
        self.truth = self.digests()

    def training(self, variant: str) -> dict[str, str]:
        """Digests of the files of a training that is run to its end; one with settings of its own is then removed."""
        done = self.again("train", *VARIANTS[variant])
        if done["code"]:
            return {"error": done["said"]}
        folder = Path(done["stages"][-1]["folder"])
        files = self.digests(folder)
        if VARIANTS[variant]:
            shutil.rmtree(folder)
        return files

    def digests(self, root: Path | None = None) -> dict[str, str]:
        """sha256 of every published file but the manifests, which tell how long a build took."""
        root = root or self.store / "store"
        files = (p for p in root.rglob("*") if p.is_file() and p.name != "manifest.json")
        return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(files)}

    def take_out(self, stage: str) -> None:
        """Removes a stage's result and what its items' cache remembers, so that it is worked on again."""
        shutil.rmtree(self.store / "store" / stage, ignore_errors=True)
        for part in (self.store / "cache").glob(f"{stage}.sqlite*"):
            part.unlink()

    def forget_others(self) -> None:
        """Removes results of other inputs than the undisturbed run's."""
        known = {tuple(name.split("/")[:2]) for name in self.truth}
        for folder in (self.store / "store").glob("*/[!.]*"):
            if folder.parts[-2:] not in known:
                shutil.rmtree(folder)

    def halves(self) -> int:
        """Published folders that are not whole, whoever looks at them."""
        store = Store(self.store)
        folders = [p for p in (self.store / "store").glob("*/[!.]*") if p.is_dir()]
        return sum(store.load(p.parent.name, p.name) is None for p in folders)

    def leftovers(self) -> list[str]:
        """Temporary folders and scratch that a finished run should have removed."""
        found = [*(self.store / "store").glob("*/.*"), *(self.store / "work").glob("*/*")]
        return [str(p.relative_to(self.store)) for p in found]

    def judge_training(self, variant: str, landed: bool, kind: str, note: str = "") -> Case:
        """Runs a variant of the training to its end and compares."""
        same = self.training(variant) == self.trainings[variant]
        words = [note, *([] if same else ["bytes differ"]), *self.leftovers()]
        halves = self.halves()
        return Case(kind, variant, landed, same and not self.leftovers(), 0, halves, "; ".join(words).strip("; "))

    def judge(self, kind: str, stage: str, landed: bool, orphans: int, halves: int, note: str = "") -> Case:
        """Runs to the end and compares."""
        done = self.again("run")
        different = [] if self.digests() == self.truth else ["bytes differ"]
        different += [f"exit code {done['code']}"] * (done["code"] != 0) + self.leftovers()
        return Case(kind, stage, landed, not different, orphans, halves, "; ".join([note, *different]).strip("; "))


# ---- processes


def session_of(leader: int) -> list[int]:
    """Living processes of the session that `leader` opened."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                found.append(int(stat.parent.name))
    return found


def orphans_of(leader: int) -> int:
    """Processes that outlive the run's death by a minute; they are killed then."""
    deadline = time.monotonic() + GONE_SECONDS
    while (left := session_of(leader)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(left)


def heard(process: subprocess.Popen[str], word: str) -> Iterator[str]:
    """Lines of the run's messages up to the first that holds `word`; the rest is read away by a thread."""
    assert process.stderr is not None
    for line in process.stderr:
        yield line
        if word in line:
            break
    threading.Thread(target=collections.deque, args=(process.stderr, 0), daemon=True).start()


def kill_session(leader: int) -> None:
    """SIGKILL to the process that leads the session and to all that it started."""
    for pid in session_of(leader):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

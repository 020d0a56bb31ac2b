"""Kills, interrupts and damages a run in every way, runs it again, and compares every byte with an undisturbed run.

    python benchmarks/chaos.py --quick
    python benchmarks/chaos.py --json > chaos.json

A domain in miniature (random two-layer model) is run once undisturbed. Each case then takes a stage's result (and its
item cache) out of the store, starts `raft` as a process of its own, disturbs it, looks for published halves and for
processes that outlive it, runs `raft` again to its end and compares all files of all stages. Cases: kill -9 of the run
and of its child processes at random moments of every stage and of a night (`raft retrain`), SIGTERM, a full disk (a
small tmpfs, where mounting is allowed), deleted and flipped artefacts, two runs at once, and a Prefect server killed
under a run. The last line with --json is one object. Exits 1 unless every case ends in the same bytes.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "flows"))
import tiny

from flows.cli import invoke
from tasks.registry import Registry
from tasks.store import Store

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
    },
    "export": {"gate_prompts": 2, "gate_tokens": 4},
    "evaluate": {"max_new_tokens": 16, "dtype": "float32", "samples": 200, "general": 0},
    "gate": {"least_questions": 4},
}
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
        self.environment = {**os.environ, "RAFT_CACHE": str(domain / "cache")}
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
        os.environ["RAFT_CACHE"] = self.environment["RAFT_CACHE"]
        os.chdir(self.home)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()) as err:
                code = invoke([*arguments, "--no-prefect", "--json"])
        finally:
            os.chdir(here)
        lines = out.getvalue().splitlines()
        return {"code": code, "said": err.getvalue(), **(json.loads(lines[-1]) if lines else {})}

    def learn(self) -> None:
        """The undisturbed run and night."""
        done = self.again("run")
        assert done["code"] == 0, done["said"]
        self.seconds = {row["stage"]: row["seconds"] for row in done["stages"]}
        self.take_out("train")
        night = self.again("retrain")
        assert night["result"] == "promoted", night
        self.seconds["retrain"] = night["seconds"]
        shutil.rmtree(self.store / "registry")
        self.truth = self.digests()

    def digests(self) -> dict[str, str]:
        """sha256 of every published file but the manifests, which tell how long a build took."""
        root = self.store / "store"
        files = (p for p in root.rglob("*") if p.is_file() and p.name != "manifest.json")
        return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(files)}

    def take_out(self, stage: str) -> None:
        """Removes a stage's result and what its items' cache remembers, so that it is worked on again."""
        shutil.rmtree(self.store / "store" / stage, ignore_errors=True)
        for part in (self.store / "cache").glob(f"{stage}.sqlite*"):
            part.unlink()

    def halves(self) -> int:
        """Published folders that are not whole, whoever looks at them."""
        store = Store(self.store)
        folders = [p for p in (self.store / "store").glob("*/[!.]*") if p.is_dir()]
        return sum(store.load(p.parent.name, p.name) is None for p in folders)

    def leftovers(self) -> list[str]:
        """Temporary folders and scratch that a finished run should have removed."""
        found = [*(self.store / "store").glob("*/.*"), *(self.store / "work").glob("*/*")]
        return [str(p.relative_to(self.store)) for p in found]

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


# ---- cases


def kill(field: Field, draw: random.Random, stage: str, number: int, verb: str = "run", child: bool = False) -> Case:
    """Sends a signal at a random moment of a stage, to the run or to the child process that works for it."""
    if verb == "retrain":
        shutil.rmtree(field.store / "registry", ignore_errors=True)
        for name in ("train", "gate"):
            field.take_out(name)
    else:
        field.take_out(stage)
    process = field.start(verb, "--no-prefect")
    for _ in heard(process, "training:" if verb == "retrain" else f"{stage} …"):
        pass
    time.sleep(draw.uniform(0, 1.2 * field.seconds["retrain" if verb == "retrain" else stage]))
    victims = [pid for pid in session_of(process.pid) if pid != process.pid] if child else [process.pid]
    landed = bool(victims)
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    code = process.wait()
    landed = landed and (child or code != 0)  # a run that had just ended was not disturbed
    orphans, halves = orphans_of(process.pid), field.halves()
    note = ""
    if verb == "retrain":
        note = night_note(field)
        shutil.rmtree(field.store / "registry", ignore_errors=True)
    kind = f"{'kill -9' if number == signal.SIGKILL else 'SIGTERM'} of {'its child' if child else verb}"
    if number == signal.SIGTERM and landed and code != 75:
        note = f"exit code {code}, not 75"
    return field.judge(kind, stage, landed, orphans, halves, note)


def terminate(field: Field, draw: random.Random, stage: str) -> Case:
    return kill(field, draw, stage, signal.SIGTERM)


def night_note(field: Field) -> str:
    """The next night must end where an undisturbed one does: version 1 in use and tested."""
    night = field.again("retrain")
    adapter = Registry(Store(field.store), "adapter").read()
    whole = (adapter.promoted, adapter.on_trial, len(adapter.versions)) == (1, False, 1)
    return "" if whole else f"the next night ended oddly: {night}"


def flip(field: Field, draw: random.Random, stage: str) -> Case:
    """One bit of one file."""
    path = draw.choice(published(field, stage))
    body = bytearray(path.read_bytes())
    if body:
        body[draw.randrange(len(body))] ^= 1 << draw.randrange(8)
    path.write_bytes(bytes(body) or b"x")
    return field.judge("flipped artefact", stage, True, 0, 0)


def delete(field: Field, draw: random.Random, stage: str) -> Case:
    draw.choice(published(field, stage)).unlink()
    return field.judge("deleted artefact", stage, True, 0, 0)


def published(field: Field, stage: str) -> list[Path]:
    return sorted(p for p in (field.store / "store" / stage).rglob("*") if p.is_file())


def twice(field: Field, stage: str) -> Case:
    """Two runs at once: one builds, one waits."""
    field.take_out(stage)
    runs = [field.start("run", "--no-prefect") for _ in range(2)]
    said = [run.communicate()[1] for run in runs]
    built = sum(f"{stage} …" in text for text in said)
    note = "" if built == 1 and all(run.returncode == 0 for run in runs) else f"built {built} times"
    return field.judge("two runs at once", stage, True, sum(orphans_of(r.pid) for r in runs), field.halves(), note)


def full_disk(field: Field, stage: str) -> Case | None:
    """The store on a small tmpfs that a file fills up while the stage works; None where mounting is not allowed."""
    field.take_out(stage)
    aside = field.home / "aside"
    field.store.rename(aside)
    field.store.mkdir()
    size = sum(p.stat().st_size for p in aside.rglob("*") if p.is_file()) // 2**20 + 100
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", str(field.store)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        field.store.rmdir()
        aside.rename(field.store)
        field.judge("full disk", stage, False, 0, 0)
        return None
    try:
        shutil.copytree(aside, field.store, dirs_exist_ok=True, symlinks=True)
        process = field.start("run", "--no-prefect")
        for _ in heard(process, f"{stage} …"):
            pass
        filler = field.store / "filler"
        with contextlib.suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(b"\0" * 2**16)
                file.flush()
        code = process.wait()
        orphans, halves = orphans_of(process.pid), field.halves()
        filler.unlink()
        note = "" if code == 1 else f"exit code {code}, not 1"
        case = field.judge("full disk", stage, code != 0, orphans, halves, note)
    finally:
        subprocess.run(["umount", "-l", str(field.store)], check=True)
    field.store.rmdir()
    aside.rename(field.store)
    field.again("run")
    return case


def server_killed(field: Field, stage: str) -> Case:
    """Prefect's server dies under a run that reports to it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "PREFECT_HOME": str(field.home / "server"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
    }
    command = [sys.executable, "-P", "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    server = subprocess.Popen(command, env={**field.environment, **settings}, **quiet)
    while server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            break
        time.sleep(0.2)
    time.sleep(5)
    field.take_out(stage)
    process = field.start("run", **settings)
    landed = any(f"{stage} …" in line for line in heard(process, f"{stage} …"))
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    try:
        note = f"the run ended with {process.wait(timeout=240)}"
    except subprocess.TimeoutExpired:
        process.terminate()
        note = f"the run waited for its server until SIGTERM, then ended with {process.wait()}"
    orphans, halves = orphans_of(process.pid) + orphans_of(server.pid), field.halves()
    return field.judge("Prefect's server killed", stage, landed, orphans, halves, note)


def plan(kills: int, others: bool, draw: random.Random, quick: bool) -> list[Callable[[Field], Case | None]]:
    """All cases, with what they draw."""
    cases: list[Callable[[Field], Case | None]] = []
    targets = ("retrain", *STAGES)
    for number in range(kills):
        stage, own = targets[number % len(targets)], random.Random(draw.random())
        child = stage in ("train", "export") and number // len(targets) % 2 == 0
        verb = "retrain" if stage == "retrain" else "run"
        cases.append(partial(kill, draw=own, stage=stage, number=signal.SIGKILL, verb=verb, child=child))
    if not others:
        return cases
    some = ("embed", "train") if quick else ("ingest", "embed", "records", "train", "export", "evaluate")
    damaged = ("chunk", "train") if quick else STAGES
    for act, stages in ((terminate, some), (flip, damaged), (delete, damaged)):
        cases += [partial(act, draw=random.Random(draw.random()), stage=stage) for stage in stages]
    cases += [partial(twice, stage=s) for s in (("train",) if quick else ("embed", "train", "evaluate"))]
    cases += [partial(full_disk, stage=s) for s in (("train",) if quick else ("embed", "train", "export"))]
    cases += [partial(server_killed, stage=s) for s in (("train",) if quick else ("embed", "train"))]
    return cases


def questions() -> Iterator[dict[str, str]]:
    """The same answer to each, which even a tiny model learns, so that a night promotes and tests its adapter."""
    for town in tiny.TOWNS:
        for question in ("What is {} known for?", "Who opens the gates of {}?", "How long is the walk around {}?"):
            yield {"question": question.format(town.title()), "answer": "the river", "document": f"{town}.md"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10 kills and one or two of every other kind")
    parser.add_argument("--kills", type=int, help="random kills; default 50, with --quick 10")
    parser.add_argument("--only-kills", action="store_true", help="leave out the other kinds of disturbance")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object with the figures")
    args = parser.parse_args()
    draw = random.Random(args.seed)
    cases: list[Case] = []
    with tempfile.TemporaryDirectory(prefix="raft-chaos-") as folder:
        domain, home = Path(folder) / "domain", Path(folder) / "project"
        home.mkdir()
        tiny.write_documents(domain / "docs")
        (domain / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions()))
        tiny.make_base(domain / "base")
        tiny.make_embedder(domain / "embedder")
        field = Field(home, domain)
        field.learn()
        print(f"undisturbed: {len(field.truth)} files, seconds by stage: {field.seconds}", flush=True)
        kills = args.kills if args.kills is not None else 10 if args.quick else 50
        for act in plan(kills, not args.only_kills, draw, args.quick):
            case = act(field)
            if case is None:
                print("full disk: left out, this machine does not allow mounting a tmpfs", flush=True)
                continue
            cases.append(case)
            print(case, flush=True)
    return report(cases, args.json)


def report(cases: list[Case], as_json: bool) -> int:
    """The table by kind, and the sums."""
    print("| disturbance | cases | landed | same bytes | published halves | orphans |\n|---|---|---|---|---|---|")
    by_kind: dict[str, list[Case]] = {}
    for case in cases:
        by_kind.setdefault(case.kind, []).append(case)
    for kind, rows in by_kind.items():
        counts = [(c.landed, c.identical, c.halves, c.orphans) for c in rows]
        sums = [len(rows), *(sum(column) for column in zip(*counts, strict=True))]
        print(f"| {kind} | {' | '.join(map(str, sums))} |")
    total = {
        "cases": len(cases),
        "landed": sum(c.landed for c in cases),
        "byte_identical": sum(c.identical for c in cases),
        "halves": sum(c.halves for c in cases),
        "orphans": sum(c.orphans for c in cases),
        "by_kind": {kind: len(rows) for kind, rows in by_kind.items()},
        "failed": [str(c) for c in cases if not c.identical or c.orphans or c.halves],
    }
    print(f"{total['byte_identical']} of {total['cases']} byte-identical, {total['orphans']} orphans")
    if as_json:
        print(json.dumps(total))
    return 0 if not total["failed"] else 1


if __name__ == "__main__":
    sys.exit(main())

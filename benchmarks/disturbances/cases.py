"""What `chaos.py` does to a run: each function disturbs it once and tells what became of it."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from disturbances.field import VARIANTS, Case, Field, heard, kill_session, orphans_of, session_of
from tasks.adapters.registry import Registry
from tasks.store.store import Store

WAIT_SECONDS = 300.0
"""A run that has not ended by itself after so long hangs."""


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
    flip_bit(draw.choice(published(field, stage)), draw)
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
    code = end_of(process)
    note = "" if code == 0 else f"the run ended with {code}"
    orphans, halves = orphans_of(process.pid) + orphans_of(server.pid), field.halves()
    return field.judge("Prefect's server killed", stage, landed, orphans, halves, note)


def end_of(process: subprocess.Popen[str]) -> int | str:
    """The exit code of a run that is left to itself; one that hangs is killed."""
    try:
        return process.wait(timeout=WAIT_SECONDS)
    except subprocess.TimeoutExpired:
        kill_session(process.pid)
        process.wait()
        return f"nothing: it was killed after {WAIT_SECONDS:.0f} s"


# ---- checkpoints


def state_flipped(field: Field, draw: random.Random, variant: str) -> Case:
    """Kills a training once it has saved its state, and flips one bit of that state."""
    field.take_out("train")
    process = field.start("train", "--no-prefect", *VARIANTS[variant])
    while not (states := saved_states(field)) and process.poll() is None:
        time.sleep(0.02)
    kill_session(process.pid)
    process.wait()
    states = saved_states(field)
    if states:
        flip_bit(draw.choice(sorted(p for p in states[-1].rglob("*") if p.is_file() and p.stat().st_size)), draw)
    return field.judge_training(variant, bool(states), "flipped checkpoint")


def saved_states(field: Field) -> list[Path]:
    """The whole checkpoints of the training that is going on, by step."""
    folders = (field.store / "work" / "train").glob("*/checkpoints/*")
    return sorted((p for p in folders if p.name.isdigit()), key=lambda p: int(p.name))


def killed_at_early_stop(field: Field, times: int = 2) -> Case:
    """Kills the run when its trainer has stopped early and nothing is published, several times in a row."""
    field.take_out("train")
    verb = ("train", *VARIANTS["early stop"])
    codes = [dies_at(field, "tasks.work.train", "shutil.copytree", *verb) for _ in range(times)]
    return field.judge_training("early stop", set(codes) == {-signal.SIGKILL}, "kill -9 at an early stop")


def dies_at(field: Field, module: str, function: str, *arguments: str) -> int:
    """Runs `raft` in a process that kills itself where it would call a function for the first time; its exit code."""
    owner, _, name = function.rpartition(".")
    target = f"{module}.{owner}" if owner else module
    lines = [
        "import os, signal, sys",
        f"import {module}",
        f"{target}.{name} = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)",
        f"sys.argv = ['raft', *{list(arguments)!r}, '--no-prefect']",
        "from flows.cli.app import main",
        "main()",
    ]
    process = subprocess.run(
        [sys.executable, "-P", "-c", "\n".join(lines)],
        cwd=field.home,
        env=field.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        check=False,
    )
    return process.returncode


# ---- inputs, caches, results and the registry


def saved_during_ingest(field: Field, draw: random.Random) -> Case:
    """A document is saved with other words after it was hashed; then its old words come back."""
    field.take_out("ingest")
    document = draw.choice(sorted((field.domain / "docs").iterdir()))
    words = document.read_bytes()
    process = field.start("run", "--no-prefect")
    for _ in heard(process, "ingest …"):
        pass
    landed = process.poll() is None
    document.write_bytes(words.replace(b"river", b"mountain"))
    end_of(process)
    document.write_bytes(words)
    field.forget_others()  # a run that read the new words under a key of their own did right
    return field.judge("document saved during ingest", "ingest", landed, 0, field.halves())


def damaged_page(field: Field, draw: random.Random, stage: str, name: str) -> Case:
    """Overwrites a page in the middle of a cache database."""
    folder = Path(field.environment["RAFT_CACHE"]) if name == "code" else field.store / "cache"
    database = folder / f"{name}.sqlite"
    landed = database.exists()
    if landed:
        with contextlib.closing(sqlite3.connect(database)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        body = bytearray(database.read_bytes())
        page = 4096 * draw.randrange(len(body) // 4096)
        body[page : page + 4096] = draw.randbytes(4096)
        database.write_bytes(bytes(body))
    shutil.rmtree(field.store / "store" / stage, ignore_errors=True)
    return field.judge(f"damaged page of {name}.sqlite", stage, landed, 0, 0)


def fifo(field: Field, draw: random.Random, stage: str) -> Case:
    """A published file is replaced by a pipe that nobody writes into."""
    path = draw.choice(published(field, stage))
    path.unlink()
    os.mkfifo(path)
    code = end_of(field.start("run", "--no-prefect"))
    note = "" if code == 0 else f"the run ended with {code}"
    return field.judge("artefact replaced by a FIFO", stage, True, 0, field.halves(), note)


def killed_before(field: Field, function: str) -> Case:
    """Kills a night between two steps of its decision; the next night must end where an undisturbed one does."""
    shutil.rmtree(field.store / "registry", ignore_errors=True)
    for name in ("train", "gate"):
        field.take_out(name)
    code = dies_at(field, "tasks.adapters.registry", function, "retrain")
    note = night_note(field)
    shutil.rmtree(field.store / "registry", ignore_errors=True)
    kind = f"kill -9 of a night before {function.rpartition('.')[2]}"
    return field.judge(kind, "retrain", code == -signal.SIGKILL, 0, field.halves(), note)


def flip_bit(path: Path, draw: random.Random) -> None:
    """One bit of one file."""
    body = bytearray(path.read_bytes())
    if body:
        body[draw.randrange(len(body))] ^= 1 << draw.randrange(8)
    path.write_bytes(bytes(body) or b"x")

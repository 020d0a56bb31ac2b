"""Runs every benchmark with --quick: does it end well, print its keys, and reach its goals?

    python benchmarks/run_quick.py
    python benchmarks/run_quick.py --only scaling --only records_quality --json
    python benchmarks/run_quick.py --at-once 2      # what CI does: no goal of a quick form is one of wall time

What each script needs, prints and has to reach stands in the script itself (see goals.py). One that needs what this
machine lacks is left out, with the reason. The last line with --json is one object: script -> state, seconds, CPU
seconds, why. Exits 1 where a script failed.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from goals import Declaration, declaration, missed, missing

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Result:
    """What became of one script: `state` is ok, failed or skipped; times in seconds."""

    state: str
    why: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0


def scripts(folder: Path = HERE) -> dict[str, Path]:
    """The benchmarks of a folder by name: files that can be started, but for this one."""
    paths = (path for path in sorted(folder.glob("*.py")) if path.resolve() != Path(__file__).resolve())
    return {path.stem: path for path in paths if starts(path)}


def starts(path: Path) -> bool:
    """Whether a file has a `if __name__ == "__main__"`."""
    tests = (node.test for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.If))
    return any(isinstance(test, ast.Compare) and ast.unparse(test.left) == "__name__" for test in tests)


def lacks(needs: tuple[str, ...], data: Path) -> str:
    """Why a script cannot run here; "" where it can."""
    from raft_errors import RaftError
    from tasks.inputs.models import resolve

    for need in needs:
        if need == "data":
            if not data.is_dir():
                return "shared data not found: set RAFT_SHARED_DATA or place it at ../shared/data"
        elif "/" not in need:
            if importlib.util.find_spec(need) is None:
                return f"the Python package {need} is not installed"
        else:
            try:
                resolve(need)
            except RaftError as error:
                return error.what
    return ""


def run(path: Path, declared: Declaration, limit_seconds: float, stop: threading.Event | None = None) -> Result:
    """Runs a script with --quick --json and holds what it printed against its declaration; `stop` ends it early."""
    began = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as out:
        # a group of its own, so that what it started ends with it
        process = subprocess.Popen(
            [sys.executable, str(path), "--quick", "--json"],
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        in_time, cpu_seconds = end(process, began + limit_seconds, stop or threading.Event())
        out.seek(0)
        why = fault(process.returncode, out.read(), declared) if in_time else f"took more than {limit_seconds:.0f} s"
    return Result("failed" if why else "ok", why, round(time.monotonic() - began, 1), round(cpu_seconds, 1))


def end(process: subprocess.Popen, limit: float, stop: threading.Event) -> tuple[bool, float]:
    """Waits for the end of a process, and kills its group at `limit` (of the monotonic clock) or `stop`.

    Returns:
        whether it ended by itself, and the CPU seconds of it and what it started. They are the system's own account of
        this process, so that scripts side by side do not count each other's.
    """
    pid = 0
    while not pid and time.monotonic() < limit and not stop.is_set():
        time.sleep(0.05)
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
    in_time = pid != 0
    if not in_time:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return in_time, usage.ru_utime + usage.ru_stime


def run_again(
    script: Path, declared: Declaration, limit_seconds: float, tries: int, stop: threading.Event | None = None
) -> Result:
    """Like `run`, up to so many times while it fails: on a busy machine a ratio misses its goal for a moment."""
    result = run(script, declared, limit_seconds, stop)
    for _ in range(tries - 1):
        if result.state == "ok" or (stop and stop.is_set()):
            break
        first = result.why
        result = run(script, declared, limit_seconds, stop)
        result = replace(result, why="; ".join(filter(None, (result.why, f"before: {first}"))))
    return result


def run_all(
    chosen: Mapping[str, Path], data: Path, limit_seconds: float, tries: int, at_once: int
) -> Iterator[tuple[str, Result]]:
    """Each script's name and result as it ends, `at_once` side by side; who stops asking ends those that run."""
    stop = threading.Event()
    declared = {name: declaration(path) for name, path in chosen.items()}
    # asked before any starts, so that a model that several need is fetched once
    reasons = {name: lacks(each.needs, data) for name, each in declared.items()}

    def one(name: str) -> Result:
        if reasons[name]:
            return Result("skipped", reasons[name])
        return run_again(chosen[name], declared[name], limit_seconds, tries, stop)

    with ThreadPoolExecutor(at_once) as pool:
        runs = {pool.submit(one, name): name for name in chosen}
        try:
            for ended in as_completed(runs):
                yield runs[ended], ended.result()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def fault(code: int, out: str, declared: Declaration) -> str:
    """What is wrong with an exit code and an output; "" where nothing is."""
    lines = out.strip().splitlines() or [""]
    try:
        figures = json.loads(lines[-1])
    except ValueError:
        figures = None
    if code:
        reason = next((line for line in reversed(lines) if line.startswith("goals missed")), lines[-1])
        return f"exit code {code}: {reason[:300]}"
    if not isinstance(figures, dict):
        return "the last line is no JSON object"
    if not declared.keys:
        return "the script declares no KEYS"
    if absent := missing(figures, declared.keys):
        return f"missing in its JSON object: {', '.join(absent)}"
    return "; ".join(missed(figures, declared.goals))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = scripts()
    parser.add_argument("--only", action="append", choices=every, help="only this script; may be repeated")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds that one script may take (600)")
    parser.add_argument("--tries", type=int, default=1, help="how often a script may fail (1)")
    parser.add_argument("--at-once", type=int, default=1, help="how many scripts run side by side (1)")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object with the results")
    default_data = HERE.parents[1] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RAFT_SHARED_DATA", default_data)))
    args = parser.parse_args()
    os.environ["RAFT_SHARED_DATA"] = str(args.data)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin make a busy machine busier, as in `raft`
    chosen = {name: every[name] for name in args.only or every}
    results = {}
    for name, result in run_all(chosen, args.data, args.limit, args.tries, args.at_once):
        results[name] = result
        times = f"{result.seconds:6.1f} s {result.cpu_seconds:6.1f} s of CPU"
        print(f"{name:22} {result.state:8} {times}  {result.why}", flush=True)
    failed = [name for name, result in results.items() if result.state == "failed"]
    print(f"failed: {', '.join(failed) or 'none'}", flush=True)
    if args.json:
        print(json.dumps({name: asdict(result) for name, result in results.items()}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

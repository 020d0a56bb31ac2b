"""What a changed corpus costs, stage by stage up to training, against a full run.

    python benchmarks/retrain_cost.py --quick
    python benchmarks/retrain_cost.py --json > retrain_cost.json
    python benchmarks/retrain_cost.py --teacher-seconds 0.2 --case "3 %"

2,000 paragraphs of SQuAD stand as files in a folder; a teacher behind a loopback endpoint answers by rule and counts
its calls. After a full run, each case starts from a copy of its store: nothing changed; 1, 3 and 10 % of the documents
edited; 3 % deleted. `raft records --no-prefect` runs as a user runs it, in a process of its own. The last line with
--json is one object. Exits 1 where an unchanged corpus takes 10 s of CPU time or more, or 3 % more than 5 % of the full
run's teacher calls, embedded chunks or, but for --quick, where starting is most of the work, CPU time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml
from records_incremental import CountingTeacher

from data.nouns import digest

NEEDS = "data sentence-transformers/all-MiniLM-L6-v2"
KEYS = "documents full/teacher_calls full/embedded_chunks cases/*/teacher_calls cases/*/shares/cpu_seconds missed"
CASES = {"0 %": ("edit", 0.0), "1 %": ("edit", 0.01), "3 %": ("edit", 0.03), "10 %": ("edit", 0.1)}
CASES["3 % deleted"] = ("delete", 0.03)
QUICK = ("0 %", "3 %")
UNCHANGED_SECONDS, LIMIT = 10.0, 0.05


class Endpoint:
    """The counting teacher behind OpenAI's protocol."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.teacher, mutex = CountingTeacher(), threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with mutex:
                    endpoint.teacher.calls += 1
                time.sleep(seconds)
                reply = endpoint.teacher.reply(body["messages"][-1]["content"])
                choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": reply}}
                answer = {"id": "1", "object": "chat.completion", "created": 0, "model": "rule", "choices": [choice]}
                raw = json.dumps({**answer, "usage": {"prompt_tokens": 1, "completion_tokens": 1}}).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"


def main() -> int:
    default_data = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100 documents, and only the cases 0 %% and 3 %%")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object with the figures")
    parser.add_argument("--teacher-seconds", type=float, default=0.0, help="how long the teacher takes for a call")
    parser.add_argument("--case", choices=CASES, action="append", help="only this change; may be repeated")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RAFT_SHARED_DATA", default_data)))
    args = parser.parse_args()
    if not args.data.is_dir():
        parser.error("shared data not found: set RAFT_SHARED_DATA or place it at ../shared/data")
    lines = (args.data / "squad_v1_dev" / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    texts = {f"{number:04d}.txt": json.loads(line)["text"] for number, line in enumerate(lines)}
    texts = dict(list(texts.items())[: 100 if args.quick else 2000])
    endpoint = Endpoint(args.teacher_seconds)
    with tempfile.TemporaryDirectory(prefix="raft-cost-") as folder:
        home = Path(folder)
        write_config(home, endpoint.url)
        full = measure(home, texts, endpoint)
        print_row("full", full, full)
        shutil.copytree(home / ".raft", home / "after-full", symlinks=True)
        cases = {}
        for name in args.case or (QUICK if args.quick else CASES):
            kind, share = CASES[name]
            shutil.rmtree(home / ".raft")
            shutil.copytree(home / "after-full", home / ".raft", symlinks=True)
            cases[name] = measure(home, changed(texts, kind, share), endpoint)
            cases[name]["shares"] = shares(cases[name], full)
            print_row(name, cases[name], full)
    late = "0 %" in cases and cases["0 %"]["cpu_seconds"] >= UNCHANGED_SECONDS
    missed = ["0 % within 10 s of CPU time"] if late else []
    parts = ("teacher_calls", "embedded_chunks", *(() if args.quick else ("cpu_seconds",)))
    for part in parts if "3 %" in cases else ():
        if cases["3 %"]["shares"][part] > LIMIT:
            missed.append(f"3 %: {cases['3 %']['shares'][part]:.1%} of the full run's {part}, {LIMIT:.0%} is the goal")
    print(f"goals missed: {', '.join(missed) or 'none'}")
    if args.json:
        print(json.dumps({"documents": len(texts), "full": full, "cases": cases, "missed": missed}))
    return 1 if missed else 0


def write_config(home: Path, url: str) -> None:
    questions = {
        "teacher": "openai",
        "teacher_model": "rule",
        "teacher_url": url,
        "structured": False,
        "style": "full",
        "count": None,
    }
    values = {"corpus": ["docs"], "ingest": {"prune": True}, "questions": questions, "records": {"max_tokens": 1600}}
    (home / "raft.yaml").write_text(yaml.safe_dump(values))


def changed(texts: dict[str, str], kind: str, share: float) -> dict[str, str]:
    """A share of the documents, chosen by hash, edited at their end or deleted."""
    picked = set(sorted(texts, key=lambda name: digest("changed", name))[: round(share * len(texts))])
    if kind == "delete":
        return {name: text for name, text in texts.items() if name not in picked}
    added = " This paragraph was checked again last spring."
    return {name: text + added if name in picked else text for name, text in texts.items()}


def measure(home: Path, texts: dict[str, str], endpoint: Endpoint) -> dict[str, Any]:
    """Runs up to the records: wall time, the time of each stage that ran, teacher calls, embedded chunks."""
    docs = home / "docs"
    docs.mkdir(exist_ok=True)
    for path in docs.iterdir():
        if path.name not in texts:
            path.unlink()
    for name, text in texts.items():
        if not (docs / name).exists() or (docs / name).read_text() != text:
            (docs / name).write_text(text)
    before, began, used = endpoint.teacher.calls, time.perf_counter(), cpu_seconds()
    command = [sys.executable, "-P", "-m", "flows.cli", "records", "--no-prefect", "--json"]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stderr)
    told = json.loads(done.stdout.splitlines()[-1])
    ran = {row["stage"]: row for row in told["stages"] if row["stage"] in told["ran"]}
    return {
        "wall_seconds": round(wall, 1),
        "cpu_seconds": round(cpu_seconds() - used, 1),
        "stages": {name: round(row["seconds"], 1) for name, row in ran.items()},
        "stage_seconds": round(sum(row["seconds"] for row in ran.values()), 1),
        "teacher_calls": endpoint.teacher.calls - before,
        "embedded_chunks": ran["embed"]["metrics"]["computed"] if "embed" in ran else 0,
        "records": sum(told["stages"][-1]["metrics"][split] for split in ("train", "validation", "test")),
    }


def cpu_seconds() -> float:
    """Of the runs so far: what is left of a time when the machine is busy with other things."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def shares(case: dict[str, Any], full: dict[str, Any]) -> dict[str, float]:
    names = ("wall_seconds", "cpu_seconds", "stage_seconds", "teacher_calls", "embedded_chunks")
    return {name: round(case[name] / full[name], 4) for name in names}


def print_row(name: str, case: dict[str, Any], full: dict[str, Any]) -> None:
    stages = ", ".join(f"{stage} {seconds}" for stage, seconds in case["stages"].items()) or "none"
    print(
        f"{name}: {case['wall_seconds']} s ({case['wall_seconds'] / full['wall_seconds']:.1%}), "
        f"{case['cpu_seconds']} s of CPU ({case['cpu_seconds'] / full['cpu_seconds']:.1%}), "
        f"{case['teacher_calls']} teacher calls ({case['teacher_calls'] / full['teacher_calls']:.1%}), "
        f"{case['embedded_chunks']} chunks embedded ({case['embedded_chunks'] / full['embedded_chunks']:.1%}), "
        f"{case['records']} records; seconds by stage: {stages}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())

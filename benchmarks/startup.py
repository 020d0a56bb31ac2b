"""What commands cost before their own work: CPU seconds of `raft search`, `raft ask` and an unchanged `raft run`.

    python benchmarks/startup.py --quick
    python benchmarks/startup.py --json

2,000 paragraphs of SQuAD stand as files in a folder, with 40 of its questions; a run over them with the real embedder
and a random base of two layers makes a finished project. Then each command is started anew, `--rounds` times in turn,
as a user starts it: nothing of an earlier one is in memory, its files are in the page cache. The figure is the median
of user and system time of the process and its children. `ask` holds the time that a tiny model takes to answer, which
is next to nothing. `imported` lists what an unchanged run should not have needed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from harness import compile_quickly
from miniature import write_base

NEEDS = "data sentence-transformers/all-MiniLM-L6-v2"
KEYS = "search_cpu_s ask_cpu_s unchanged_cpu_s documents imported"
HEAVY = ("torch", "jax", "prefect", "transformers", "faiss")
QUESTION = "What is the name of the river that flows through the city?"
COMMANDS = {
    "search": ["search", QUESTION],
    "ask": ["ask", QUESTION, "--max-tokens", "8"],
    "unchanged": ["run"],
}


def main() -> int:
    default_data = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="24 documents, one round")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object with the figures")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RAFT_SHARED_DATA", default_data)))
    args = parser.parse_args()
    if not args.data.is_dir():
        parser.error("shared data not found: set RAFT_SHARED_DATA or place it at ../shared/data")
    count, rounds = (24, 1) if args.quick else (2000, args.rounds)
    with tempfile.TemporaryDirectory(prefix="raft-startup-") as folder:
        home = Path(folder)
        if args.quick:
            compile_quickly(home / "programs")
        write_project(home, args.data / "squad_v1_dev", count)
        raft(home, "run", "--no-prefect")
        seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
        for turn in range(rounds):
            for name, words in COMMANDS.items():
                used = cpu_seconds()
                raft(home, *words)
                seconds[name].append(cpu_seconds() - used)
                print(f"round {turn + 1}: {name:9s} {seconds[name][-1]:.2f} CPU s", flush=True)
        modules = imported(home, COMMANDS["unchanged"])
    figures = {
        **{f"{name}_cpu_s": round(statistics.median(each), 2) for name, each in seconds.items()},
        "documents": count,
        "imported": modules,
    }
    for name, value in figures.items():
        print(f"{name}: {value}")
    if args.json:
        print(json.dumps(figures))
    return 0


def write_project(home: Path, squad: Path, count: int) -> None:
    """raft.yaml, documents, questions and a base."""
    rows = [json.loads(line) for line in (squad / "corpus.jsonl").read_text(encoding="utf-8").splitlines()][:count]
    names = {row["id"]: f"{number:04d}.txt" for number, row in enumerate(rows)}
    (home / "docs").mkdir()
    for row in rows:
        (home / "docs" / names[row["id"]]).write_text(row["text"], encoding="utf-8")
    questions: dict[str, dict[str, str]] = {}  # by paragraph, so that they are of many documents
    for line in (squad / "questions.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        passage = row["gold_doc_ids"][0]
        if passage in names and passage not in questions:
            questions[passage] = {
                "question": row["question"],
                "answer": row["answers"][0],
                "document": names[passage],
            }
    step = max(1, len(questions) // 40)
    lines = [json.dumps(question) for question in list(questions.values())[::step]]
    (home / "questions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_base(home / "base")
    values = {
        "corpus": ["docs"],
        "questions": {"file": "questions.jsonl"},
        "models": {"base": "base"},
        "records": {"max_tokens": 8192},
        "train": {"rank": 2, "max_steps": 2, "sequence_length": 8192, "dtype": "float32", "rehearsal": 0},
        "export": {"gate_prompts": 2, "gate_tokens": 4},
        "evaluate": {"max_new_tokens": 8, "dtype": "float32", "samples": 200, "general": 2},
    }
    (home / "raft.yaml").write_text(yaml.safe_dump(values))


def raft(home: Path, *words: str) -> str:
    command = [sys.executable, "-P", "-m", "flows.cli", *words]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PREFECT_HOME": str(home / "prefect")}
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"raft {' '.join(words)}\n{done.stdout}{done.stderr}")
    return done.stdout


def imported(home: Path, words: list[str]) -> list[str]:
    """Which of the heavy libraries the command imports, as Python itself reports it."""
    command = [sys.executable, "-P", "-X", "importtime", "-m", "flows.cli", *words]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PREFECT_HOME": str(home / "prefect")}
    lines = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=True).stderr
    names = {line.rsplit("|", 1)[-1].strip() for line in lines.splitlines() if line.startswith("import time:")}
    return [name for name in HEAVY if name in names]


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())

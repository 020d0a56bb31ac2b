"""What a changed corpus of 2,000 files costs from the files to the index: unchanged, 1 %, 3 % and 10 % changed.

    python benchmarks/reingest_cost.py --quick
    python benchmarks/reingest_cost.py --json > reingest.json

Each step is one `raft` command in a process of its own, start and imports included. The last line with --json is one
object. Exits 1 where an unchanged `raft ingest` takes 3 s of CPU time or more, or a change embeds more chunks than it
touched.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from retrain_cost import cpu_seconds

WORDS = [
    f"{a}{b}" for a in ("mil", "bri", "tow", "har", "sal", "gra", "lam", "gat") for b in ("l", "ge", "er", "bor", "t")
]
NEEDS = "sentence-transformers/all-MiniLM-L6-v2"
KEYS = "files steps/*/seconds steps/*/cpu_seconds steps/*/stages steps/*/chunks_embedded failed"
CHANGES = (0.01, 0.03, 0.10)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100 files, of which 3 %% change")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object with the figures")
    parser.add_argument("--embedder", default="sentence-transformers/all-MiniLM-L6-v2", help="Hub id or folder")
    args = parser.parse_args()
    count, changes = (100, (0.03,)) if args.quick else (2000, CHANGES)
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        paths = write_corpus(home / "docs", count)
        values = {"corpus": ["docs"], "models": {"embedder": args.embedder}}
        (home / "raft.yaml").write_text(yaml.safe_dump(values))
        steps: dict[str, dict[str, Any]] = {}

        def step(name: str, *command: str, **more: Any) -> None:
            steps[name] = {**more, **measure(home, *command)}
            print(f"{name:24} {steps[name]}", flush=True)

        step("full", "index")
        step("unchanged, raft ingest", "ingest")
        step("unchanged, raft index", "index")
        for share in changes:
            touched = random.Random(share).sample(paths, round(share * count))
            for path in touched:
                path.write_text(path.read_text() + f"\n\nChecked again: {share:.0%}.\n")
            step(f"{share:.0%} changed", "index", files=len(touched))
        for path in paths[: count // 100]:
            path.unlink()
        step("1% vanished, pruned", "index", "--set", "ingest.prune=true", files=count // 100)
    full = steps["full"]["chunks_embedded"]
    failed = [
        f"{share:.0%}: {steps[f'{share:.0%} changed']['chunks_embedded']} of {full} chunks embedded"
        for share in changes
        if steps[f"{share:.0%} changed"]["chunks_embedded"] > 3 * share * full
    ]
    if steps["unchanged, raft ingest"]["cpu_seconds"] >= 3:
        failed.append("an unchanged corpus took 3 s of CPU time or more")
    print("failed:", "; ".join(failed) or "nothing")
    if args.json:
        print(json.dumps({"files": count, "steps": steps, "failed": failed}))
    return 1 if failed else 0


def write_corpus(folder: Path, count: int) -> list[Path]:
    """Files of a title and about 40 made-up words: one or two chunks each."""
    draw = random.Random(0)
    folder.mkdir()
    paths = []
    for number in range(count):
        sentences = [" ".join(draw.choices(WORDS, k=10)).capitalize() + f" {number}." for _ in range(4)]
        paths.append(folder / f"{number:05}.md")
        paths[-1].write_text(f"# Place {number}\n\n" + " ".join(sentences) + "\n")
    return paths


def measure(home: Path, verb: str, *more: str) -> dict[str, Any]:
    """Wall and CPU seconds of the command, seconds of each stage that ran, and how many chunks were embedded."""
    began, used = time.perf_counter(), cpu_seconds()
    command = [sys.executable, "-P", "-m", "flows.cli", verb, "--no-prefect", "--json", *more]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stderr)
    told = json.loads(done.stdout.splitlines()[-1])
    ran = {row["stage"]: row for row in told["stages"] if row["stage"] in told["ran"]}
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds() - used, 2),
        "stages": {name: row["seconds"] for name, row in ran.items()},
        "chunks_embedded": ran.get("embed", {}).get("metrics", {}).get("computed", 0),
    }


if __name__ == "__main__":
    sys.exit(main())

"""What comparisons with other programs share: options, questions of SQuAD, sides in processes of their own, ratios.

A script that compares names its sides and a function that runs one of them over a job (a JSON file). `measure` starts
the script anew for each side and turn, so that neither has what the other left in memory, and `child` is what the
script does then. The sides take turns, forwards and backwards, so that a machine that slows down slows both.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from goals import Goals, finish

Side = TypeVar("Side")
ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"
BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
PYTHONPATH = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])  # with what was added to it
COMMON = {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "PYTHONPATH": PYTHONPATH}
Run = Callable[[str, dict[str, Any]], dict[str, Any]]
"""A side's name and the job -> its figures."""


def options(description: str | None, quick: str, sides: Sequence[str]) -> argparse.ArgumentParser:
    """The options of a comparison; `quick` says what --quick does."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object with the figures")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RAFT_SHARED_DATA", SHARED_DATA)))
    parser.add_argument("--model", default=BASE, help="Hub id or folder")
    parser.add_argument("--child", choices=sides, help=argparse.SUPPRESS)
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    return parser


def require_data(parser: argparse.ArgumentParser, folder: Path) -> None:
    """Ends the program with a usage error where the shared data are not there."""
    if not folder.is_dir():
        parser.error("shared data not found: set RAFT_SHARED_DATA or place it at ../shared/data")


def squad_records(data: Path, count: int, seed: int, passages: int) -> list[dict[str, str]]:
    """Alpaca records of SQuAD: question, its paragraph and others of the same article in random order, short answer."""
    folder = data / "squad_v1_dev"
    corpus = [json.loads(line) for line in (folder / "corpus.jsonl").open(encoding="utf-8")]
    texts = {row["id"]: row for row in corpus}
    articles: dict[str, list[str]] = {}
    for row in corpus:
        articles.setdefault(row["title"], []).append(row["id"])
    questions = [json.loads(line) for line in (folder / "questions.jsonl").open(encoding="utf-8")]
    rng = random.Random(seed)
    records = []
    for question in rng.sample(questions, count):
        gold = question["gold_doc_ids"][0]
        others = [i for i in articles[texts[gold]["title"]] if i != gold]
        shown = [gold, *rng.sample(others, min(passages - 1, len(others)))]
        rng.shuffle(shown)
        context = "\n\n".join(f"[{n}] {texts[i]['title']}\n{texts[i]['text']}" for n, i in enumerate(shown, 1))
        answer = f"Passage [{shown.index(gold) + 1}] tells it.\n<ANSWER>: {question['answers'][0]}"
        records.append({"instruction": question["question"], "input": context, "output": answer})
    return records


def measure(script: str, side: str, job_file: Path, python: str = sys.executable, **environment: str) -> dict[str, Any]:
    """What `child` of a script printed for a side, in a process of its own, with these variables besides."""
    command = [python, script, "--child", side, "--job", str(job_file)]
    done = subprocess.run(
        command, env={**os.environ, **COMMON, **environment}, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def child(args: argparse.Namespace, run: Run) -> int:
    """Runs a side over its job and prints its result as the last line."""
    print(json.dumps(result(run, args.child, json.loads(args.job.read_text()))))
    return 0


def measure_here(run: Run, side: str, job: dict[str, Any]) -> dict[str, Any]:
    """A side within this process, for --quick: sooner done, and its figures compare nothing."""
    os.environ |= COMMON
    return result(run, side, job)


def compile_quickly(cache: Path) -> None:
    """For --quick: no native kernels, no optimised programs, and none compiled twice, here and in what is started.

    What a tiny model computes is soon done; compiling is what takes long. To be called before anything is computed.

    Args:
        cache: folder of compiled programs.
    """
    switches: dict[str, Any] = {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": str(cache),
        "jax_persistent_cache_min_compile_time_secs": 0,
    }
    os.environ |= {name.upper(): str(value) for name, value in switches.items()} | {"RAFT_NATIVE": "off"}
    if jax := sys.modules.get("jax"):  # which reads the variables as it is imported
        for name, value in switches.items():
            jax.config.update(name, value)


def result(run: Run, side: str, job: dict[str, Any]) -> dict[str, Any]:
    """What a side says of itself, and the peak of this process's memory in MiB."""
    figures = run(side, job)
    return {**figures, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def turns(sides: Sequence[Side], rounds: int) -> Iterator[tuple[int, Side]]:
    """(number of the round, side): A B, B A, A B, ..."""
    for number in range(rounds):
        for side in sides if number % 2 == 0 else sides[::-1]:
            yield number, side


def ratio(of: Sequence[float], over: Sequence[float]) -> dict[str, Any]:
    """Median over pairs of `of / over` with its 95 % bootstrap interval; None for an interval of one pair."""
    each = np.asarray(of, float) / np.asarray(over, float)
    draws = np.random.default_rng(0).choice(each, (2000, len(each)))
    low, high = np.percentile(np.median(draws, axis=1), (2.5, 97.5)).tolist()
    interval = [round(low, 3), round(high, 3)] if len(each) > 1 else None
    return {"ratio": round(statistics.median(each), 3), "interval": interval, "pairs": len(each)}


def conclude(figures: Mapping[str, Any], goals: Goals, as_json: bool) -> int:
    """Prints the figures, what was missed and, `as_json`, the JSON line; returns the exit code."""
    for name, value in figures.items():
        print(f"{name}: {value}")
    return finish(figures, goals, as_json)

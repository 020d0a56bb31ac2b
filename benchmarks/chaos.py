"""Kills, interrupts and damages a run in every way, runs it again, and compares every byte with an undisturbed run.

    python benchmarks/chaos.py --quick                     # a case of six kinds
    python benchmarks/chaos.py --few                       # 10 kills and one or two of every other kind
    python benchmarks/chaos.py --json > chaos.json

A domain in miniature (random two-layer model) is run once undisturbed. Each case then takes a stage's result (and its
item cache) out of the store, starts `raft` as a process of its own, disturbs it, looks for published halves and for
processes that outlive it, runs `raft` again to its end and compares all files of all stages. Cases: kill -9 of the run
and of its child processes at random moments of every stage and of a night (`raft retrain`), SIGTERM, a full disk (a
small tmpfs, where mounting is allowed), deleted and flipped artefacts, artefacts replaced by a FIFO, two runs at once,
a Prefect server killed under a run, which must end by itself, flipped checkpoints at several ranks, kills at an early
stop, a document saved while it is read, damaged pages in cache databases, and a night killed between registering,
promoting and settling. The last line with --json is one object. Exits 1 unless every case ends in the same bytes.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before this folder: serving.py has a package's name
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "flows"))

import tiny
from disturbances import cases as acts
from disturbances.field import STAGES, VARIANTS, Case, Field
from harness import compile_quickly

KEYS = "cases landed byte_identical halves orphans by_kind/* failed"
GOALS = {"halves": ("<=", 0), "orphans": ("<=", 0), "cases": (">=", 6)}


def plan(kills: int, others: bool, draw: random.Random, few: bool) -> list[Callable[[Field], Case | None]]:
    """All cases, with what they draw."""
    cases: list[Callable[[Field], Case | None]] = []
    targets = ("retrain", *STAGES)
    for number in range(kills):
        stage, own = targets[number % len(targets)], random.Random(draw.random())
        child = stage in ("train", "export") and number // len(targets) % 2 == 0
        verb = "retrain" if stage == "retrain" else "run"
        cases.append(partial(acts.kill, draw=own, stage=stage, number=signal.SIGKILL, verb=verb, child=child))
    if not others:
        return cases
    some = ("embed", "train") if few else ("ingest", "embed", "records", "train", "export", "evaluate")
    damaged = ("chunk", "train") if few else STAGES
    for act, stages in ((acts.terminate, some), (acts.flip, damaged), (acts.delete, damaged), (acts.fifo, damaged)):
        cases += [partial(act, draw=random.Random(draw.random()), stage=stage) for stage in stages]
    cases += [partial(acts.twice, stage=s) for s in (("train",) if few else ("embed", "train", "evaluate"))]
    cases += [partial(acts.full_disk, stage=s) for s in (("train",) if few else ("embed", "train", "export"))]
    cases += [partial(acts.server_killed, stage=s) for s in (("train",) if few else ("embed", "train"))]
    for number in range(len(VARIANTS) if few else 5 * len(VARIANTS)):
        variant, own = list(VARIANTS)[number % len(VARIANTS)], random.Random(draw.random())
        cases.append(partial(acts.state_flipped, draw=own, variant=variant))
    cases.append(acts.killed_at_early_stop)
    cases += [partial(acts.saved_during_ingest, draw=random.Random(draw.random())) for _ in range(1 if few else 5)]
    databases = {"files": "records", "code": "records", "ingest": "ingest", "embed": "embed", "evaluate": "evaluate"}
    for name, stage in databases.items():
        cases.append(partial(acts.damaged_page, draw=random.Random(draw.random()), stage=stage, name=name))
    cases += [partial(acts.killed_before, function=f"Registry.{step}") for step in ("promote", "settle")]
    return cases


def quick_plan(draw: random.Random) -> list[Callable[[Field], Case | None]]:
    """A case each of six kinds, on stages that are soon done again."""
    cases: list[Callable[..., Case | None]] = [
        partial(acts.kill, stage="train", number=signal.SIGKILL, child=True),
        partial(acts.flip, stage="chunk"),
        partial(acts.delete, stage="records"),
        partial(acts.fifo, stage="chunk"),
        acts.saved_during_ingest,
        partial(acts.damaged_page, stage="ingest", name="ingest"),
    ]
    return [partial(case, draw=random.Random(draw.random())) for case in cases]


def questions() -> Iterator[dict[str, str]]:
    """The same answer to each, which even a tiny model learns, so that a night promotes and tests its adapter."""
    for town in tiny.TOWNS:
        for question in ("What is {} known for?", "Who opens the gates of {}?", "How long is the walk around {}?"):
            yield {"question": question.format(town.title()), "answer": "the river", "document": f"{town}.md"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one case each of six kinds")
    parser.add_argument("--few", action="store_true", help="10 kills and one or two of every other kind")
    parser.add_argument("--kills", type=int, help="random kills; default 50, with --few 10")
    parser.add_argument("--only-kills", action="store_true", help="leave out the other kinds of disturbance")
    parser.add_argument("--only", action="append", help="only cases of this function of disturbances/cases.py")
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
        if args.quick:
            compile_quickly(Path(folder) / "programs")  # each case would compile the same ones
        field = Field(home, domain)
        if args.quick:
            field.learn(variants=(), night=False)
        else:
            field.learn()
        print(f"undisturbed: {len(field.truth)} files, seconds by stage: {field.seconds}", flush=True)
        kills = args.kills if args.kills is not None else 10 if args.few else 50
        for act in quick_plan(draw) if args.quick else plan(kills, not args.only_kills, draw, args.few):
            if args.only and getattr(act, "func", act).__name__ not in args.only:
                continue
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

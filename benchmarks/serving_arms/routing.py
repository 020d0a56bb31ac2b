"""Which domain `auto` sends questions to: three real domains, and questions of none of them.

Each domain's documents are cut by a hash of their id into those whose questions make the profile, those whose questions
set the threshold, and the rest, whose questions are asked here. Nothing was tuned on the rest.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data.nouns import Record, write_jsonl
from raft_errors import RaftError
from serving.domain import ServedVersion
from serving.routing import Route, Router
from tasks.inputs.model_catalog import DEFAULT_EMBEDDER
from tasks.inputs.models import resolve

DOMAINS = {"debian": "debian_faq", "pubmed": "pubmedqa", "squad": "squad_v1_dev"}
FOREIGN = {
    "hotpotqa": "hotpotqa/questions.jsonl",  # of Wikipedia, as SQuAD's are, about other articles
    "scifact": "scifact/questions_test.jsonl",  # biomedical claims: close to PubMedQA
    "covidqa": "covidqa_half/questions.jsonl",  # biomedical questions: closer still
    "torchhub": "apibench_torchhub/eval.jsonl",
}
SHARES = {"train": 0.6, "validation": 0.8, "test": 1.0}
"""Upper ends of each side."""


def routing(data: Path, place: Path, *, quick: bool) -> dict[str, Any]:
    """The figures: `routed_right` is the mean over domains of the share that goes to its own, `abstained_right` the
    mean over foreign sets of the share that goes to the base."""
    if reason := left_out(data):
        return {"left_out": reason}
    router = open_router()
    most = 12 if quick else 400
    versions, asked = {}, {}
    for name, where in DOMAINS.items():
        sides = split(rows(data / where / "questions.jsonl"))
        records = place / "routing" / name
        records.mkdir(parents=True)
        for side in ("train", "validation"):
            chosen = spread(sides[side], most)
            write_jsonl(records / f"{side}.jsonl", [Record("", "", "", {"question": q}) for q in chosen])
        versions[name] = ServedVersion(name, records, records)
        asked[name] = spread(sides["test"], most)
    began = time.perf_counter()
    for name, version in versions.items():
        router.profile(name, version)
    profile_seconds = time.perf_counter() - began
    domains = {name: destinations(router, questions, versions) for name, questions in asked.items()}
    foreign = {
        name: destinations(router, spread(texts(rows(data / file)), most), versions)
        for name, file in FOREIGN.items()
        if (data / file).exists()
    }
    right = {name: share(went, name) for name, went in domains.items()}
    abstained = {name: share(went, "base") for name, went in foreign.items()}
    profiles = {name: router.profile(name, version) for name, version in versions.items()}
    return {
        "routed": {name: dict(went.most_common()) for name, went in domains.items()},
        "foreign": {name: dict(went.most_common()) for name, went in foreign.items()},
        "right": {name: round(value, 4) for name, value in right.items()},
        "abstained": {name: round(value, 4) for name, value in abstained.items()},
        "thresholds": {name: round(one.threshold, 3) for name, one in profiles.items() if one},
        "questions": {
            name: [len(one.examples), one.held_out, len(asked[name])] for name, one in profiles.items() if one
        },
        "profile_seconds": round(profile_seconds, 1),
        "figures": {
            "routed_right": round(sum(right.values()) / len(right), 4),
            "abstained_right": round(sum(abstained.values()) / len(abstained), 4) if abstained else None,
        },
    }


def left_out(data: Path) -> str:
    """Why questions cannot be routed here; "" where they can."""
    missing = [name for name in DOMAINS.values() if not (data / name).is_dir()]
    if missing:
        return f"shared data not found: {', '.join(missing)}: set RAFT_SHARED_DATA or --data"
    try:
        resolve(DEFAULT_EMBEDDER)
    except RaftError as error:
        return error.what
    return ""


def open_router() -> Router:
    """A router as the server has it."""
    from retrieval.embedding.embedder import Embedder

    return Router(Embedder.load(resolve(DEFAULT_EMBEDDER).folder, precision="float32", interactive=True))


def destinations(router: Router, questions: Iterable[str], versions: Mapping[str, ServedVersion]) -> Counter[str]:
    """How many questions go where."""
    return Counter(goal(router.routes(question, versions)) for question in questions)


def goal(routes: list[Route]) -> str:
    """Where `auto` sends a question with these routes."""
    return routes[0].name if routes and routes[0].fits else "base"


def share(went: Counter[str], name: str) -> float:
    return went[name] / went.total()


def rows(file: Path) -> list[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def texts(questions: Iterable[Mapping[str, Any]]) -> list[str]:
    """Their words, each once."""
    return list(dict.fromkeys(str(row["question"]).strip() for row in questions))


def split(questions: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Questions by side, which their document decides; words that stand on two sides stay on the first."""
    sides: dict[str, list[Mapping[str, Any]]] = {side: [] for side in SHARES}
    for row in questions:
        number = int(hashlib.sha256(str(row["gold_doc_ids"][0]).encode()).hexdigest()[:8], 16) / 16**8
        sides[next(side for side, end in SHARES.items() if number < end)].append(row)
    seen: set[str] = set()
    out = {}
    for side, mine in sides.items():
        out[side] = [text for text in texts(mine) if text not in seen]
        seen.update(out[side])
    return out


def spread(items: list[str], most: int) -> list[str]:
    """At most so many, evenly spread."""
    step = max(len(items) / most, 1)
    return [items[int(number * step)] for number in range(min(len(items), most))]

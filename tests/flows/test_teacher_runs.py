"""`raft questions` over an endpoint: the budget stops it, kill -9 stops it, and the next run pays for nothing again."""

import json
import os
import re
import signal
import sqlite3
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))
from faulty_endpoint import Endpoint
from tiny import TOWNS

pytestmark = pytest.mark.slow

REPLIES = "SELECT count(*) FROM items WHERE hex(substr(value, 9, 1)) = '00'"
ASKED = {
    "known for": ("What is the town of {} known for?", r"is known for ([^.]*)"),
    "gates": ("Who opens the gates of {} every morning?", r"the gates are opened every morning ([^.]*)"),
    "hours": ("How many hours does a walk around the walls of {} take?", r"takes (\w+ hours)"),
}


def written(text: str) -> str:
    """Question and answer about one of the towns, as a capable teacher would write them."""
    town = next(name.title() for name in TOWNS if name.title() in text)
    asked, pattern = next(ASKED[word] for word in ASKED if word in text.split("\nQuestion: ")[-1])
    if "\nQuestion: " not in text:
        return asked.format(town)
    match = re.search(pattern, text)
    return f"<quote>{match.group()}</quote>\nSo it is said there.\nAnswer: {match.group(1)}"


@pytest.fixture
def endpoint():
    endpoint = Endpoint(written)
    yield endpoint
    endpoint.close()


@pytest.fixture
def asking(project, endpoint):
    project.values["questions"] = {
        "teacher": "openai",
        "teacher_url": endpoint.url,
        "teacher_model": "tiny",
        "teacher_concurrency": 2,
        "round_trip_k": 0,  # the embedder is a random one
        "max_likeness": 1.0,
    }
    project.write()
    return project


def kept(project, *arguments: str) -> tuple[dict, bytes]:
    rows = {row["stage"]: row for row in project.json("questions", "--no-prefect", *arguments)["stages"]}
    return rows["questions"], (Path(rows["questions"]["folder"]) / "questions.jsonl").read_bytes()


def test_a_budget_stops_cleanly_and_the_next_run_goes_on(asking, endpoint):
    account = ["--set", "questions.price_prompt=100", "--set", "questions.price_completion=100"]
    poor = asking.raft("questions", "--no-prefect", *account, "--set", "questions.budget=0.2", check=False)
    assert poor.returncode == 1
    assert "budget" in poor.stderr
    assert "not paid again" in poor.stderr
    paid = endpoint.answered.total()
    assert paid > 0
    row, _ = kept(asking, *account)
    assert set(endpoint.answered.values()) == {1}
    now = endpoint.answered.total() - paid
    assert row["metrics"]["teacher"]["replies"] == now
    assert row["metrics"]["teacher"]["cost"] == pytest.approx(now * 15 * 100 / 1e6)
    assert row["metrics"]["tokens"] == {"prompt": 10 * (paid + now), "completion": 5 * (paid + now)}
    assert f"{now} requests now" in row["summary"]


def test_after_kill_9_in_the_middle_nothing_is_paid_twice_and_the_result_is_the_same(asking, endpoint, tmp_path):
    _, undisturbed = kept(asking, "--set", f"store={tmp_path / 'other'}")
    prompts = endpoint.answered.total()
    assert len(undisturbed.splitlines()) >= 6
    endpoint.answered.clear()
    endpoint.hold_after = 5
    asking.raft("index", "--no-prefect")  # here, where the libraries are loaded already
    process = asking.start("questions", "--no-prefect")
    wait_for_replies(tmp_path / ".raft" / "cache" / "questions.sqlite", 5, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    endpoint.hold_after = None
    _, after = kept(asking)
    assert after == undisturbed
    assert set(endpoint.answered.values()) == {1}
    assert endpoint.answered.total() == prompts
    assert json.loads(after.splitlines()[0])["origin"] == "teacher:tiny"


def wait_for_replies(file: Path, count: int, process) -> None:
    """Replies begin with a zero byte behind the checksum of eight; the cache holds other rows as well."""
    while True:
        assert process.poll() is None, process.stderr.read()
        if file.exists():
            with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as db:
                try:
                    if db.execute(REPLIES).fetchone()[0] >= count:
                        return
                except sqlite3.OperationalError:
                    pass
        time.sleep(0.05)

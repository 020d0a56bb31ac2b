"""`raft questions --preview` and `--dropped`: what people see before they pay, and when nothing was kept."""

import json
import re
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "data"))
from faulty_endpoint import Endpoint, completion, refusal
from tiny import TOWNS

pytestmark = pytest.mark.slow


def written(text: str) -> str:
    """Question and answer about what a town is known for."""
    town = next((name for name in TOWNS if name.title() in text), "")
    if not town:
        return "ready"
    if "\nQuestion: " not in text:
        return f"What is the town of {town.title()} known for?"
    found = re.search(r"The town of \w+ is known for ([^.]*?) that stands", text)
    return json.dumps(
        {"answerable": True, "quotes": [found.group()], "reasoning": "So it says.", "answer": found.group(1)}
    )


@pytest.fixture
def endpoint():
    endpoint = Endpoint(written)
    yield endpoint
    endpoint.close()


@pytest.fixture
def asking(project, endpoint):
    project.values["chunk"] = {"max_tokens": 400}
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


def test_a_preview_asks_five_shows_them_and_tells_what_the_rest_will_need(asking, endpoint):
    prices = ["--set", "questions.price_prompt=100", "--set", "questions.price_completion=200"]
    shown = asking.raft("questions", "--preview", "5", *prices).stdout
    assert endpoint.answered.total() == 10
    assert "[user] Title: " in shown
    assert "[question: reply] What is the town of" in shown
    assert shown.count("→ kept: What is the town of") == 5
    assert "8 questions are planned; answered already, which costs nothing more: 5." in shown
    assert re.search(r"calls +6 \(\d+ to 6\)", shown)
    assert re.search(r"price +0\.012 \(0\.00\d+ to 0\.012\)", shown)  # 6 calls of 10 tokens read and 5 written
    assert re.search(r"time +\S+ s \(\S+ s to \S+ s\)", shown)
    told = asking.json("questions", "--preview", "5", *prices)
    assert endpoint.answered.total() == 10, "a second look asks for nothing"
    assert told["spent"]["requests"] == 0
    assert (told["planned"], told["answered"], len(told["questions"])) == (8, 5, 5)
    assert told["estimate"]["cost"]["low"] <= 6 * 0.002 <= told["estimate"]["cost"]["high"]
    assert not list((asking.folder / ".raft" / "store").glob("questions/[!.]*")), "nothing was built of it"
    row = next(r for r in asking.json("questions", "--no-prefect", *prices)["stages"] if r["stage"] == "questions")
    assert set(endpoint.answered.values()) == {1}
    assert row["metrics"]["replies"] == {"asked": 6, "cached": 10, "failed": 0}


def test_what_was_dropped_can_be_looked_at_even_when_nothing_was_kept(asking, endpoint):
    endpoint.script = lambda body: (
        (403, refusal("Alder was flagged by moderation"))
        if "Alder" in body["messages"][-1]["content"]
        else (200, completion("I have no question about that, sorry."))
    )
    refused = asking.raft("questions", "--no-prefect", check=False)
    assert refused.returncode == 2
    assert "None of 8 questions survived the checks (7 not a question, 1 content filter; the first: " in refused.stderr
    assert "raft questions --dropped" in refused.stderr
    requests = len(endpoint.bodies)
    shown = asking.raft("questions", "--dropped").stdout
    assert shown.count("[question: reply] I have no question about that, sorry.") == 7
    assert "content_filter: HTTP 403: Alder was flagged by moderation" in shown
    assert "0 kept, 8 dropped." in shown
    told = asking.json("questions", "--dropped")
    assert told["reasons"] == {"not_a_question": 7, "content_filter": 1}
    assert {row["source"].rpartition("/")[2] for row in told["dropped"]} == {f"{town}.md" for town in TOWNS}
    assert len(endpoint.bodies) == requests, "looking asks for nothing"


def test_a_stopped_run_says_how_far_it_came(asking, endpoint):
    def answer(body):
        paid = sum("<passage>" in asked["messages"][-1]["content"] for asked in endpoint.bodies)
        return (402, refusal("no credit left")) if paid > 3 else (200, completion("I would rather not say."))

    endpoint.script = answer
    stopped = asking.raft("questions", "--no-prefect", "--set", "questions.teacher_concurrency=1", check=False)
    assert stopped.returncode == 1
    assert "no credit left" in stopped.stderr
    assert "0 kept, 3 dropped, 5 not asked yet." in asking.raft("questions", "--dropped").stdout


def test_rows_of_a_file_are_listed_with_their_reason(project):
    rows = [{"question": "What is the town of Alder known for?", "answer": "a stone mill", "document": "alder.md"}]
    rows += [{"question": "Who rules the town of Nowhere?", "answer": "nobody at all", "document": "nowhere.md"}]
    rows += rows[:1]
    file = project.folder / "own.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    project.values["questions"] = {"file": str(file)}
    project.write()
    early = project.raft("questions", "--dropped", check=False)
    assert (early.returncode, "No question was asked" in early.stderr) == (2, True)
    told = project.raft("questions", "--no-prefect").stderr
    assert "2 asked = 1 kept + 1 dropped (1 unknown document); 1 row merged into the one that asks the same" in told
    shown = project.raft("questions", "--dropped").stdout
    assert "Who rules the town of Nowhere?" in shown
    assert "→ dropped: unknown document" in shown
    assert "1 kept, 1 dropped." in shown
    refused = project.raft("questions", "--preview", "5", check=False)
    assert (refused.returncode, "come from a file" in refused.stderr) == (2, True)

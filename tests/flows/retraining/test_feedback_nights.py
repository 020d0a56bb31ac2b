"""Feedback through whole nights: what nobody accepted trains nothing, what somebody accepted does with the next one."""

import json

import pytest
from kept_json import checked

from tasks.adapters.feedback import FeedbackLog, Shown

pytestmark = pytest.mark.slow


def night(project) -> dict:
    process = project.raft("retrain", "--no-prefect", "--json", check=False)
    assert process.returncode in (0, 3), process.stderr
    return checked(["retrain"], json.loads(process.stdout.splitlines()[-1]))


def records(project, decision) -> dict[str, list[dict]]:
    """The records of a night by split."""
    folder = project.folder / ".raft" / "store" / "records" / decision["stages"]["records"]["key"]
    return {
        split: [json.loads(line) for line in (folder / f"{split}.jsonl").read_text().splitlines()]
        for split in ("train", "validation", "test")
    }


def asked(rows) -> set[str]:
    return {row["metadata"]["question_id"] for row in rows}


def feedback_in(rows) -> list[dict]:
    return [row for row in rows if row["metadata"]["origin"] == "feedback"]


def test_accepted_feedback_trains_with_the_next_night_and_nothing_else_of_it_does(warm):
    log = FeedbackLog(warm.folder / ".raft", "adapter")
    texts = {p.stem: p.read_text() for p in (warm.domain / "docs").iterdir()}

    def say(town, answer, verdict="up", **more):
        passage = Shown(chunk_id="?", source=f"{town}.md", text=texts[town])
        question = f"In which year was the pride of {town.title()} built?"
        return log.add("adapter@1", question, answer, verdict, passages=[passage], **more).id

    first = night(warm)
    before = records(warm, first)
    years = {"alder": "1702", "birch": "1874", "cedar": "1611", "dogwood": "1790", "elm": "1533", "fir": "1901"}
    years |= {"gorse": "1488", "hazel": "1655"}
    said = {town: say(town, "1999", "down", correction=year) for town, year in years.items()}
    wrong = say("alder", "1999")
    assert night(warm)["action"] == "nothing"  # said and not accepted: the night has nothing to do

    log.decide(wrong, "reject")
    assert night(warm)["action"] == "nothing"

    for town, id in said.items():
        if town != "birch":  # of which nobody has said anything yet
            log.decide(id, "accept")
    second = night(warm)
    assert second["action"] == "retrain"
    assert "questions" in second["reason"]
    after = records(warm, second)
    assert asked(after["test"]) == asked(before["test"])
    assert asked(after["validation"]) == asked(before["validation"])
    assert feedback_in(after["validation"] + after["test"]) == []
    trained = feedback_in(after["train"])
    answers = {row["metadata"]["answers"][0] for row in trained}
    assert answers
    assert answers < set(years.values()) - {years["birch"]}  # those about held-out documents are not among them
    assert "1999" not in json.dumps(after)
    held = {
        row["metadata"]["oracle_ids"][0]
        for split in ("validation", "test")
        for row in before[split]
        if row["metadata"]["oracle_ids"]
    }
    assert not held & {id for row in trained for id in row["metadata"]["oracle_ids"]}
    assert night(warm)["action"] == "nothing"

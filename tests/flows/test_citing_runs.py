"""A run that promises something of its citations: calibrated before the export, kept in the contract, held."""

import json
from pathlib import Path

import pytest
from raft_project import SMALL

from data.prompting.contract import CitedQuote, render_output, template_from_contract
from data.records.figures import passage_texts
from tasks.runtime import exam
from tasks.runtime.answers import Answer

pytestmark = pytest.mark.slow
QUESTION = "Who opens the gates of Elm every morning?"


@pytest.fixture
def citing(project, monkeypatch):
    """A project with a level that one document is enough for, and an adapter that quotes its first passage."""

    def answer(who, records, *_, **__):
        contract = json.loads(next(Path(project.folder).glob(".raft/store/records/*/contract.json")).read_text())
        template = template_from_contract(contract)
        texts = [passage_texts(record)[0][1] for record in records]
        quotes = [[CitedQuote(1, text.split("\n")[0])] for text in texts]
        return [Answer(render_output("a mill", quote, template=template), "stop") for quote in quotes]

    monkeypatch.setattr(exam, "answer", answer)
    project.values["ask"] = {"citation_error": 0.75, "quote_weight": 2.0}
    project.values["records"] = {**SMALL["records"], "validation": 0.25}
    project.write()
    return project


def rows(reply):
    return {row["stage"]: row for row in reply["stages"]}


@pytest.mark.wide
def test_the_threshold_is_calibrated_kept_in_the_contract_and_held_when_asked(citing):
    reply = rows(citing.json("run", "--no-prefect"))
    assert [*reply][-4:] == ["train", "calibrate", "export", "evaluate"]
    chosen = json.loads((Path(reply["calibrate"]["folder"]) / "citing.json").read_text())
    assert chosen["expected_error"] <= chosen["level"] == 0.75
    assert chosen["documents"] >= 1
    contract = json.loads((Path(reply["export"]["folder"]) / "adapter" / "raft.json").read_text())
    assert contract["prompt"]["citing"] == chosen
    assert contract["prompt"]["quote_weight"] == 2.0
    assert "calibrate" in contract["lineage"]
    report = Path(reply["evaluate"]["folder"])
    measured = json.loads((report / "metrics.json").read_text())["citing"]["measured"]
    assert measured["questions"] > 0
    for name in ("report.html", "summary.md"):
        assert "of the answers given at most 75% are to cite wrongly" in (report / name).read_text().lower()
    asked = citing.json("ask", QUESTION, "--max-tokens", "8")  # the random model quotes nothing
    assert asked["withheld"] is True
    assert asked["refused"] is True
    assert asked["citing"] == chosen
    out = citing.raft("ask", QUESTION, "--max-tokens", "8", "--compare").stdout
    assert "at most 75% are to cite wrongly" in out
    assert out.count("Withheld:") == 1, "nothing is promised of the base"
    assert citing.json("run", "--no-prefect")["ran"] == []
    planned = {row["stage"]: row["state"] for row in citing.json("plan", "--set", "ask.citation_error=0.8")["stages"]}
    assert (planned["train"], planned["calibrate"], planned["export"]) == ("cached", "run", "maybe")
    planned = {row["stage"]: row for row in citing.json("plan", "--set", "ask.quote_weight=1")["stages"]}
    assert [planned[name]["state"] for name in ("train", "calibrate", "export", "evaluate")] == [
        *("cached", "run", "run", "maybe")
    ]
    assert "quote_weight: 2.0 → 1.0" in planned["export"]["why"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["records.validation=0"], "calibrated on validation questions"),
        (["ask.citation_error=null"], "promises nothing of citations"),
        (["ask.citation_error=1"], "ask.citation_error is 1"),
    ],
)
def test_what_cannot_be_promised_is_bad_input(citing, settings, words):
    more = [part for setting in settings for part in ("--set", setting)]
    reply = citing.json("calibrate", "--no-prefect", *more, check=False)
    assert reply["exit_code"] == 2
    assert words in reply["error"]

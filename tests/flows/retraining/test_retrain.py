"""Three generations of an adapter, night by night: one promoted, one held, one rolled back, each with its reason."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from kept_json import checked
from raft_project import Project

pytestmark = pytest.mark.slow


@pytest.fixture
def town(tmp_path, domain) -> Project:
    """A corpus of its own, and questions that even a tiny model learns: the same answer to each of them."""
    project = Project(tmp_path, domain)
    shutil.copytree(domain / "docs", tmp_path / "docs")
    rows = [
        {"question": question.format(name.title()), "answer": "the river", "document": f"{name}.md"}
        for name in tiny.TOWNS
        for question in ("What is {} known for?", "Who opens the gates of {}?", "How long is the walk around {}?")
    ]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = project.values
    values |= {"name": "town", "corpus": [str(tmp_path / "docs")]}
    values["questions"] = {"file": str(tmp_path / "questions.jsonl")}
    values["records"] |= {"p_oracle": 0.0, "absent": "answer", "test": 0.4}
    values["train"] |= {"rank": 8, "alpha": 16.0, "epochs": 20, "learning_rate": 0.02}
    values["train"].pop("max_steps")
    values["evaluate"] |= {"max_new_tokens": 16, "general": 0}
    values["gate"] = {"least_questions": 4}
    values["retrain"] = {"min_change": 0.1}
    project.write()
    return project


def night(project, *arguments):
    """What `raft retrain` decided, and its exit code."""
    process = project.raft("retrain", "--no-prefect", "--json", *arguments, check=False)
    return checked(["retrain"], json.loads(process.stdout.splitlines()[-1])) | {"code": process.returncode}


def killed_night(project) -> int:
    """The exit code of a night in a process of its own that is killed between registering and promoting."""
    program = """
import os, signal, sys
from tasks.adapters.registry import Registry
Registry.promote = lambda *given, **named: os.kill(os.getpid(), signal.SIGKILL)
from flows.cli.app import invoke
invoke(sys.argv[1:])
"""
    command = [sys.executable, "-c", program, "retrain", "--no-prefect"]
    return subprocess.run(command, cwd=project.folder, env=project.environment, check=False).returncode


def in_use(project) -> dict:
    (adapter,) = project.json("adapters")["adapters"]
    return adapter


def weights(project) -> bytes:
    return (Path(in_use(project)["pointer"]) / "adapter" / "adapter_model.safetensors").read_bytes()


def edit(project, name, old, new):
    path = project.folder / "docs" / f"{name}.md"
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.heavy  # a minute; all but the warm start has shorter tests of its own
def test_three_generations(town):
    town.raft("records", "--no-prefect")  # here, where the libraries are loaded already
    assert killed_night(town) == -signal.SIGKILL
    dead = in_use(town)
    assert ([v["state"] for v in dead["versions"]], dead["promoted"], dead["nights"]) == (["candidate"], None, [])
    first = night(town)  # has nothing left to train
    assert (first["code"], first["action"], first["result"], first["version"]) == (0, "retrain", "promoted", 1)
    assert "no earlier training" in first["reason"]
    assert "1.000 against 0.000 of the base model" in first["why"]
    assert "smoke test" in first["why"]
    good = weights(town)

    again = night(town)
    assert (again["code"], again["action"]) == (0, "nothing")
    assert "corpus and settings are those of" in again["reason"]

    edit(town, "elm", "1533", "1534")
    small = night(town)
    assert (small["code"], small["action"], small["result"]) == (0, "refresh", "refreshed")
    assert "1 edited" in small["reason"]
    assert {"index", "records"} <= small["stages"].keys()
    assert "train" not in small["stages"]

    for name in ("alder", "birch", "cedar"):
        edit(town, name, "in good weather", "in any weather, as everybody in the valley knows")
    town.values["train"]["max_steps"] = 1  # the planted regression: hardly trained, and not from version 1
    town.values["retrain"]["start"] = "base"
    town.write()
    held = night(town)
    assert (held["code"], held["result"], held["version"]) == (3, "held", 2)
    assert "settings were changed: train" in held["reason"]
    assert "0.000 against 1.000 of the promoted version" in held["why"]
    assert weights(town) == good

    del town.values["train"]["max_steps"]
    town.values["retrain"] |= {"start": "promoted", "smoke_command": "sh -c 'echo no $RAFT_VERSION >&2; exit 9'"}
    town.write()
    back = night(town)
    assert (back["code"], back["result"], back["version"], back["start"]) == (4, "rolled back", 3, 1)
    assert "continuing from version 1" in back["start_reason"]
    assert "repeated" in back["start_reason"]
    assert back["why"] == "smoke test: the smoke command ended with 9: no 3"
    adapter = in_use(town)
    assert (adapter["promoted"], adapter["on_trial"]) == (1, False)
    assert [v["state"] for v in adapter["versions"]] == ["promoted", "candidate", "retired"]
    assert [v["started_from"] for v in adapter["versions"]] == [None, None, 1]
    assert weights(town) == good
    assert [n["result"] for n in adapter["nights"]] == [
        "promoted",
        "nothing",
        "refreshed",
        "held",
        "rolled back",
    ]

    decision = Path(town.folder / ".raft/store/gate").glob("*/decision.json")
    verdicts = {json.loads(path.read_text())["verdict"] for path in decision}
    assert verdicts == {"promote", "hold"}

    del town.values["retrain"]["smoke_command"]
    town.write()
    mended = night(town, "--force")
    assert (mended["code"], mended["result"], mended["version"]) == (0, "promoted", 3)
    assert [v["state"] for v in in_use(town)["versions"]] == ["retired", "retired", "promoted"]
    asked = town.json("ask", "What is Birch known for?", "--max-tokens", "16")
    assert asked["answer"] == "the river", "the adapter in use answers, though no plain run has trained it"
    assert town.json("rollback", "--reason", "complaints")["promoted"] == 1
    assert weights(town) == good
    assert town.json("promote", "3", "--reason", "they were wrong")["promoted"] == 3
    reasons = [e["reason"] for e in in_use(town)["history"]]
    assert reasons[-2:] == ["complaints", "they were wrong"]


def test_the_first_night_compares_with_a_version_that_was_promoted_by_hand(warm):
    warm.values["name"] = "by-hand"
    warm.write()
    assert warm.json("promote", "--reason", "raft run made it")["promoted"] == 1
    process = warm.raft("retrain", "--no-prefect", "--json")
    first = checked(["retrain"], json.loads(process.stdout.splitlines()[-1]))
    assert (first["action"], first["stages"].keys() >= {"records"}) == ("nothing", True)
    assert "documents unchanged" in first["reason"]
    assert first["reason"] not in process.stderr, "it is said once, as the result"

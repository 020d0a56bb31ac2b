"""After an upgrade: `--keep train` takes the finished adapter as it is, and plan, run, explain and report say so."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tasks.build.keys import key_of
from tasks.store.manifest import MANIFEST

pytestmark = pytest.mark.slow


@pytest.fixture
def upgraded(project, finished):
    """A finished run whose training was made by other code, on another processor, and took an hour."""
    shutil.copytree(finished[0].folder / ".raft" / "store", project.folder / ".raft" / "store")
    (folder,) = (project.folder / ".raft" / "store" / "train").glob("[!.]*")
    row = json.loads((folder / MANIFEST).read_text())
    row["ingredients"]["code"]["jora_engine.training.job"] = "0" * 64
    row["machine"] |= {"cpu": "Other 9000", "cpu_features": ["avx1024"]}
    row["key"], row["seconds"] = key_of(row["ingredients"]), 3600.0
    (folder / MANIFEST).write_text(json.dumps({**row, "checksum": ""}))
    folder.rename(folder.with_name(row["key"]))
    for manifest in (project.folder / ".raft" / "store").glob(f"*/*/{MANIFEST}"):  # whose links follow it
        text = manifest.read_text().replace(folder.name, row["key"])
        manifest.write_text(json.dumps({**json.loads(text), "checksum": ""}))
    return project


def plan(project, *arguments) -> dict[str, dict]:
    return {row["stage"]: row for row in project.json("plan", *arguments)["stages"]}


def trainings(project) -> list[str]:
    return sorted(p.name for p in (project.folder / ".raft" / "store" / "train").glob("[!.]*"))


def test_a_training_of_other_code_is_kept_and_everything_that_tells_of_it_says_so(upgraded, with_database):
    with_database(Path(os.environ["PREFECT_HOME"]))
    (old,) = trainings(upgraded)
    before = plan(upgraded)
    assert before["train"]["state"] == "run"
    assert "code of jora_engine.training.job" in before["train"]["why"]
    assert "--keep train would keep the result of 20" in before["train"]["why"]
    assert "only if train" in before["export"]["why"]

    would = plan(upgraded, "--keep", "train")
    assert would["train"]["state"] == "kept"
    assert "made by other code: code of jora_engine.training.job" in would["train"]["why"]
    assert would["export"]["state"] == "cached"
    assert not (upgraded.folder / ".raft" / "kept").exists(), "a plan changes nothing"

    again = ("--set", "evaluate.samples=150")
    done = upgraded.json("run", "--no-prefect", "--keep", "train", *again)
    states = {row["stage"]: row["state"] for row in done["stages"]}
    assert (states["train"], states["export"], states["evaluate"]) == ("kept", "cached", "built")
    assert trainings(upgraded) == [old]
    assert "kept: made by other code" in Path(done["report"]).read_text()

    steps = upgraded.json("explain")["steps"]
    (train,) = [step for step in steps if step["stage"] == "train"]
    assert (train["key"], train["kept"]) == (old, True)
    assert train["differs"] == ["code of jora_engine.training.job"]
    assert [step["stage"] for step in steps if step["differs"]] == ["train"]
    words = upgraded.raft("explain").stdout
    assert "kept: made by other code: code of jora_engine.training.job" in " ".join(words.replace("│", "").split())
    assert "made on another processor (Other 9000)" in " ".join(words.replace("│", "").split())
    assert "holds" in upgraded.raft("explain", "--verify").stdout

    again = ("--set", "evaluate.samples=160")
    later = upgraded.json("run", *again)  # with Prefect, and without --keep
    assert {row["stage"]: row["state"] for row in later["stages"]}["train"] == "kept"
    assert later["ran"] == ["evaluate"]
    assert upgraded.json("run", *again)["ran"] == []
    assert plan(upgraded, *again)["train"]["why"].startswith("made on another processor (Other 9000): the result of 20")

    refused = upgraded.raft("run", "--no-prefect", "--keep", "train", "--set", "train.rank=2", check=False)
    assert refused.returncode == 2
    assert "train.rank: 4 → 2" in " ".join(refused.stderr.split())
    refused = upgraded.raft("run", "--no-prefect", "--keep", "train", "--set", "records.distractors=1", check=False)
    assert refused.returncode == 2
    assert "input records changed" in " ".join(refused.stderr.split())
    assert upgraded.raft("plan", "--keep", "training", check=False).returncode == 2
    assert trainings(upgraded) == [old]

    anew = upgraded.raft("run", "--no-prefect", "--keep", "none", *again)
    assert "--keep train would take it as it is" in " ".join(anew.stderr.split())
    assert len(trainings(upgraded)) == 2
    assert plan(upgraded, *again)["train"]["state"] == "cached"

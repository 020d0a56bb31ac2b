"""A run whose base is packed: trained, exported, evaluated and asked in that precision, which the adapter carries."""

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.heavy
def test_the_precision_goes_from_the_configuration_to_every_answer(warm):
    warm.values["train"]["base_precision"] = "nf4"
    warm.write()
    rows = {row["stage"]: row for row in warm.json("run", "--no-prefect")["stages"]}
    assert {stage: rows[stage]["state"] for stage in ("records", "train", "export", "evaluate")} == {
        "records": "cached",
        "train": "built",
        "export": "built",
        "evaluate": "built",
    }
    folder = Path(rows["export"]["folder"])
    assert json.loads((folder / "adapter" / "raft.json").read_text())["base_precision"] == "nf4"
    assert "linear layers in nf4" in (folder / "adapter" / "README.md").read_text()

    parity = json.loads((folder / "parity.json").read_text())
    assert parity["peft"]["max_logit_difference"] <= 1e-3, "PEFT on what the packed weights stand for"
    assert parity["merged"]["max_logit_difference"] <= 1e-3, "the merged model on the base's own weights"
    assert parity["full_base"]["trained_in"] == "nf4"
    assert parity["full_base"]["max_logit_difference"] > 10 * parity["peft"]["max_logit_difference"]
    assert "trained on a base in nf4" in rows["export"]["summary"]

    report = (Path(rows["evaluate"]["folder"]) / "summary.md").read_text()
    assert "answered with the base's linear layers in nf4, as in training" in report

    answers = warm.json("ask", "Who opens the gates of Elm?", "--compare")["answers"]
    assert answers.keys() == {"adapter", "base"}
    planned = warm.json("plan", "--engine")["tried"][-1]["bytes"]["weights"]
    warm.values["train"]["base_precision"] = "bfloat16"
    warm.write()
    assert planned < warm.json("plan", "--engine")["tried"][-1]["bytes"]["weights"]


def test_as_stored_of_a_plain_base_is_refused_before_anything_runs(warm):
    warm.values["train"]["base_precision"] = "as_stored"
    warm.write()
    done = warm.raft("run", "--no-prefect", check=False)
    assert done.returncode == 2
    assert "as_stored means nothing" in " ".join(done.stderr.split())

"""What people already have keeps working: a project that an earlier release made, packed with its store and registry.

The archive is never made anew, see `tests/fixtures/README.md`. Code changed since then, so every stage is built once
more; what it must come to is what it came to then.
"""

import importlib
import json
import tarfile
from pathlib import Path

import numpy as np
import prefect
import pytest
import yaml
from raft_project import Project
from safetensors.numpy import load_file

from tasks.store.manifest import MANIFEST

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
ENTRY_POINTS = (FIXTURES / "deployment_entry_points.txt").read_text().split()
MADE_IN = "/tmp/oldproject"
"""Where the project stood when it was made; the adapter's files name their base model by its folder."""
FOLLOW_THE_FOLDER = {  # and therefore differ here, in nothing but that name
    "train": {"adapter/README.md", "adapter/adapter_config.json", "adapter/raft.json"},
    "export": {"adapter/adapter_config.json", "adapter/raft.json"},
    # the report also tells when and by what code all was made; all three give a verdict, any-hit and other advice now
    "evaluate": {"report.html", "summary.md", "metrics.json"},
}
TENSORS = {
    "train": {"adapter/adapter_model.safetensors"},
    "export": {"adapter/adapter_model.safetensors", "merged/model.safetensors"},
}
"""Trained in float32. Since the last layer runs at supervised positions alone, the gradients of its adapter sum over
fewer rows and so in another order: 1.0e-6 apart after the whole training, of 0.34."""
MEASURED = {"export": {"parity.json"}}
"""Holds the largest difference of logits to PEFT, about 3e-7: since prompts run by blocked attention, which sums in
another order, it is another number of that size. All else in it is what it was."""
SAME = ("ingest", "chunk", "embed", "index", "questions", "records")
PROMOTED = "480c5775b8604dab786cde1c00f13af6"
TRAINED = "cc74386e9367beb116fefde086d35a04"


class Older(Project):
    """The project of an earlier release, unpacked where it was not made."""

    def __init__(self, folder: Path) -> None:
        self.folder = self.domain = folder
        with tarfile.open(FIXTURES / "project_before_the_rooms.tar.xz") as archive:
            archive.extractall(folder, filter="data")
        self.values = yaml.safe_load(self.config.read_text())

    def manifest(self, stage: str, key: str) -> dict:
        return json.loads((self.folder / ".raft" / "store" / stage / key / MANIFEST).read_text())

    def before(self, stage: str) -> dict:
        """The manifest that the earlier release wrote."""
        registry = json.loads((self.folder / ".raft" / "registry" / "adapter" / "registry.json").read_text())
        return self.manifest(stage, registry["versions"][0]["stages"][stage]["key"])

    def text(self, stage: str, key: str, name: str) -> str:
        return (self.folder / ".raft" / "store" / stage / key / name).read_text()


def without_search(contract: str) -> str:
    values = json.loads(contract)
    del values["retrieval"]["search"]
    return json.dumps(values)


@pytest.fixture
def older(tmp_path) -> Older:
    """With the search mode that was the default then, which its configuration does not name."""
    project = Older(tmp_path)
    project.values["retrieval"] = {"mode": "dense"}
    project.write()
    return project


def files(manifest: dict) -> dict[str, str]:
    return {entry["path"]: entry["sha256"] for entry in manifest["files"] if entry["result"]}


def rounded(text: str) -> dict:
    """The JSON of a text with its fractions to 5 digits after the point."""
    return json.loads(text, parse_float=lambda number: round(float(number), 5))


def in_use(project: Project) -> dict:
    (adapter,) = project.json("adapters")["adapters"]
    (version,) = [v for v in adapter["versions"] if v["state"] == "promoted"]
    return version


@pytest.mark.slow
def test_what_only_looks_reads_the_older_store_as_it_is(older):
    plan = {row["stage"]: row for row in older.json("plan")["stages"]}
    assert {row["state"] for row in plan.values()} == {"run"}
    for stage, row in plan.items():  # nothing but the program is other than then
        assert "code of " in row["why"]
        assert f"--keep {stage} would keep the result of 2026-11-29" in row["why"]
    assert in_use(older)["number"] == 1
    story = older.raft("explain").stdout
    assert f"adapter {PROMOTED[:8]}" in story
    assert TRAINED in story
    assert "made by other code" in story


def test_where_no_search_mode_was_named_the_new_default_is_told_as_a_change(older):
    del older.values["retrieval"]
    older.write()
    plan = {row["stage"]: row["why"] for row in older.json("plan")["stages"]}
    for stage in ("questions", "records", "evaluate"):
        assert "retrieval.mode: dense → hybrid" in plan[stage]
        assert "--keep" not in plan[stage]
    assert all("retrieval.mode" not in plan[stage] for stage in ("ingest", "chunk", "embed", "index", "train"))


@pytest.mark.slow
def test_the_promoted_adapter_answers_from_its_own_index_and_from_one_that_is_built_anew(older):
    for verb in ("search", "ask"):
        row = older.json(verb, "Who opens the gates of Elm?")
        assert row["stale_because"].startswith("raft or one of its libraries has changed (code of ")
    older.raft("index", "--no-prefect")
    assert older.json("search", "Who opens the gates of Elm?")["hits"]
    assert older.json("ask", "Who opens the gates of Elm?")["answers"]["adapter"]
    assert [p.name for p in (older.folder / ".raft" / "store" / "export").glob("[!.]*")] == [PROMOTED]


@pytest.mark.slow
@pytest.mark.wide
def test_every_stage_is_built_once_more_and_comes_to_what_it_came_to(older):
    older.values["train"]["rehearsal"] = 0  # as it was then
    older.write()
    built = {row["stage"]: row for row in older.json("run", "--no-prefect")["stages"]}
    assert {row["state"] for row in built.values()} == {"built"}
    assert {stage: built[stage]["digest"] for stage in SAME} == {s: older.before(s)["digest"] for s in SAME}
    for stage, following in FOLLOW_THE_FOLDER.items():
        then, key = older.before(stage), built[stage]["key"]
        before, after = files(then), files(older.manifest(stage, key))
        assert before.keys() == after.keys()
        measured, tensors = MEASURED.get(stage, set()), TENSORS.get(stage, set())
        assert {name for name in before if before[name] != after[name]} - measured - tensors == following
        for name in tensors:
            now, earlier = (load_file(older.folder / ".raft" / "store" / stage / k / name) for k in (key, then["key"]))
            assert now.keys() == earlier.keys()
            for tensor, value in earlier.items():
                np.testing.assert_allclose(now[tensor], value, rtol=0, atol=5e-6, err_msg=tensor)
        for name in measured:
            assert rounded(older.text(stage, key, name)) == rounded(older.text(stage, then["key"], name))
        for name in following - {"report.html", "summary.md", "metrics.json"}:
            moved = older.text(stage, key, name).replace(str(older.folder), MADE_IN)
            text = older.text(stage, then["key"], name)
            if stage == "export" and name == "adapter/raft.json":
                moved = moved.replace(built["train"]["digest"], older.before("train")["digest"])
                now, earlier = (json.loads(one)["retrieval"].pop("search") for one in (moved, text))
                # a reranker counts by its model now, and has settings that it had not
                assert {n: v for n, v in earlier.items() if not n.startswith("rerank")}.items() <= now.items()
                moved, text = (without_search(one) for one in (moved, text))
            assert moved == text
        if stage == "evaluate":  # what was measured is what was measured then
            figures, earlier = (json.loads(older.text(stage, k, "metrics.json")) for k in (key, then["key"]))
            assert {n: figures[n] for n in ("summary", "general", "judge")} == {
                n: earlier[n] for n in ("summary", "general", "judge")
            }
            assert figures["retrieval"].items() >= earlier["retrieval"].items()

    assert in_use(older)["stages"]["export"]["key"] == PROMOTED, "an upgrade changes nothing about what is served"
    again = {row["stage"]: row["state"] for row in older.json("run", "--no-prefect")["stages"]}
    assert set(again.values()) == {"cached"}
    del older.values["train"]["rehearsal"]
    older.write()
    night = older.json("retrain", "--no-prefect")
    assert night["result"] == "nothing", "neither a new setting at its default nor a moved folder is somebody's change"
    assert in_use(older)["number"] == 1


@pytest.mark.slow
def test_a_costly_training_is_kept_on_request(older):
    built = {row["stage"]: row for row in older.json("export", "--no-prefect", "--keep", "train")["stages"]}
    assert (built["train"]["state"], built["train"]["key"]) == ("kept", TRAINED)
    assert built["export"]["state"] == "built"
    weights = "adapter/adapter_model.safetensors"
    export = files(older.manifest("export", built["export"]["key"]))
    assert export[weights] == files(older.before("train"))[weights]


@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_a_deployment_of_an_earlier_release_finds_its_flow(entry):
    module, _, name = entry.rpartition(".")
    assert isinstance(getattr(importlib.import_module(module), name), prefect.Flow)


def test_the_deployments_of_today_start_at_an_entry_point_that_is_kept():
    """What is written into a server today must be in the list, for the release after this one."""
    deployments = yaml.safe_load((FIXTURES.parents[1] / "prefect.yaml").read_text())["deployments"]
    assert {row["entrypoint"] for row in deployments} <= set(ENTRY_POINTS)

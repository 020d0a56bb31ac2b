"""The whole chain, run as a user runs it, on a domain in miniature."""

import contextlib
import json
import os
import re
import sqlite3
import uuid
from pathlib import Path

import pytest

from flows.calls import calls_of
from flows.pipeline import pipeline

pytestmark = pytest.mark.slow

STAGES = ["ingest", "chunk", "embed", "index", "questions", "records", "train", "export", "evaluate"]


def folder_of(project, stage) -> Path:
    rows = {row["stage"]: row for row in project.json("run")["stages"]}
    return Path(rows[stage]["folder"])


def test_a_run_ends_with_the_paths_of_what_it_made(finished):
    project, done = finished
    for label, kind in (("adapter", "dir"), ("merged model", "dir"), ("records", "dir"), ("report", "file")):
        place = re.search(rf"^{label} +(\S+)$", done.stdout, re.MULTILINE).group(1)
        path = project.folder / place
        assert path.is_dir() if kind == "dir" else path.is_file()
    for stage in STAGES:
        assert f"✓ {stage}" in done.stderr


def test_a_run_that_builds_says_which_licences_are_not_known(finished):
    """The tiny base has no licence beside it, and no document names one."""
    _, done = finished
    assert "The licence of the base model is not known: set `licences.base`." in done.stderr
    assert done.stderr.count("No document names a licence: set `licences.documents`.") == 1


def test_a_second_run_says_that_nothing_had_to_run_and_starts_no_server(finished):
    project, _ = finished
    done = project.process("run")
    assert "Nothing had to run" in done.stderr
    assert not (project.folder / ".raft" / "prefect").exists()
    assert project.json("run")["ran"] == []


def test_every_stage_accounts_for_what_came_in(finished):
    project, _ = finished
    rows = {row["stage"]: row["metrics"] for row in project.json("run")["stages"]}
    assert rows["ingest"]["found"] == rows["ingest"]["loaded"] == 8
    questions, records = rows["questions"], rows["records"]
    assert questions["asked"] == questions["kept"] + sum(questions["dropped"].values()) == 24
    assert questions["kept"] == records["train"] + records["validation"] + records["test"] + records["dropped"]
    assert min(records["train"], records["test"]) > 0


def test_the_adapter_names_its_base_its_prompt_and_everything_it_was_made_from(finished):
    project, _ = finished
    raft = json.loads((folder_of(project, "export") / "adapter" / "raft.json").read_text())
    assert set(raft["lineage"]) == {*STAGES} - {"export", "evaluate"}
    assert raft["prompt"]["passages"] == 3
    assert raft["retrieval"]["chunking"]["max_tokens"] == 64
    assert raft["retrieval"]["embedder"]["dim"] == 32
    assert len(raft["base_digest"]) == 64


def test_the_parity_figures_are_in_the_manifest(finished):
    project, _ = finished
    rows = {row["stage"]: row["metrics"] for row in project.json("run")["stages"]}
    assert rows["export"]["peft_max_logit_difference"] <= 1e-3
    assert rows["export"]["merged_max_logit_difference"] <= 1e-3


def test_the_records_are_read_by_datasets(finished):
    from datasets import load_dataset

    project, _ = finished
    folder = folder_of(project, "records")
    files = {split: str(folder / f"{split}.jsonl") for split in ("train", "test")}
    rows = load_dataset("json", data_files=files, cache_dir=str(project.folder / "hf"))
    assert {"instruction", "input", "output", "metadata"} <= set(rows["train"].column_names)


def test_search_and_ask_answer_from_what_was_built(finished):
    project, _ = finished
    hits = project.json("search", "iron bridge river", "-k", "3")["hits"]
    assert len(hits) == 3
    assert {"chunk_id", "score", "source", "page", "start", "end"} <= set(hits[0])
    document = (Path(json.loads(json.dumps(project.values))["corpus"][0]) / hits[0]["source"]).read_text()
    assert hits[0]["text"].split()[0] in document
    answered = project.json("ask", "What is the town of Birch known for?", "--max-tokens", "8")
    assert len(answered["passages"]) == 3
    assert "answer" in answered


@pytest.mark.parametrize(
    "stage",
    [name if name in ("ingest", "index", "train") else pytest.param(name, marks=pytest.mark.wide) for name in STAGES],
)
def test_a_damaged_file_of_any_stage_is_remade_and_nothing_else_is(warm, stage):
    project = warm
    folder = folder_of(project, stage)
    before = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    target = max(
        (p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json"), key=lambda p: p.stat().st_size
    )
    body = bytearray(target.read_bytes())
    body[len(body) // 2] ^= 1
    target.write_bytes(body)
    planned = {row["stage"]: row for row in project.json("plan")["stages"]}
    assert planned[stage]["state"] == "run"
    assert f"{target.name} was altered" in planned[stage]["why"]
    assert project.json("run", "--no-prefect")["ran"] == [stage]
    after = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    del before[Path("manifest.json")], after[Path("manifest.json")]
    assert after == before


def test_a_changed_document_is_followed_to_the_end_and_told_by_the_plan(project, domain, tmp_path):
    import shutil

    docs = tmp_path / "docs"
    shutil.copytree(domain / "docs", docs)
    project.values["corpus"] = [str(docs)]
    project.write()
    project.raft("records", "--no-prefect")
    (docs / "elm.md").write_text((docs / "elm.md").read_text().replace("1533", "1534"))
    planned = {row["stage"]: row for row in project.json("plan")["stages"]}
    for stage, (state, why) in {
        "ingest": ("run", "input corpus changed"),
        "train": ("run", "never built"),
        "chunk": ("maybe", planned["chunk"]["why"]),
    }.items():
        assert (planned[stage]["state"], planned[stage]["why"]) == (state, why)
    bases = {stage: planned[stage]["estimate"]["basis"].split(":")[0] for stage in ("chunk", "train")}
    assert bases == {"chunk": "measured", "train": "rough"}
    assert "chunk" in project.json("records", "--no-prefect")["ran"]


def test_with_prefect_the_same_results_come_out(finished, project, with_database):
    done, _ = finished
    home = Path(os.environ["PREFECT_HOME"])
    with_database(home)
    project.values["name"] = "with-prefect"
    project.write()
    reply = project.json("records")
    digests = {row["stage"]: row["digest"] for row in done.json("run")["stages"]}
    assert {row["stage"]: row["digest"] for row in reply["stages"]} == {s: digests[s] for s in STAGES[:6]}
    assert reply["ran"] == STAGES[:6]
    edges, keys = history(home / "prefect.db", "with-prefect")  # a run is named after what it makes
    plain = calls_of(pipeline, adapted=False)
    lines = {call.name: {p: [] if given == "corpus" else [given] for p, given in call.inputs.items()} for call in plain}
    assert edges == {stage: lines[stage] for stage in STAGES[:6]}
    assert len({*keys}) == 6, "each stage is a task of its own"


def history(database: Path, run: str) -> tuple[dict, list[str]]:
    """What Prefect has recorded of the run of a name: each task's inputs by parameter, the tasks' keys."""
    with contextlib.closing(sqlite3.connect(database)) as db:
        ((identity,),) = db.execute("select id from flow_run where name = ?", (run,)).fetchall()
        columns = "select id, name, task_key, task_inputs from task_run where flow_run_id = ?"
        tasks = db.execute(columns, (identity,)).fetchall()
    names = {uuid.UUID(task): name for task, name, _, _ in tasks}
    edges = {
        name: {parameter: [names[uuid.UUID(i["id"])] for i in given] for parameter, given in json.loads(inputs).items()}
        for _, name, _, inputs in tasks
    }
    return edges, [key for _, _, key, _ in tasks]

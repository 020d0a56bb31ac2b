"""Everything in examples/ works: the configurations are valid, and the scripts do what their first line says."""

import json
import math
import runpy
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent / "flows"))
from tiny import make_base, make_embedder, write_documents, write_questions

from tasks.config import load_config

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CONFIGURATIONS = sorted(EXAMPLES.glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=[path.stem for path in CONFIGURATIONS])
def test_a_configuration_is_valid_and_says_what_it_takes(path):
    config = load_config(path)
    head = path.read_text().split("corpus:")[0]
    assert f"raft plan examples/{path.name} --engine" in head
    if path.stem.endswith("gpu"):
        devices = int(path.stem[-4])
        assert config.train.mesh != "auto"
        assert math.prod(config.train.mesh) == devices
        assert config.train.micro_batch_rows % (config.train.mesh[0] * config.train.mesh[1]) == 0
        assert f"--devices {devices}" in head
        assert "GiB a device" in head


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """`call("search.py", ...)`: what the script prints, run as from a shell in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(script: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.mark.slow
def test_search_builds_an_index_once_and_cites_the_passage_that_answers(call, tmp_path):
    documents = write_documents(tmp_path / "towns")
    common = (documents, "Who opens the gates of Birch?", "--embedder", make_embedder(tmp_path / "embedder"))
    first = call("search.py", *common, "--mode", "lexical")
    assert first.startswith("8 documents in ")
    assert "1. birch.md: " in first
    assert "the smith" in first
    again = call("search.py", *common, "-k", 1)
    assert "documents in" not in again
    assert "\n1. " in again
    assert "\n2. " not in again


@pytest.fixture
def own_records(call, tmp_path, base):
    """What own_questions.py prints of eight towns and three questions each; its records are in `records`."""
    documents, questions = write_documents(tmp_path / "towns"), write_questions(tmp_path / "questions.jsonl")
    return call("own_questions.py", documents, questions, "--model", base, "--max-tokens", 2048)


@pytest.mark.slow
def test_own_questions_become_records_that_show_the_answer_among_distractors(own_records):
    assert "24 questions placed in the documents, 0 not" in own_records
    rows = [json.loads(line) for line in Path("records/train.jsonl").read_text().splitlines()]
    assert f"{len(rows)} train" in own_records
    shown = [row for row in rows if row["metadata"]["oracle_present"]]
    assert shown
    assert all(row["metadata"]["answers"][0] in row["input"] for row in shown)
    assert {len(row["metadata"]["passages"]) for row in rows} == {4}


@pytest.mark.slow
def test_records_of_own_questions_become_an_adapter(call, own_records, base):
    trained = call(
        "fine_tune.py", "records/train.jsonl", "--model", base, "--rank", 2, "--epochs", 1, "--sequence-length", 2048,
        "--out", "run", "--ask", "Who opens the gates of Birch?",
    )  # fmt: skip
    assert "step 1: loss " in trained
    adapter = json.loads(Path("run/adapter/adapter_config.json").read_text())
    assert (adapter["r"], adapter["peft_type"]) == (2, "LORA")


@pytest.mark.slow
def test_a_stage_of_ones_own_stands_in_the_pipeline_and_its_code_is_in_its_key(call, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    common = (write_documents(tmp_path / "towns"), "--embedder", make_embedder(tmp_path / "embedder"))
    first = call("redact_names.py", *common, "--name", "smith")
    assert "redact: 8 documents, 1 with a name blacked out" in first
    chunks = (Path(first.splitlines()[-1]) / "chunks.jsonl").read_text()
    assert "smith" not in chunks
    assert "█████" in chunks
    again = call("redact_names.py", *common, "--name", "smith")
    assert [line for line in again.splitlines()[:-1] if "(cached)" not in line] == []
    other = call("redact_names.py", *common, "--name", "smith", "--name", "gates")
    assert [line.split(":")[0] for line in other.splitlines()[:-1]] == ["ingest (cached)", "redact", "chunk"]
    manifest = json.loads(next(Path(".raft/store/redact").glob("*/manifest.json")).read_text())
    assert {"redact_names_work", "data.nouns"} <= manifest["ingredients"]["code"].keys()
    assert manifest["lineage"].keys() == {"documents"}

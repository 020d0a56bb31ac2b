"""The `raft` command as a user meets it: help, messages, exit codes, JSON."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from kept_json import checked
from raft_project import raft_here
from typer.testing import CliRunner

from flows.cli import app
from raft_version import VERSION

ROOT = Path(__file__).resolve().parents[3]
STAGES = ["ingest", "chunk", "embed", "index", "questions", "records", "train", "export", "evaluate"]
LATER = [
    "promote",
    "rollback",
    "adapters",
    "explain",
    "card",
    "feedback",
    "forget",
    "gc",
    "domains",
    "schedule",
    "server",
]
VERBS = [
    "run",
    "plan",
    *STAGES,
    "adapt",
    "embed_adapted",
    "index_adapted",
    "calibrate",
    "search",
    "ask",
    "serve",
    *LATER,
    "init",
    "schema",
    "models",
]


@pytest.fixture(scope="module")
def command():
    return app.command()


def process(folder, *arguments):
    command = [sys.executable, "-P", "-m", "flows.cli", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_an_example_and_speaks_json(command, verb):
    done = CliRunner().invoke(command, [verb, "--help"])
    assert done.exit_code == 0
    assert f"Example: raft {verb}" in done.stdout
    assert "--json" in done.stdout


@pytest.mark.slow
def test_bad_input_is_one_message_with_exit_code_2_and_no_traceback(tmp_path):
    done = process(tmp_path, "run", "--set", "train.rnak=3")
    assert done.returncode == 2
    assert "did you mean train.rank?" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_the_same_as_json(tmp_path):
    done = raft_here(tmp_path, "run", "--set", "train.rnak=3", "--json")
    row = json.loads(done.stdout)
    assert (row["ok"], row["exit_code"]) == (False, 2)
    assert "train.rank" in row["error"]


@pytest.mark.slow
def test_debug_shows_where_it_happened(tmp_path):
    done = process(tmp_path, "run", "--set", "train.rnak=3", "--debug")
    assert "Traceback" in done.stderr
    assert done.returncode != 0


@pytest.mark.slow
def test_the_version_is_the_one_of_the_sources_and_heads_the_changelog(tmp_path):
    done = process(tmp_path, "--version")
    assert (done.stdout, done.stderr, done.returncode) == (f"raft {VERSION}\n", "", 0)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "raft_version.VERSION"}
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == VERSION


@pytest.mark.slow
def test_the_command_is_gone_when_its_work_is_and_takes_no_library_down(tmp_path):
    """Which after a run, with JAX, torch and Prefect loaded, would take ten seconds and more."""
    program = (
        "import sys\nclass Library:\n    def __del__(self):\n        print('taken down', flush=True)\n"
        "kept = Library()\n"
        "sys.argv = ['raft', '--version']\nfrom flows.cli.app import main\nmain()\n"
    )
    command = [sys.executable, "-P", "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"raft {VERSION}\n")


@pytest.mark.slow
def test_an_unknown_verb_or_option_is_bad_input(tmp_path):
    assert process(tmp_path, "rnu").returncode == 2
    assert raft_here(tmp_path, "run", "--frce").returncode == 2


def test_a_missing_corpus_is_named(tmp_path):
    done = raft_here(tmp_path, "plan", "--set", "corpus=[no/such/folder]")
    assert done.returncode == 2
    assert "no/such/folder" in done.stderr


def test_init_writes_a_file_once_and_the_plan_reads_it(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("# A\n\nSome words about something.\n")
    assert raft_here(tmp_path, "init", "--corpus", "docs").returncode == 0
    again = raft_here(tmp_path, "init")
    assert again.returncode == 2
    assert "--force" in again.stderr
    row = json.loads(raft_here(tmp_path, "plan", "--json").stdout)
    assert [r["stage"] for r in row["stages"]] == STAGES
    assert row["stages"][0]["why"] == "never built"
    assert all(r["estimate"]["seconds"] > 0 and r["estimate"]["basis"].startswith("rough") for r in row["stages"])
    assert sum(r["estimate"]["bytes"] for r in row["stages"]) > 500e6, "the merged model alone"
    words = " ".join(raft_here(tmp_path, "plan").stdout.split())
    assert "≈ is an estimate: " in words
    assert "on disk in all; rough, from the size of corpus and models at the rates of two CPU cores" in words
    assert not (tmp_path / ".raft").exists(), "a plan starts nothing"


def test_a_configuration_for_another_folder_names_the_corpus_from_there(tmp_path):
    for name in ("docs", "conf"):
        (tmp_path / name).mkdir()
    (tmp_path / "docs" / "a.md").write_text("# A\n\nSome words about something.\n")
    (tmp_path / "qa.csv").write_text("question,answer\nWhat?,that\n")
    sources = ("--corpus", "docs", "--corpus", "pydoc:topics", "--questions", "qa.csv")
    assert raft_here(tmp_path, "init", "conf/raft.yaml", *sources).returncode == 0
    values = yaml.safe_load((tmp_path / "conf" / "raft.yaml").read_text())
    assert (values["corpus"], values["questions"]["file"]) == (["../docs", "pydoc:topics"], "../qa.csv")


def test_a_plan_tells_what_a_run_would_refuse(tmp_path):
    (tmp_path / "a.md").write_text("# A\n\nSome words about something.\n")
    (tmp_path / "qa.csv").write_text("Qestion,Answer\nWhat?,that\n")
    (tmp_path / "raft.yaml").write_text(
        "corpus: [a.md]\nquestions: {file: qa.csv}\nrecords: {template: quotd}\nretrain: {smoke_command: no-such-one}\n"
    )
    first, second, third = json.loads(raft_here(tmp_path, "plan", "--json").stdout)["notices"][-3:]
    assert first.startswith("A run would stop at once: ")
    assert "questions.columns: {question: Qestion}" in first
    assert second.startswith("A run would stop at once: prompt template 'quotd'")
    assert third.startswith("A night would stop at once: retrain.smoke_command: no-such-one is no program here")
    told = raft_here(tmp_path, "plan").stdout
    assert first in told
    assert "Traceback" not in told


def test_the_schema_is_json_with_every_section(tmp_path):
    schema = json.loads(raft_here(tmp_path, "schema").stdout)
    assert {"corpus", "models", "train", "evaluate"} <= set(schema["properties"])


def test_searching_before_building_says_what_to_do(tmp_path):
    (tmp_path / "a.md").write_text("# A\n\nSome words about something.\n")
    done = raft_here(tmp_path, "search", "words", "--set", "corpus=[a.md]")
    assert done.returncode == 2
    assert "build it first: raft index" in done.stderr


def test_models_are_listed_without_fetching_anything(tmp_path, monkeypatch):
    monkeypatch.setenv("RAFT_CACHE", str(tmp_path / "cache"))
    rows = json.loads(raft_here(tmp_path, "models", "--json").stdout)["models"]
    assert {row["role"]: row["state"] for row in rows} == {"base": "not fetched", "embedder": "not fetched"}
    assert not list((tmp_path / "cache").glob("models/*"))


def test_help_lists_every_verb_once_under_what_one_is_up_to(command):
    lines = CliRunner().invoke(command, ["--help"], env={"COLUMNS": "80"}).stdout.splitlines()
    headings = [line for line in lines if line.endswith(":") and not line.startswith((" ", "Usage"))]
    assert headings == ["Options:", "Begin:", "Build:", "Look:", "Use:", "Keep up:"]
    verbs = [registered.name for registered in command.registered_commands]
    assert sorted(verbs) == sorted({*VERBS, "report", "advise", "compare-bases", "retrain", "evaluate retrieval"})
    for verb in verbs:
        assert len([line for line in lines if line.startswith(f"  {verb}  ")]) == 1
    assert not any(len(line) > 80 or "..." in line for line in lines[1:])


@pytest.mark.parametrize("verb", [*VERBS, "report", "advise", "compare-bases", "retrain", "evaluate retrieval"])
def test_every_verb_takes_the_configuration_as_an_option(command, verb):
    assert "-c, --config" in CliRunner().invoke(command, [verb, "--help"]).stdout


def test_the_option_means_what_the_argument_means_and_both_are_one_too_many(tmp_path):
    (tmp_path / "a.md").write_text("# A\n\nSome words about something.\n")
    (tmp_path / "my.yaml").write_text("corpus: [a.md]\nname: mine\n")
    assert json.loads(raft_here(tmp_path, "plan", "-c", "my.yaml", "--json").stdout)["ok"]
    twice = raft_here(tmp_path, "plan", "my.yaml", "--config", "my.yaml")
    assert (twice.returncode, "Two configurations" in twice.stderr) == (2, True)
    assert "Nothing can go" in raft_here(tmp_path, "gc", "-c", "my.yaml").stdout
    checked(["init"], json.loads(raft_here(tmp_path, "init", "-c", "new.yaml", "--json").stdout))
    assert (tmp_path / "new.yaml").is_file()
    assert "--config FILE" in raft_here(tmp_path, "domains").stderr

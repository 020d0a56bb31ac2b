"""After a document or a setting has changed, what only reads answers from the last finished run, and says so."""

import json
import shutil
from pathlib import Path

import pytest

QUESTION = "What is the town of Elm known for?"
NEW = "A windmill of red brick was opened in Elm by the mayor last summer."

READERS = {
    "search": (["search", QUESTION], "raft index"),
    "ask": (["ask", QUESTION, "--max-tokens", "8"], "raft run"),
    "promote": (["promote"], "raft run"),
    "report": (["report"], "raft run"),
    "records": (["records", "--show", "1"], "raft records"),
    "check": (["export", "--check", "peft"], "raft run"),
    "retrieval": (["evaluate retrieval"], "raft questions"),
    "dropped": (["questions", "--dropped"], "raft index"),
}
SHOWN = ("ask", "retrieval")  # where they read from the whole run and from a part of it


@pytest.fixture
def edited(warm, domain):
    """A finished project of its own, one of whose documents was edited since."""
    docs = warm.folder / "docs"
    shutil.copytree(domain / "docs", docs)
    warm.values["corpus"] = ["docs"]
    warm.write()
    assert warm.json("run", "--no-prefect")["ran"] == []
    (docs / "elm.md").write_text((docs / "elm.md").read_text() + f"\n{NEW}\n")
    return warm


@pytest.mark.slow
@pytest.mark.parametrize("reader", [pytest.param(n, marks=[pytest.mark.wide] * (n not in SHOWN)) for n in READERS])
def test_after_an_edit_it_answers_from_the_last_finished_run_and_says_so_in_one_line(edited, reader):
    words, command = READERS[reader]
    told = edited.raft(*words).stderr
    (line,) = [line for line in told.splitlines() if "has changed" in line]
    assert "the corpus has changed (elm.md)" in line
    assert f"`{command}` brings it up to date" in line
    row = edited.json(*words)
    assert (row["stale"], row["stale_because"], row["do"]) == (True, "the corpus has changed (elm.md)", command)


def test_what_is_up_to_date_is_not_called_stale(edited):
    (edited.folder / "docs" / "elm.md").write_bytes((edited.domain / "docs" / "elm.md").read_bytes())
    said = edited.raft("search", QUESTION)
    assert said.stderr == ""
    assert edited.json("search", QUESTION)["stale"] is False


def test_a_changed_setting_is_named(edited):
    (edited.folder / "docs" / "elm.md").write_bytes((edited.domain / "docs" / "elm.md").read_bytes())
    row = edited.json("search", QUESTION, "--set", "chunk.max_tokens=48")
    assert row["stale_because"] == "the configuration has changed (chunk.max_tokens: 64 → 48)"


def test_the_configuration_that_was_given_stands_in_the_command(edited):
    edited.config.rename(edited.folder / "mine.yaml")
    assert edited.json("search", QUESTION, "--config", "mine.yaml")["do"] == "raft index mine.yaml"


@pytest.mark.slow
def test_index_chunks_and_adapter_are_those_of_one_run(edited):
    edited.raft("index", "--no-prefect")
    now = edited.json("search", "windmill of red brick", "-k", "50")
    assert now["stale"] is False
    assert any("windmill" in hit["text"] for hit in now["hits"])
    row = edited.json("ask", "Who opened the windmill of red brick?", "--max-tokens", "8", "-k", "16")
    assert (row["stale"], row["stale_because"]) == (True, "the corpus has changed")
    assert not any("windmill" in passage["text"] for passage in row["passages"])


@pytest.mark.slow
def test_an_edit_after_a_refreshed_index_changes_neither_index_nor_adapter(edited):
    edited.raft("promote")
    edited.raft("index", "--no-prefect")
    before = edited.json("ask", "Who opened the windmill of red brick?", "--max-tokens", "8", "-k", "16")
    (edited.folder / "docs" / "fir.md").write_text("# Fir\n\nNothing of the town of Fir stands any more.\n")
    after = edited.json("ask", "Who opened the windmill of red brick?", "--max-tokens", "8", "-k", "16")
    assert any("windmill" in passage["text"] for passage in before["passages"])
    assert (before["stale"], after["stale"]) == (False, True)
    assert after["passages"] == before["passages"]


def test_a_corpus_that_is_away_is_answered_from_and_named(edited):
    (edited.folder / "docs").rename(edited.folder / "elsewhere")
    row = edited.json("search", QUESTION)
    assert row["hits"]
    assert row["stale_because"].endswith("docs: no such file or folder")


def test_another_domain_of_the_same_name_in_the_same_store_is_not_answered_from(edited):
    other = edited.folder / "other"
    other.mkdir()
    (other / "a.md").write_text("# A\n\nSome words about something.\n")
    refused = edited.raft("search", QUESTION, "--set", "corpus=[other]", check=False)
    assert refused.returncode == 2
    assert "not built for this configuration" in refused.stderr


def test_an_index_is_not_searched_with_another_embedder(edited, tmp_path):
    import tiny

    tiny.make_embedder(tmp_path / "another", seed=1)
    refused = edited.raft("search", QUESTION, "--set", f"models.embedder={tmp_path / 'another'}", check=False)
    assert refused.returncode == 2
    assert "was built with another embedder than models.embedder" in refused.stderr


def test_a_store_of_an_earlier_release_is_answered_from_too(edited):
    shutil.rmtree(edited.folder / ".raft" / "runs")
    assert edited.json("search", QUESTION)["stale"] is True


def test_what_was_finished_survives_tidying_and_goes_with_a_forgotten_document(edited):
    latest = edited.folder / ".raft" / "latest"
    edited.raft("index", "--no-prefect")
    (edited.folder / "docs" / "elm.md").write_text("# Elm\n\nThe town of Elm has moved away altogether.\n")
    edited.raft("index", "--no-prefect")
    edited.raft("gc", "--yes")
    assert edited.json("search", QUESTION)["hits"]
    assert (latest / "adapter" / "adapter_model.safetensors").is_file()
    (edited.folder / "docs" / "elm.md").unlink()
    edited.raft("forget", "elm.md", "--yes")
    refused = edited.raft("search", QUESTION, check=False)
    assert refused.returncode == 2
    assert not latest.exists()
    assert not latest.is_symlink()


def test_the_paths_of_a_run_lead_to_its_results(edited):
    (edited.folder / "docs" / "elm.md").write_bytes((edited.domain / "docs" / "elm.md").read_bytes())
    latest = edited.folder / ".raft" / "latest"
    assert sorted(path.name for path in latest.iterdir()) == ["adapter", "merged", "records", "report.html"]
    assert json.loads((latest / "adapter" / "raft.json").read_text())["prompt"]
    assert (latest / "records" / "train.jsonl").is_file()
    places = {row["stage"]: Path(row["folder"]) for row in edited.json("run", "--no-prefect")["stages"]}
    assert (latest / "adapter").resolve() == (places["export"] / "adapter").resolve()
    assert (latest / "report.html").resolve() == (places["evaluate"] / "report.html").resolve()


def test_the_report_is_named_by_its_stable_path_and_opened_where_there_is_a_browser(edited, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or True)
    for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    page = edited.folder / ".raft" / "latest" / "report.html"
    text = edited.raft("report", "--open").stdout
    assert "report  .raft/latest/report.html" in text
    assert page.as_uri() in text
    assert opened == []
    monkeypatch.setenv("DISPLAY", ":0")
    row = edited.json("report", "--open")
    assert (row["report"], row["opened"], opened) == (str(page), True, [page.as_uri()])


def test_a_run_ends_with_stable_paths_and_what_to_do_next(edited):
    (edited.folder / "docs" / "elm.md").write_bytes((edited.domain / "docs" / "elm.md").read_bytes())
    lines = edited.raft("run", "raft.yaml", "--no-prefect").stdout.splitlines()
    tail = lines[lines.index("") + 1 :]
    assert tail == [
        "adapter       .raft/latest/adapter",
        "merged model  .raft/latest/merged",
        "records       .raft/latest/records",
        "report        .raft/latest/report.html",
        'Next: raft ask "..." -c raft.yaml      ask the adapter',
        "      raft report --open -c raft.yaml  read how it compares with the base",
    ]

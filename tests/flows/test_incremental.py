"""What a change of the corpus costs and does: changed, moved and vanished files, other settings, other models."""

import json
from pathlib import Path

import pytest
import tiny

from tasks.config import load_config
from tasks.store.store import Store

pytestmark = pytest.mark.slow


@pytest.fixture
def docs(project, tmp_path, domain) -> Path:
    """The project's own copy of the documents, indexed once."""
    folder = tmp_path / "docs"
    folder.mkdir()
    for path in (domain / "docs").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    project.values["corpus"] = [str(folder)]
    project.write()
    project.raft("index", "--no-prefect")
    return folder


def stages(reply: dict) -> dict[str, dict]:
    return {row["stage"]: row for row in reply["stages"]}


def files(project, stage: str, until: str = "index") -> dict[str, bytes]:
    folder = Path(stages(project.json(until, "--no-prefect"))[stage]["folder"])
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "manifest.json"}


def sources(project) -> set[str]:
    return {json.loads(row)["source"] for row in files(project, "chunk")["chunks.jsonl"].splitlines()}


def fresh(project) -> dict[str, dict[str, bytes]]:
    """What the same configuration gives in an empty store."""
    project.values["store"] = str(project.folder / "fresh")
    project.write()
    results = {stage: files(project, stage) for stage in ("chunk", "embed", "index")}
    del project.values["store"]
    project.write()
    return results


def test_a_changed_file_costs_itself_and_ends_as_a_fresh_run_would(project, docs):
    (docs / "elm.md").write_text((docs / "elm.md").read_text().replace("1533", "1534"))
    (docs / "ivy.md").write_text(
        "# The town of Ivy\n\nIvy is known for its clocks, which strike nine in the morning.\n"
    )
    rows = stages(project.json("index", "--no-prefect"))
    assert rows["ingest"]["metrics"]["loaded"] == 9
    embedded = rows["embed"]["metrics"]
    assert 2 <= embedded["computed"] <= 4
    assert embedded["computed"] + embedded["reused"] == embedded["chunks"]
    assert {stage: files(project, stage) for stage in ("chunk", "embed", "index")} == fresh(project)


def test_the_dry_run_names_what_would_change_and_changes_nothing(project, docs):
    (docs / "elm.md").write_text("# Elm\n\nAnother text altogether, about a quarry on the hill.\n")
    (docs / "ivy.md").write_text("# Ivy\n\nA town of clocks.\n")
    (docs / "fir.md").rename(docs / "pine.md")
    (docs / "gorse.md").unlink()
    before = {p: p.read_bytes() for p in (project.folder / ".raft" / "store").rglob("*") if p.is_file()}
    reply = project.json("ingest", "--dry-run")
    states = {state: part["files"] for state, part in reply["files"].items()}
    assert states.pop("unchanged") == ["alder.md", "birch.md", "cedar.md", "dogwood.md", "hazel.md"]
    assert states == {"new": ["ivy.md"], "changed": ["elm.md"], "moved": ["pine.md"], "vanished": ["gorse.md"]}
    assert reply["files"]["changed"]["chunks"] > 1
    assert reply["files"]["vanished"]["what"].startswith("kept")
    assert {row["stage"]: row["state"] for row in reply["stages"]}["ingest"] == "run"
    pruned = project.json("ingest", "--dry-run", "--prune")["files"]["vanished"]
    assert (pruned["files"], pruned["what"]) == (["gorse.md"], "dropped, with the chunks (--prune)")
    assert "Nothing was changed." in project.raft("ingest", "--dry-run").stdout
    assert {p: p.read_bytes() for p in (project.folder / ".raft" / "store").rglob("*") if p.is_file()} == before
    project.raft("ingest", "--no-prefect")
    assert {"fir.md", "gorse.md"} & sources(project) == {"gorse.md"}  # one moved, the other is kept


def test_a_vanished_file_is_kept_until_it_is_pruned(project, docs):
    before = {stage: files(project, stage) for stage in ("chunk", "embed", "index")}
    (docs / "elm.md").unlink()
    done = project.raft("index", "--no-prefect")
    assert "1 file has vanished (elm.md); their documents are kept (raft ingest --prune drops them)" in done.stderr
    assert stages(project.json("index"))["ingest"]["metrics"]["kept"] == 1
    assert project.json("forget", "elm.md")["plan"][0].startswith(
        "raft ingest --prune: elm.md, gone from the corpus, would be kept"
    )
    assert {stage: files(project, stage) for stage in ("chunk", "embed", "index")} == before
    (docs / "ivy.md").write_text("# Ivy\n\nA town of clocks.\n")
    assert "elm.md" in sources(project)
    assert project.json("search", "wool hall", "--where", "source=elm.md")["hits"]
    done = project.raft("ingest", "--prune", "--no-prefect")
    assert "vanished" not in done.stderr
    assert "elm.md" not in sources(project)
    assert "ivy.md" in sources(project)
    assert {stage: files(project, stage) for stage in ("chunk", "embed", "index")} == fresh(project)


def test_pruning_can_be_the_rule(project, docs):
    project.values["ingest"] = {"prune": True}
    project.write()
    assert project.json("index", "--no-prefect")["ran"] == []
    (docs / "elm.md").unlink()
    assert "elm.md" not in sources(project)


def test_what_the_store_no_longer_holds_or_other_settings_read_is_not_kept(project, docs, tmp_path):
    (docs / "elm.md").unlink()
    project.values["ingest"] = {"redact": ["email"]}
    project.write()
    assert "elm.md" not in sources(project)  # other settings: a corpus of its own, never a mixture
    (docs / "fir.md").unlink()
    for folder in (tmp_path / ".raft" / "store" / "ingest").iterdir():
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    done = project.raft("ingest", "--no-prefect")
    assert "1 file has vanished (fir.md); their documents are dropped" in done.stderr
    assert "vanished" not in project.raft("ingest", "--no-prefect").stderr


def test_a_damaged_manifest_of_sources_costs_only_the_memory_of_what_vanished(project, docs, tmp_path):
    (tmp_path / ".raft" / "sources.sqlite").write_bytes(b"no database" * 100)
    (docs / "elm.md").unlink()
    project.raft("ingest", "--no-prefect")
    assert "elm.md" not in sources(project)
    config = load_config(project.config)
    (docs / "fir.md").unlink()
    project.raft("ingest", "--no-prefect")
    assert "fir.md" in sources(project)
    assert (Path(config.store) / "sources.sqlite.damaged").is_file()


def test_another_chunker_or_embedder_makes_a_new_generation_and_never_a_mixture(project, docs, tmp_path):
    old = {row["stage"]: row["folder"] for row in project.json("index")["stages"]}
    project.values["chunk"]["max_tokens"] = 32
    project.write()
    reply = project.json("index", "--no-prefect")
    assert reply["ran"] == ["chunk", "embed", "index"]
    rows = [json.loads(row) for row in files(project, "chunk")["chunks.jsonl"].splitlines()]
    assert max(row["tokens"] for row in rows) <= 32
    assert stages(reply)["index"]["metrics"]["vectors"] == len(rows)
    tiny.make_embedder(tmp_path / "other", seed=1)
    project.values["models"]["embedder"] = str(tmp_path / "other")
    project.write()
    reply = stages(project.json("index", "--no-prefect"))
    assert reply["embed"]["metrics"]["reused"] == 0
    digests = {
        json.loads((Path(f) / "index.json").read_text())["embedder"]["digest"]
        for f in (old["index"], reply["index"]["folder"])
    }
    assert len(digests) == 2
    assert all(Path(folder).is_dir() for folder in old.values())
    assert Store(tmp_path / ".raft").load("index", Path(old["index"]).name) is not None

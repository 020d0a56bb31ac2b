"""`raft explain`, `raft forget` and `raft gc` as a user meets them, on a store that was written by hand."""

import contextlib
import io
import json
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tasks"))
import small_chain
from kept_json import checked

from flows.cli.app import invoke
from tasks.adapters.feedback import FeedbackLog, Shown
from tasks.adapters.registry import Registry
from tasks.store.finished import note
from tasks.store.store import Store


class Place:
    """A folder with a corpus, a configuration and a store with two generations; the second is in use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "docs").mkdir()
        texts = dict(small_chain.TEXTS)
        for name, text in texts.items():
            (folder / "docs" / name).write_text(text)
        models = {"base": "tiny/base", "embedder": "tiny/embedder"}
        (folder / "raft.yaml").write_text(yaml.safe_dump({"corpus": ["docs"], "models": models}))
        self.store = Store(folder / ".raft")
        without = {"birch.md": texts["birch.md"], "elm.md": "Elm."}
        self.clean = small_chain.write_chain(self.store, without, seed=0)
        self.built = small_chain.write_chain(self.store, texts, seed=1)
        self.registry = Registry(self.store, "adapter")
        for project in (self.clean, self.built):
            self.registry.promote(self.registry.register(project, reason="test").number, reason="test")

    def raft(self, *arguments: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.chdir(self.folder):
            code = invoke(arguments)
        return code, out.getvalue(), err.getvalue()

    def json(self, *arguments: str) -> dict:
        return checked(arguments, json.loads(self.raft(*arguments, "--json")[1]))


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("RAFT_CACHE", str(tmp_path / "cache"))
    return Place(tmp_path)


@pytest.mark.slow
def test_explain_tells_the_one_in_use_and_any_other_by_number_or_key(place):
    assert place.json("explain")["adapter"]["key"] == place.built["export"].key
    assert place.json("explain", "1")["adapter"]["key"] == place.clean["export"].key
    assert place.json("explain", "adapter:1") == place.json("explain", place.clean["export"].key[:8])
    row = place.json("explain")
    assert [step["stage"] for step in row["steps"]] == list(small_chain.STAGES)
    _, text, _ = place.raft("explain")
    assert all(manifest.digest in text for manifest in place.built.values())
    code, _, error = place.raft("explain", "7")
    assert code == 2
    assert "no version 7" in error


def test_without_a_version_in_use_it_is_the_last_finished_run_of_the_domain_and_not_the_newest_of_another(place):
    place.registry.roll_back(reason="test")
    place.registry.roll_back(reason="test")
    assert place.registry.read().in_use is None
    assert place.json("explain")["adapter"]["key"] == place.built["export"].key, "the newest, for want of anything else"
    note(place.store, "adapter", (str(place.folder / "docs"),), place.clean, {})
    assert place.json("explain")["adapter"]["key"] == place.clean["export"].key


def test_explain_draws_a_flowchart(place):
    _, text, _ = place.raft("explain", "--mermaid")
    assert text.startswith("flowchart TD")
    train, records = (place.built[stage].key[:8] for stage in ("train", "records"))
    assert f"records_{records} --> train_{train}" in text


@pytest.mark.slow
def test_explain_verify_ends_with_1_where_a_byte_was_changed(place):
    code, text, _ = place.raft("explain", "--verify")
    assert code == 0
    assert "The chain holds" in text
    target = place.built["chunk"].path("chunks.jsonl")
    target.write_text(target.read_text().replace("stone", "metal"))
    code, text, _ = place.raft("explain", "--verify")
    assert code == 1
    assert "chunks.jsonl was altered" in text
    row = place.json("explain", "--verify")
    assert (row["ok"], row["holds"]) == (False, False)
    assert any(f["fault"] and f["step"].startswith("chunk/") for f in row["findings"])


def test_card_makes_a_folder_that_is_ready_to_upload(place, tmp_path):
    assert place.raft("card", "--out", "upload")[0] == 0
    folder = place.folder / "upload"
    assert {p.name for p in folder.iterdir()} == {"README.md", "adapter_model.safetensors", "raft.json"}
    text = (folder / "README.md").read_text()
    assert "0.200 (base) against 0.600 (adapter)" in text
    assert place.built["train"].digest in text
    assert "## Licences\n\n- Base model: " in text
    assert place.raft("explain", "upload")[0] == 0, "the copy is still known by its weights and contract"
    assert place.raft("card", "--out", "upload")[0] == 2


def test_card_of_the_records_names_the_licences_and_keeps_what_loads_them(place):
    set_ = ("--set", "licences.documents=cc-by-4.0", "--set", "licences.base=MIT")
    assert place.raft("card", "--records", "--out", "records", *set_)[0] == 0
    folder = place.folder / "records"
    assert {p.name for p in folder.iterdir()} >= {"README.md", "train.jsonl", "test.jsonl"}
    assert not (folder / "manifest.json").exists()
    header, text = (folder / "README.md").read_text().removeprefix("---\n").split("\n---\n")
    fields = yaml.safe_load(header)
    assert fields["license"] == "cc-by-4.0"
    assert fields["configs"] == [{"config_name": "alpaca"}]
    assert "# Records" in text
    assert "- Documents: CC-BY-4.0 (2)" in text
    assert "- Base model: MIT" in text
    text = place.json("card", "--records")["card"]
    assert "No document names a licence: set `licences.documents`." in text
    assert "license:" not in text


def test_forget_lists_plans_and_deletes_only_when_nothing_uses_it(place):
    said = FeedbackLog(place.store.root, "adapter")
    mill = Shown(chunk_id="a", source="alder.md", text="Alder has a stone mill.")
    said.decide(said.add("adapter@2", "What has Alder?", "a stone mill", "up", passages=[mill]).id, "accept")
    row = place.json("forget", "alder.md")
    assert "and the 1 entry of feedback on answers over it" in row["plan"][-2]
    assert [a["version"] for a in row["adapters"]] == ["adapter:2"]
    plan = " ".join(row["plan"])
    assert "Remove from the corpus: alder.md" in plan
    assert "adapter:2 is in use and learned from it" in plan
    assert "adapter:1 never saw it" in plan
    assert all(Path(thing["folder"]).is_dir() for thing in row["folders"])

    code, _, error = place.raft("forget", "alder.md", "--yes")
    assert code == 2
    assert "in use" in error
    place.registry.promote(1, reason="alder is to be forgotten")
    code, _, error = place.raft("forget", "alder.md", "--yes")
    assert code == 2
    assert "the corpus still has alder.md" in error.lower()
    (place.folder / "docs" / "alder.md").unlink()
    place.store.cache("chunk").put_many({"k": b"Alder has a stone mill."})
    code, text, _ = place.raft("forget", "alder.md", "--yes", "--caches")
    assert code == 0, text
    assert said.entries() == []
    left = b"".join(p.read_bytes() for p in (place.folder / ".raft").rglob("*") if p.is_file())
    assert b"stone mill" not in left
    assert all(place.store.load(m.stage, m.key) for m in place.clean.values())
    assert place.raft("forget", "alder.md")[0] == 2


def test_gc_shows_first_and_deletes_with_yes(place):
    place.registry.retire(1, reason="test")
    extra = small_chain.write_chain(place.store, {"oak.md": "Oak.", "yew.md": "Yew."}, seed=5)
    place.registry.promote(place.registry.register(extra, reason="test").number, reason="test")
    row = place.json("gc")
    assert not row["deleted"]
    gone = {(thing["stage"], thing["key"]) for thing in row["drop"]}
    learned = ("train", "export", "evaluate")  # its records are the frozen test set of the adapter
    assert gone == {(stage, place.clean[stage].key) for stage in learned}
    assert all(m.folder.is_dir() for m in place.clean.values())
    assert place.json("gc", "--yes")["deleted"]
    assert {stage for stage, m in place.clean.items() if not m.folder.exists()} == set(learned)
    assert "Nothing can go." in place.raft("gc")[1]


def test_gc_refuses_while_a_run_is_at_work(place):
    lock = place.store.running(shared=True)
    lock.acquire()
    try:
        code, _, error = place.raft("gc", "--yes")
    finally:
        lock.release()
    assert code == 1
    assert "is in use by process" in error

"""A document that is saved while a run starts ends in the run's result, or in none: never under the key of the old."""

import json

import pytest
import tiny

from flows.build import build
from flows.run import Run
from flows.walk import published
from tasks.build.events import Event, Said, Started
from tasks.build.unchanged import Changed
from tasks.config import config_of


class Saving:
    """Saves a file when the ingest has begun, as an editor would; as often as it is told."""

    def __init__(self, path, times: int) -> None:
        self.path, self.left, self.sentences = path, times, []

    def __call__(self, event: Event) -> None:
        if event == Started("ingest") and self.left:
            self.left -= 1
            self.path.write_text(f"# Saved\n\nWords that were saved with {self.left} to come.\n")
        if isinstance(event, Said):
            self.sentences.append(event.text)


@pytest.fixture
def start(tmp_path, monkeypatch):
    monkeypatch.setenv("RAFT_CACHE", str(tmp_path / "cache"))
    docs = tiny.write_documents(tmp_path / "docs")
    config = config_of({"corpus": [str(docs)], "store": str(tmp_path / "store")}, "test", tmp_path)

    def run(times: int):
        reporter = Saving(docs / "elm.md", times)
        return Run.of(config, reporter), reporter

    return run


@pytest.mark.slow
def test_a_document_that_is_saved_once_is_read_again_in_the_same_run(start):
    run, reporter = start(1)
    made = build(run, "ingest", direct=True)["ingest"]
    texts = [json.loads(line)["text"] for line in made.path("documents.jsonl").read_text().splitlines()]
    assert any("saved with 0 to come" in text for text in texts)
    assert any("elm.md" in line and "looking at the corpus once more" in line for line in reporter.sentences)
    assert [m.key for m in run.store.manifests("ingest")] == [made.key]
    assert published(start(0)[0], "ingest")["ingest"].key == made.key


@pytest.mark.slow
def test_a_document_that_never_holds_still_ends_the_run_by_its_name(start):
    run, _ = start(2)
    with pytest.raises(Changed, match=r"elm\.md of the corpus changed while it was read.*run again"):
        build(run, "ingest", direct=True)
    assert run.store.manifests() == []

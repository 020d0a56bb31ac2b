"""`raft plan` compares each call with its own last build, where a stage stands twice in a flow."""

import pytest

from flows.plan import Outlook
from flows.run import Run
from flows.walk import Walk
from tasks.build.stage import run as build
from tasks.chunk import STAGE as CHUNK
from tasks.config import RunConfig
from tasks.ingest import STAGE as INGEST
from tasks.inputs.corpus import Corpus


@pytest.fixture
def corpora(tmp_path):
    """Gives a corpus for each of two folders, as they are now, and the folders."""
    for name in ("towns", "rivers"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "page.md").write_text(f"# The {name}\n\nAll there is to say about {name} stands here.\n")

    def corpora(**sections) -> tuple[Run, list[Corpus]]:
        values = {"store": str(tmp_path / ".raft"), **sections}
        runs = [Run.of(RunConfig(corpus=(str(tmp_path / name),), **values)) for name in ("towns", "rivers")]
        return runs[0], [run.corpus() for run in runs]

    return corpora


def twice(make, corpora):
    """A flow that reads and cuts two corpora."""
    towns, rivers = corpora
    make(CHUNK, make(INGEST, towns))
    make(CHUNK, make(INGEST, rivers, name="more"), name="chunk_more")


def outlook(run: Run, corpora) -> dict[str, tuple[str, str]]:
    steps = Outlook(run, ())
    twice(steps, corpora)
    return {row.stage: (row.state, row.why) for row in steps.rows}


@pytest.mark.slow
def test_a_second_call_is_compared_with_its_own_last_build(corpora, tmp_path):
    run, both = corpora()
    run.store.prepare()
    make = Walk(run, lambda request: build(request, run.store))
    make(CHUNK, make(INGEST, both[0]))
    assert outlook(run, both)["more"] == ("run", "never built")
    twice(make, both)
    assert {state for state, _ in outlook(run, both).values()} == {"cached"}
    later, both = corpora(ingest={"redact": ["email"]}, chunk={"max_tokens": 100})
    rows = outlook(later, both)
    assert rows["ingest"][0] == rows["more"][0] == "run"
    assert rows["ingest"][1] == rows["more"][1]
    assert "corpus" not in rows["ingest"][1]
    assert "max_tokens" in rows["chunk"][1]
    assert rows["chunk"] == rows["chunk_more"]
    (tmp_path / "rivers" / "page.md").write_text("# The rivers\n\nAnother page.\n")
    run, both = corpora()
    rows = outlook(run, both)
    assert (rows["ingest"][0], rows["chunk"][0]) == ("cached", "cached")
    assert rows["more"] == ("run", "input corpus changed")

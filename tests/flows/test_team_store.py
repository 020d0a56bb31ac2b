"""`retrieval.store`: a team's vector store, filled from a run, is searched in place of the run's own index."""

import json
from pathlib import Path

import numpy as np
import pytest

from data.nouns import Chunk, read_jsonl
from retrieval.stores.faiss_store import FaissStore
from retrieval.stores.vector_store import bring_up_to_date

KINDS = ("faiss", "lancedb", "qdrant")


def filled(reply: dict, kind: str, folder: Path) -> dict[str, str]:
    """Fills a store with what `raft index` left, as docs/vector_stores.md says; returns the section that names it."""
    places = {row["stage"]: Path(row["folder"]) for row in reply["stages"]}
    chunks = list(read_jsonl(places["chunk"] / "chunks.jsonl", Chunk))
    vectors = np.load(places["embed"] / "vectors.npy", mmap_mode="r")
    embedder = json.loads((places["embed"] / "embedder.json").read_text())
    if kind == "faiss":
        store = FaissStore(folder, embedder=embedder)
    elif kind == "lancedb":
        pytest.importorskip("lancedb", reason="the extra `lancedb` is not installed")
        from retrieval.stores.lance_store import LanceStore

        store = LanceStore(str(folder), embedder=embedder)
    else:
        client = pytest.importorskip("qdrant_client", reason="the extra `qdrant` is not installed")
        from retrieval.stores.qdrant_store import QdrantStore

        opened = client.QdrantClient(path=str(folder))
        store = QdrantStore(opened, embedder=embedder)
    assert bring_up_to_date(store, chunks, vectors) == (len(chunks), 0)
    if kind == "qdrant":
        opened.close()  # an embedded one lets only one client in
    return {"kind": kind, "at": folder.name}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_training_data_and_searches_come_from_the_store(project, tmp_path, kind):
    reply = project.json("index", "--no-prefect")
    query = ["search", "the gates of the town", "-k", "4"]
    own = project.json(*query)["hits"]
    by_index = project.json("records", "--no-prefect")
    project.values["retrieval"] = {"store": filled(reply, kind, project.folder / f"team-{kind}")}
    project.write()
    assert project.json(*query)["hits"] == own
    by_store = project.json("records", "--no-prefect")
    assert by_store["ran"] == ["questions", "records"]
    digests = [{row["stage"]: row["digest"] for row in run["stages"]} for run in (by_index, by_store)]
    train = [Path(next(r for r in run["stages"] if r["stage"] == "records")["folder"]) for run in (by_index, by_store)]
    assert (train[0] / "train.jsonl").read_bytes() == (train[1] / "train.jsonl").read_bytes()
    assert digests[0]["index"] == digests[1]["index"]


@pytest.mark.slow
def test_a_store_that_was_filled_from_another_corpus_is_refused(project):
    reply = project.json("index", "--no-prefect")
    project.values["retrieval"] = {"store": filled(reply, "faiss", project.folder / "team")}
    (project.folder / "more.md").write_text("# Another town\n\nThe town of Willow has a harbour and two gates.\n")
    project.values["corpus"] = [*project.values["corpus"], str(project.folder / "more.md")]
    project.write()
    project.raft("index", "--no-prefect")
    refused = project.raft("search", "the gates", check=False)
    assert refused.returncode == 2
    assert "it lacks 1 of them and has 0 others" in refused.stderr
    assert "bring it up to date" in refused.stderr


@pytest.mark.parametrize(
    ("store", "says"),
    [
        ({"kind": "faiss", "at": "nowhere"}, "there is no faiss store at"),
        ({"kind": "milvus", "at": "here"}, "retrieval.store.kind"),
        ({"kind": "qdrant", "at": "https://me:secret@host"}, "put that into the environment"),
        ({"kind": "qdrant"}, "retrieval.store.at"),
    ],
)
@pytest.mark.slow
def test_a_store_that_is_not_there_or_not_named_properly_is_bad_input(project, store, says):
    project.raft("index", "--no-prefect")
    project.values["retrieval"] = {"store": store}
    project.write()
    refused = project.raft("search", "the gates", check=False)
    assert refused.returncode == 2
    assert says in refused.stderr
    assert "secret" not in refused.stderr

"""Every vector store answers alike: the same contents give the same hits, filters and counts."""

import numpy as np
import pytest
from retrieval_samples import make_chunk

from raft_errors import BadInput
from retrieval.embedding.embedder import Embedder
from retrieval.search import Retriever, passage_text
from retrieval.stores.faiss_store import FaissStore
from retrieval.stores.vector_store import bring_up_to_date

EMBEDDER = {"digest": "e" * 64, "dim": 16}
STORES = ["faiss", "lancedb", "qdrant"]


def unit_vectors(count: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, 16)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def opener(kind, folder):
    """A function that opens the one store in the folder, for a given embedder."""
    if kind == "faiss":
        return lambda embedder=EMBEDDER: FaissStore(folder / "faiss", embedder=embedder)
    if kind == "lancedb":
        pytest.importorskip("lancedb", reason="the extra `lancedb` is not installed")
        from retrieval.stores.lance_store import LanceStore

        return lambda embedder=EMBEDDER: LanceStore(str(folder / "lance"), embedder=embedder)
    qdrant = pytest.importorskip("qdrant_client", reason="the extra `qdrant` is not installed")
    from retrieval.stores.qdrant_store import QdrantStore

    client = qdrant.QdrantClient(path=str(folder / "qdrant"))
    return lambda embedder=EMBEDDER: QdrantStore(client, embedder=embedder)


@pytest.fixture(params=STORES)
def open_store(request, tmp_path):
    return opener(request.param, tmp_path)


@pytest.fixture
def chunks():
    return [
        make_chunk(f"Ship {i} brought coal.", document=f"d'{i // 3}", ordinal=i, page=i % 3 or None) for i in range(30)
    ]


@pytest.fixture
def vectors():
    return unit_vectors(30)


def test_hits_are_those_of_exact_arithmetic(open_store, chunks, vectors):
    store = open_store()
    store.add(chunks, vectors)
    queries = unit_vectors(4, seed=2)
    scores = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    for row, hits in zip(scores, store.search(queries, 6)):
        assert [h.chunk_id for h in hits] == [chunks[i].id for i in np.argsort(-row)[:6]]
        assert [h.rank for h in hits] == [1, 2, 3, 4, 5, 6]
        np.testing.assert_allclose([h.score for h in hits], np.sort(row)[::-1][:6], atol=1e-6)
    assert len(store.search(queries[:1], 999)[0]) == 30


def test_equal_vectors_are_ordered_by_id(open_store, chunks, vectors):
    store = open_store()
    store.add(chunks[:8], np.repeat(vectors[:1], 8, axis=0))
    (hits,) = store.search(vectors[:1], 5)
    assert [h.chunk_id for h in hits] == sorted(c.id for c in chunks[:8])[:5]


def test_replacing_and_deleting_hold_also_for_the_next_reader(open_store, chunks, vectors):
    store = open_store()
    store.add(chunks, vectors)
    store.add(chunks[:2], vectors[[1, 0]])
    assert store.delete([chunks[9].id, "0" * 16]) == 1
    assert store.delete_documents([chunks[29].document_id]) == 3
    store.save()
    again = open_store()
    assert again.chunk_ids == sorted(c.id for c in chunks[:27] if c is not chunks[9])
    assert again.search(vectors[:1], 1)[0][0].chunk_id == chunks[1].id
    stats = again.stats()
    assert (stats["chunks"], stats["documents"], stats["dim"], stats["embedder"]) == (26, 9, 16, "e" * 64)


def test_filters_on_one_value_several_values_and_nothing(open_store, chunks, vectors):
    store = open_store()
    store.add(chunks, vectors)

    def found(**where):
        return {h.chunk_id for h in store.search(vectors[:1], 30, where=where)[0]}

    assert found(source="d'1.md") == {c.id for c in chunks[3:6]}
    assert found(source=["d'1.md", "d'2.md"], page=2) == {chunks[5].id, chunks[8].id}
    assert found(page=None) == {c.id for c in chunks if c.page is None}
    assert found(source=[]) == set()
    with pytest.raises(BadInput, match="colour"):
        found(colour="red")


def test_bad_vectors_ids_and_k_are_refused(open_store, chunks, vectors):
    store = open_store()
    store.add(chunks[:3], vectors[:3])
    bad = vectors.copy()
    bad[0, 0] = np.nan
    for wrong in (lambda: store.add(chunks, bad), lambda: store.add(chunks, vectors[:4]),
                  lambda: store.add([chunks[0]] * 2, vectors[:2]), lambda: store.search(bad, 3),
                  lambda: store.search(vectors, 0), lambda: store.search(vectors[:, :4], 3)):  # fmt: skip
        with pytest.raises(BadInput):
            wrong()
    assert len(store.chunk_ids) == 3


def test_vectors_of_another_embedder_are_never_mixed_in(open_store, chunks, vectors):
    store = open_store()
    store.add(chunks, vectors)
    store.save()
    with pytest.raises(BadInput, match="embedder"):
        open_store({"digest": "f" * 64, "dim": 16})


@pytest.mark.parametrize("kind", STORES)
def test_the_retriever_searches_any_store(kind, tmp_path, tiny_model, town):
    embedder = Embedder.load(tiny_model, device="cpu", precision="float32")
    store = opener(kind, tmp_path)(embedder.info.to_dict())
    store.add(town, embedder.encode([passage_text(c) for c in town]))
    retriever = Retriever(store, embedder, town, mode="hybrid")
    (hits,) = retriever.search(["Who lights the oil lamp of the lighthouse?"], 3, where={"page": [1, 2, 3]})
    assert {h.chunk_id for h in hits} == {c.id for c in town[:3]}


def test_a_store_is_brought_up_to_date_by_what_changed_alone(open_store, chunks, vectors):
    store = open_store()
    assert bring_up_to_date(store, chunks[:20], vectors[:20]) == (20, 0)
    assert bring_up_to_date(store, chunks[:20], vectors[:20]) == (0, 0)
    assert bring_up_to_date(store, chunks[5:], vectors[5:]) == (10, 5)
    assert store.chunk_ids == sorted(chunk.id for chunk in chunks[5:])
    (hits,) = open_store().search(vectors[25:26], 1)
    assert [hit.chunk_id for hit in hits] == [chunks[25].id]

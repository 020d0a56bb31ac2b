"""A store that grew, changed and shrank is the store one would build afresh, and readers never see half a change."""

import numpy as np
import pytest
from retrieval_samples import make_chunk

from raft_errors import BadInput
from retrieval.stores.faiss_store import FaissStore
from retrieval.stores.generations import current_generation, publish_generation

EMBEDDER = {"digest": "e" * 64, "dim": 16}


def unit_vectors(count: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, 16)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def chunks():
    return [make_chunk(f"Ship {i} brought coal.", document=f"d{i // 3}", ordinal=i, page=i % 3 + 1) for i in range(30)]


@pytest.fixture
def vectors():
    return unit_vectors(30)


def opened(root):
    return FaissStore(root, embedder=EMBEDDER)


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_what_was_added_is_found_before_and_after_saving(tmp_path, chunks, vectors):
    store = opened(tmp_path / "store")
    assert store.search(vectors[:2], 3) == [[], []]
    store.add(chunks, vectors)
    before = store.search(vectors, 5)
    assert [hits[0].chunk_id for hits in before] == [c.id for c in chunks]
    store.save()
    assert opened(tmp_path / "store").search(vectors, 5) == before
    assert FaissStore(tmp_path / "store", embedder=EMBEDDER, mmap=True).search(vectors, 5) == before


def test_changing_a_store_ends_with_the_bytes_of_a_fresh_one(tmp_path, chunks, vectors):
    grown = opened(tmp_path / "grown")
    grown.add(chunks[10:], unit_vectors(20, seed=5))
    grown.save()
    grown = opened(tmp_path / "grown")
    grown.add(chunks[:15], vectors[:15])
    grown.add(chunks[15:], vectors[15:])
    assert grown.delete([chunks[4].id, "0" * 16]) == 1
    assert grown.delete_documents([chunks[27].document_id]) == 3
    grown.save()
    left = [i for i in range(27) if i != 4]
    fresh = opened(tmp_path / "fresh")
    fresh.add([chunks[i] for i in reversed(left)], vectors[left[::-1]])
    fresh.save()
    assert files(current_generation(tmp_path / "grown")) == files(current_generation(tmp_path / "fresh"))
    assert len(opened(tmp_path / "grown").chunk_ids) == 26


def test_stats_count_chunks_and_documents(tmp_path, chunks, vectors):
    store = opened(tmp_path)
    store.add(chunks, vectors)
    store.save()
    assert store.stats() == {
        "chunks": 30, "documents": 10, "dim": 16, "kind": "flat", "embedder": "e" * 64, "generation": "gen-000001",
    }  # fmt: skip


def test_a_store_can_be_emptied_and_filled_again(tmp_path, chunks, vectors):
    store = opened(tmp_path)
    store.add(chunks, vectors)
    store.save()
    store.delete([c.id for c in chunks])
    store.save()
    store = opened(tmp_path)
    assert store.chunk_ids == []
    assert store.search(vectors[:1], 3) == [[]]
    store.add(chunks[:2], vectors[:2])
    store.save()
    assert len(opened(tmp_path).chunk_ids) == 2


@pytest.mark.parametrize("name", ["vectors.npy", "payload.jsonl", "index.faiss", "store.json", "index.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_generation_is_refused(tmp_path, chunks, vectors, name, damage):
    store = opened(tmp_path)
    store.add(chunks, vectors)
    store.save()
    path = current_generation(tmp_path) / name
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"e" if name.endswith("json") else raw[-40])] ^= 1
    path.write_bytes(raw[: len(raw) // 2] if damage == "cut" else raw)
    if damage == "gone":
        path.unlink()
    with pytest.raises(BadInput):
        opened(tmp_path)


def test_a_writer_that_dies_leaves_the_last_generation(tmp_path):
    first = publish_generation(tmp_path, lambda folder: (folder / "a").write_text("1"))

    def dies(folder):
        (folder / "a").write_text("2")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish_generation(tmp_path, dies)
    assert current_generation(tmp_path) == first
    second = publish_generation(tmp_path, lambda folder: (folder / "a").write_text("3"))
    assert current_generation(tmp_path) == second
    assert not list(tmp_path.glob(".new-*"))


def test_only_the_last_generations_are_kept(tmp_path):
    for i in range(5):
        publish_generation(tmp_path, lambda folder, i=i: (folder / "a").write_text(str(i)))
    assert sorted(p.name for p in tmp_path.glob("gen-*")) == ["gen-000004", "gen-000005"]


def test_a_pointer_to_nowhere_is_refused(tmp_path):
    assert current_generation(tmp_path) is None
    for name in ("gen-000009", "../elsewhere", ""):
        (tmp_path / "CURRENT").write_text(name)
        with pytest.raises(BadInput, match="CURRENT"):
            current_generation(tmp_path)

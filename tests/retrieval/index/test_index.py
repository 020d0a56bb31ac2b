"""The index finds what exact arithmetic finds, and nothing damaged or foreign is ever loaded."""

import json

import numpy as np
import pytest

from data.nouns import digest
from raft_errors import BadInput
from retrieval.index.faiss_index import build_index, open_index

EMBEDDER = {"digest": "e" * 64, "dim": 16}


def unit_vectors(count: int, dim: int = 16, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def ids_of(count: int) -> list[str]:
    return [digest("chunk", str(i)) for i in range(count)]


@pytest.fixture
def built(tmp_path):
    vectors, ids = unit_vectors(300), ids_of(300)
    build_index(vectors, ids, tmp_path, embedder=EMBEDDER)
    return tmp_path, vectors, ids


def test_hits_are_those_of_exact_arithmetic_in_rank_order(built):
    folder, vectors, ids = built
    queries = unit_vectors(20, seed=1)
    scores = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    for row, hits in zip(scores, open_index(folder, expect_embedder="e" * 64).search(queries, 7)):
        best = np.argsort(-row)[:7]
        assert [h.chunk_id for h in hits] == [ids[i] for i in best]
        assert [h.rank for h in hits] == list(range(1, 8))
        np.testing.assert_allclose([h.score for h in hits], row[best], atol=1e-6)


def test_a_query_gets_the_same_hits_alone_and_in_a_batch(built):
    index = open_index(built[0], expect_embedder=None)
    queries = unit_vectors(100, seed=2)
    assert index.search(queries, 5) == [index.search(queries[i : i + 1], 5)[0] for i in range(100)]


def test_equal_vectors_are_ordered_by_chunk_id_however_many_there_are(tmp_path):
    vectors = np.repeat(unit_vectors(2), [90, 10], axis=0)
    ids = ids_of(100)
    build_index(vectors, ids, tmp_path, embedder=EMBEDDER)
    (hits,) = open_index(tmp_path, expect_embedder=None).search(vectors[:1], 5)
    assert [h.chunk_id for h in hits] == sorted(ids[:90])[:5]
    assert len({h.score for h in hits}) == 1


def test_k_beyond_the_index_gives_all_there_is(built):
    hits = open_index(built[0], expect_embedder=None).search(built[1][:2], 1000)
    assert [len(ranking) for ranking in hits] == [300, 300]
    assert {h.chunk_id for h in hits[0]} == set(built[2])


def test_the_same_vectors_give_the_same_files(built, tmp_path_factory):
    folder, vectors, ids = built
    second = tmp_path_factory.mktemp("again")
    build_index(vectors, ids, second, embedder=EMBEDDER)
    for name in ("index.faiss", "index.json"):
        assert (folder / name).read_bytes() == (second / name).read_bytes()


def test_reading_from_disk_gives_what_reading_into_memory_gives(built):
    folder, vectors, _ = built
    first, second = open_index(folder, expect_embedder=None), open_index(folder, expect_embedder=None, mmap=True)
    assert first.search(vectors[:30], 5) == second.search(vectors[:30], 5)
    assert first.chunk_ids == second.chunk_ids


def test_only_allowed_chunks_are_found(built):
    folder, vectors, ids = built
    index = open_index(folder, expect_embedder=None)
    (hits,) = index.search(vectors[:1], 10, allowed=[*ids[5:12], digest("not in the index")])
    assert sorted(h.chunk_id for h in hits) == sorted(ids[5:12])
    assert index.search(vectors[:2], 10, allowed=[]) == [[], []]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "swap", "gone"])
def test_a_damaged_index_file_is_refused_before_use(built, damage, tmp_path_factory):
    path = built[0] / "index.faiss"
    raw = bytearray(path.read_bytes())
    if damage == "flip":
        raw[len(raw) // 2] ^= 1
    elif damage == "cut":
        raw = raw[:-10]
    elif damage == "empty":
        raw = bytearray()
    elif damage == "swap":
        other = tmp_path_factory.mktemp("other")
        build_index(unit_vectors(300, seed=9), built[2], other, embedder=EMBEDDER)
        raw = bytearray((other / "index.faiss").read_bytes())
    path.write_bytes(raw)
    if damage == "gone":
        path.unlink()
    with pytest.raises(BadInput, match=r"index\.faiss"):
        open_index(built[0], expect_embedder=None)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1}'])
def test_a_damaged_manifest_is_refused(built, text):
    (built[0] / "index.json").write_text(text)
    with pytest.raises(BadInput, match=r"index\.json"):
        open_index(built[0], expect_embedder=None)


@pytest.mark.parametrize(("field", "value"), [("ntotal", 299), ("dim", 17), ("metric", "l2"), ("normalised", False)])
def test_a_manifest_that_contradicts_the_index_is_refused(built, field, value):
    path = built[0] / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(BadInput):
        open_index(built[0], expect_embedder=None)


def test_an_index_of_another_embedder_is_refused(built):
    with pytest.raises(BadInput, match="embedder"):
        open_index(built[0], expect_embedder="f" * 64)


def test_a_folder_without_index_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match="no index"):
        open_index(tmp_path, expect_embedder=None)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_refused(built, tmp_path, value):
    folder, vectors, ids = built
    bad = vectors.copy()
    bad[17, 3] = value
    with pytest.raises(BadInput, match="row 17"):
        build_index(bad, ids, tmp_path / "new", embedder=EMBEDDER)
    with pytest.raises(BadInput, match="row 17"):
        open_index(folder, expect_embedder=None).search(bad, 3)


def test_wrong_shapes_ids_and_k_are_bad_input(built, tmp_path):
    folder, vectors, ids = built
    index = open_index(folder, expect_embedder=None)
    with pytest.raises(BadInput, match="shape"):
        index.search(unit_vectors(2, dim=8), 3)
    with pytest.raises(BadInput, match="k is 0"):
        index.search(vectors[:1], 0)
    for wrong, message in (
        (ids[:-1], "299 chunk ids"),
        ([*ids[:-1], ids[0]], "twice"),
        ([*ids[:-1], "xyz"], "malformed"),
        ([*ids[:-1], "f" * 16], "malformed"),
        ([*ids[:-1], "12"], "malformed"),
    ):
        with pytest.raises(BadInput, match=message):
            build_index(vectors, wrong, tmp_path / "new", embedder=EMBEDDER)
    with pytest.raises(BadInput, match="unit length"):
        build_index(vectors * 2, ids, tmp_path / "new", embedder=EMBEDDER)
    with pytest.raises(BadInput, match="nothing"):
        build_index(vectors[:0], [], tmp_path / "new", embedder=EMBEDDER)


@pytest.mark.parametrize("kind", ["ivf_flat", "ivf_sq8"])
def test_an_approximate_index_reaches_its_recall_target(tmp_path, kind):
    vectors, ids = unit_vectors(4000), ids_of(4000)
    manifest = build_index(vectors, ids, tmp_path, embedder=EMBEDDER, kind=kind, target_recall=0.9)
    assert manifest["settings"]["recall_at_10"] >= 0.9
    assert manifest["settings"]["nprobe"] > 1
    index = open_index(tmp_path, expect_embedder=None)
    queries = unit_vectors(100, seed=3)
    truth = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    hits = index.search(queries, 10)
    recall = np.mean([len({ids[i] for i in t} & {h.chunk_id for h in f}) / 10 for t, f in zip(truth, hits)])
    assert recall >= 0.8
    assert index.chunk_ids == sorted(ids)
    (few,) = index.search(queries[:1], 10, allowed=ids[:4])
    assert {h.chunk_id for h in few} <= set(ids[:4])

"""Shards embedded elsewhere: the same bytes as here, each counted once, whatever happens to a worker."""

from collections import Counter

import numpy as np
import pytest
import shard_work

from data.nouns import MemoryCache
from raft_errors import RaftError
from retrieval.embedding import shards
from retrieval.embedding.embedder import Embedder
from retrieval.embedding.shards import dask_executor, embed_shards, local_pool

TEXTS = [f"The red tower number {number} stands by the harbour." for number in range(22)]


class CountingCache(MemoryCache):
    """Counts how often each key was stored."""

    def __init__(self):
        super().__init__()
        self.stored = Counter()

    def put_many(self, items):
        self.stored.update(list(items))
        super().put_many(items)


@pytest.fixture(scope="module")
def embedder(tiny_model):
    return Embedder.load(tiny_model, device="cpu", precision="float32")


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_TEXTS", 4)


def spread(embedder, texts, cache, open_executor=lambda: local_pool(2), **more):
    return embed_shards(embedder, texts, open_executor, cache=cache, **more)


@pytest.mark.slow
def test_a_killed_worker_costs_its_shard_and_every_shard_is_counted_once(embedder, tmp_path):
    cache = CountingCache()
    texts = [*TEXTS, f"fatal {tmp_path / 'marker'}"]
    assert spread(embedder, [*texts, TEXTS[0]], cache, work=shard_work.vectors_of) == len(texts)
    assert (tmp_path / "marker").exists()
    assert set(cache.stored.values()) == {1}
    assert len(cache.items) == len(texts)
    done = embedder.embed(texts, cache=cache)
    assert (done.computed, done.reused) == (0, len(texts))
    assert np.array_equal(done.vectors[:-1], shard_work.vectors_of(None, TEXTS).vectors)
    assert spread(embedder, texts, cache, work=shard_work.always_fatal) == 0


@pytest.mark.slow
def test_what_is_finished_is_kept_when_workers_go_on_dying(embedder):
    cache = CountingCache()
    half = TEXTS[:8]
    spread(embedder, half, cache, work=shard_work.vectors_of)
    with pytest.raises(RaftError, match="killed 3 times; 14 of 14 passages are missing"):
        spread(embedder, TEXTS, cache, lambda: local_pool(1), work=shard_work.always_fatal)
    assert len(cache.items) == 8


def test_a_fault_in_the_work_is_told_and_not_tried_again(embedder):
    with pytest.raises(ValueError, match="will not do"):
        spread(embedder, TEXTS, MemoryCache(), lambda: local_pool(1), work=shard_work.refused)


@pytest.mark.slow
def test_another_process_gives_the_same_bytes(embedder):
    cache = MemoryCache()
    assert spread(embedder, TEXTS, cache, lambda: local_pool(1), threads=1) == len(TEXTS)
    assert embedder.embed(TEXTS, cache=cache).vectors.tobytes() == embedder.encode(TEXTS).tobytes()


def test_a_cluster_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(shards, "CONNECT_SECONDS", 1)
    with pytest.raises(RaftError, match="Dask"):
        dask_executor("tcp://127.0.0.1:9")


@pytest.mark.heavy
def test_a_killed_dask_worker_costs_its_shard_and_every_shard_is_counted_once(embedder, tmp_path):
    distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    cache = CountingCache()
    texts = [*TEXTS, f"fatal {tmp_path / 'marker'}"]
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, local_directory=str(tmp_path)
    ) as cluster:
        address = cluster.scheduler_address
        done = spread(embedder, texts, cache, lambda: dask_executor(address), work=shard_work.vectors_of)
        assert done == len(texts)
        assert (tmp_path / "marker").exists()
        assert set(cache.stored.values()) == {1}
        assert spread(embedder, ["One more tower."], cache, lambda: dask_executor(address)) == 1
    assert (
        embedder.embed(["One more tower."], cache=cache).vectors.tobytes()
        == embedder.encode(["One more tower."]).tobytes()
    )

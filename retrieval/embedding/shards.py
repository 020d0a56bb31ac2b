"""Embeds many passages on several processes, devices or machines: shards of texts go out, finished vectors come back.

A finished shard is committed to the cache at once and is never computed again, whatever happens to the worker or to us.
The caller decides who runs the shards: any `concurrent.futures.Executor`, that of a Dask client included.
"""

from __future__ import annotations

import functools
import logging
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any

from data.nouns import ItemCache, Progress
from raft_errors import RaftError
from raft_names import SAFE_PATH
from retrieval.embedding.embedder import Embedder, Embeddings

log = logging.getLogger("raft.retrieval")

SHARD_TEXTS = 1024  # a minute or so of a CPU core
CONNECT_SECONDS = 20
ATTEMPTS = 3  # pools that may break before we give up


@dataclass(frozen=True)
class Model:
    """What a worker loads, so that it computes the bytes that the caller's own embedder would.

    Attributes:
        threads: of torch in each worker; 0 keeps its default.
    """

    folder: str
    device: str
    precision: str
    rows: int
    threads: int = 0

    @classmethod
    def of(cls, embedder: Embedder, threads: int = 0) -> Model:
        info = embedder.info
        return cls(str(embedder.folder), info.device, info.precision, embedder.rows, threads)


def embed_shard(model: Model, texts: Sequence[str]) -> Embeddings:
    """The work of one task; the model is loaded once in a process."""
    return _embedder_of(model).embed(texts)


@functools.lru_cache(maxsize=1)
def _embedder_of(model: Model) -> Embedder:
    import torch

    if model.threads:
        torch.set_num_threads(model.threads)
    return Embedder.load(Path(model.folder), device=_own_device(model), precision=model.precision, rows=model.rows)


def _own_device(model: Model) -> str:
    """With several GPUs the processes of a pool take them in turn."""
    import torch

    number = multiprocessing.current_process()._identity
    if model.device != "cuda" or not number or torch.cuda.device_count() < 2:
        return model.device
    return f"cuda:{(number[0] - 1) % torch.cuda.device_count()}"


def embed_shards(
    embedder: Embedder,
    texts: Sequence[str],
    open_executor: Callable[[], Executor],
    *,
    cache: ItemCache,
    progress: Progress | None = None,
    threads: int = 0,
    work: Callable[[Model, Sequence[str]], Embeddings] = embed_shard,
) -> int:
    """Embeds the passages that the cache lacks, puts them there, and returns how many there were, each counted once.

    Args:
        open_executor: opens what runs the tasks; called again if a pool breaks because a worker was killed.
        cache: the one that `embedder.embed` gets afterwards.

    Raises:
        RaftError: workers were killed in three pools in a row; finished shards are kept.
    """
    todo = embedder.missing(texts, cache)
    model, total, done = Model.of(embedder, threads), len(todo), 0
    for _ in range(ATTEMPTS):
        shards = [todo[begin : begin + SHARD_TEXTS] for begin in range(0, len(todo), SHARD_TEXTS)]
        if not shards:
            return done
        try:
            with open_executor() as executor:
                waiting: dict[Future[Embeddings], list[str]] = {executor.submit(work, model, s): s for s in shards}
                for future in as_completed(waiting):
                    shard = waiting[future]
                    embedder.remember(shard, future.result(), cache)
                    done += len(shard)
                    if progress:
                        progress(done, total, "texts")
        except BrokenProcessPool:
            log.warning("a worker was killed while it embedded: starting the unfinished shards again")
        todo = embedder.missing(todo, cache)
    if todo:
        raise RaftError(
            f"Embedding workers were killed {ATTEMPTS} times; {len(todo)} of {total} passages are missing",
            do="give them more memory or lower embed.workers, then run again: finished passages are kept",
        )
    return done


class _Worker(SpawnProcess):
    """A spawned process that does not look for modules in the working folder."""

    @staticmethod
    def _Popen(process: Any) -> Any:  # noqa: N802 - multiprocessing's name for how a process is started
        setting = os.environ.get("PYTHONSAFEPATH")
        os.environ["PYTHONSAFEPATH"] = setting or SAFE_PATH
        try:
            return SpawnProcess._Popen(process)
        finally:
            if setting is None:
                del os.environ["PYTHONSAFEPATH"]


class _Workers(SpawnContext):
    Process = _Worker


def local_pool(workers: int) -> ProcessPoolExecutor:
    """Fresh processes on this machine (spawned: torch's threads do not survive a fork)."""
    return ProcessPoolExecutor(workers, mp_context=_Workers())


def threads_each(workers: int) -> int:
    """This machine's cores shared out."""
    return max(1, (os.cpu_count() or 1) // workers)


def dask_executor(address: str) -> Any:
    """The workers of a Dask cluster; a task whose worker dies is given to another one.

    Each worker needs this project installed and the model at the same path.

    Raises:
        RaftError: the extra is not installed, or nobody answers at the address.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise RaftError("Dask is not installed", do="pip install 'jora-raft[cluster]'") from error
    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise RaftError(
            f"No Dask scheduler answers at {address} ({error})",
            do="start one (`dask scheduler`), or correct embed.cluster",
        ) from error
    return client.get_executor(pure=False)

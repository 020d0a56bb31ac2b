"""A stage as a Prefect task: Prefect shows, skips, retries and locks by the stage's key; the store stays the truth.

A Prefect record only names a store entry; reading it verifies that entry, so a record without its artefact is no hit.
With `tasks.prefect.artifacts` the only module below `flows` that imports Prefect; nothing imports it where every stage
is cached.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from prefect import task
from prefect.cache_policies import CachePolicy
from prefect.serializers import Serializer
from prefect.tasks import Task, exponential_backoff
from prefect.transactions import IsolationLevel

from tasks.build.events import Finished, Reporter, Waiting, silent, voice_of
from tasks.build.stage import ATTEMPTS, BACKOFF_SECONDS, Request, Stage, build, fetched, is_transient
from tasks.prefect.artifacts import in_pages, publish
from tasks.store.locks import POLL_SECONDS, FileLock
from tasks.store.manifest import Manifest
from tasks.store.store import Store

_active: list[Store] = []  # the store of this process: records hold stage and key, never a place


class ManifestSerializer(Serializer):
    """Stores (stage, key); reading looks the manifest up and verifies it. Exceptions become text, never a pickle."""

    type: Literal["raft-manifest-v1"] = "raft-manifest-v1"

    def dumps(self, obj: Any) -> bytes:
        if isinstance(obj, Manifest):
            return json.dumps({"stage": obj.stage, "key": obj.key}).encode()
        return json.dumps({"error": f"{type(obj).__name__}: {obj}"}).encode()

    def loads(self, blob: bytes) -> Manifest:
        row = json.loads(blob)
        if "error" in row:
            raise ValueError(row["error"])
        manifest, wrong = _active[-1].inspect(row["stage"], row["key"])
        if manifest is None:  # Prefect takes any error here as "no record" and runs the task: guarded by a test
            raise ValueError(f"{row['stage']}/{row['key']}: {wrong or 'not in the store'}")
        return manifest


class FlockLockManager:
    """Prefect's LockManager over `flock`: the kernel frees the lock when its holder dies, however it dies."""

    def __init__(self, lock_of: Callable[[str], FileLock], reporter: Reporter) -> None:
        self._lock_of, self._reporter = lock_of, reporter
        self._held: dict[str, tuple[str, FileLock]] = {}
        self._mutex = threading.Lock()

    def __deepcopy__(self, memo: dict) -> FlockLockManager:
        return self  # CachePolicy.configure copies policies; a copied lock would be another lock

    def acquire_lock(
        self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ) -> bool:
        if self.is_lock_holder(key, holder):
            return True
        lock = self._lock_of(key)
        stage = key.partition("-")[0]
        if not lock.acquire(acquire_timeout, on_wait=lambda who: self._reporter(Waiting(stage, who))):
            return False
        with self._mutex:
            self._held[key] = (holder, lock)
        return True

    async def aacquire_lock(
        self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ) -> bool:
        return await asyncio.to_thread(self.acquire_lock, key, holder, acquire_timeout, hold_timeout)

    def release_lock(self, key: str, holder: str) -> None:
        with self._mutex:
            if self._held.get(key, ("", None))[0] != holder:
                raise ValueError(f"No lock held by {holder} for {key}")
            _, lock = self._held.pop(key)
        lock.release()

    def is_lock_holder(self, key: str, holder: str) -> bool:
        with self._mutex:
            return self._held.get(key, ("", None))[0] == holder

    def is_locked(self, key: str) -> bool:
        with self._mutex:
            if key in self._held:
                return True
        return not self._lock_of(key).is_free()

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.is_locked(key):
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True

    async def await_for_lock(self, key: str, timeout: float | None = None) -> bool:
        return await asyncio.to_thread(self.wait_for_lock, key, timeout)


@dataclass
class StageKey(CachePolicy):
    """The stage's own key as Prefect's cache key; it is the name of the key's lock file too."""

    def compute_key(self, task_ctx: Any, inputs: dict[str, Any], flow_parameters: dict[str, Any], **kwargs: Any) -> str:
        request: Request = inputs["request"].value
        return f"{request.stage.name}-{request.key()}"


@dataclass(frozen=True)
class Boxed:
    """Keeps Prefect from walking through and copying a request."""

    value: Request


def transient(task: Any, run: Any, state: Any) -> bool:
    """Prefect's retry condition (a plain function, as it demands)."""
    try:
        state.result()
    except Exception as error:  # noqa: BLE001 - the question is which error it was
        return is_transient(error)
    return False


def stage_task(
    stage: Stage, store: Store, reporter: Reporter | None = None, *, force: bool = False
) -> Task[..., Manifest]:
    """A Prefect task `(request: Boxed) -> Manifest`. Call it directly: heavy stages are never submitted to threads."""
    reporter = reporter or silent
    _active[:] = [store]

    def body(request: Boxed) -> Manifest:
        inner = request.value
        key = inner.key()
        if not force and (manifest := store.load(stage.name, key)):  # the record is lost, the artefact is not
            return manifest
        if not force and (manifest := fetched(inner, key, store, reporter)):
            reporter(Finished(manifest, cached=True))
            return manifest
        manifest = build(inner, key, store, in_pages(reporter))
        reporter(Finished(manifest, cached=False))
        publish(manifest, voice_of(reporter))
        return manifest

    policy = StageKey(
        isolation_level=IsolationLevel.SERIALIZABLE,
        lock_manager=FlockLockManager(lambda key: store.lock(*key.split("-", 1)), reporter),
    )
    return task(
        name=stage.name,
        task_run_name=stage.name,
        cache_policy=policy,
        persist_result=True,
        cache_result_in_memory=False,
        result_serializer=ManifestSerializer(),
        refresh_cache=force or None,
        retries=ATTEMPTS - 1,
        retry_delay_seconds=exponential_backoff(backoff_factor=BACKOFF_SECONDS),
        retry_jitter_factor=0.5,
        retry_condition_fn=transient,
        log_prints=False,
    )(body)

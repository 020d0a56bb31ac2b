"""Garbage collection of the store: what nothing needs any more, and its removal, whole or not at all.

Needed is what the registry keeps (promoted, candidates, the version a rollback returns to), what the given runs would
take from the store, the last finished run of every domain, the newest result of every stage, and everything these were
built from. `plan` deletes nothing.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from data.text.counts import counted
from raft_errors import RaftError
from tasks.adapters.registry import needed
from tasks.store import finished
from tasks.store.locks import FileLock
from tasks.store.manifest import MANIFEST, Link
from tasks.store.store import Store

Entry = tuple[str, str]  # stage, key
DAY_SECONDS = 86_400.0


@dataclass(frozen=True)
class Thing:
    """A folder of the store.

    Attributes:
        kind: `result` (a stage's folder), `checkpoint` (of a build that never ended), `leftover` (of one that died).
        why: it is kept, or goes.
    """

    kind: str
    stage: str
    key: str
    folder: Path
    bytes: int
    why: str

    def to_dict(self) -> dict[str, str | int]:
        return {**self.__dict__, "folder": str(self.folder)}


@dataclass(frozen=True)
class Plan:
    """What stays and what goes."""

    keep: tuple[Thing, ...]
    drop: tuple[Thing, ...]

    @property
    def freed(self) -> int:
        return sum(thing.bytes for thing in self.drop)


def plan(store: Store, runs: Iterable[Link] = (), days: float = 0.0) -> Plan:
    """Looks at everything in the store.

    Args:
        runs: results that must stay, with all they were built from.
        days: what was published within so many days stays too.
    """
    reasons = wanted(store, runs, days)
    keep: list[Thing] = []
    drop: list[Thing] = []
    for folder in sorted((store.root / "store").glob("*/*")):
        stage, name = folder.parent.name, folder.name
        if name.startswith("."):
            key = name[1:].split(".")[0]
            drop.append(Thing("leftover", stage, key, folder, size(folder), "its build died"))
        elif why := reasons.get((stage, name)):
            keep.append(Thing("result", stage, name, folder, size(folder), why))
        else:
            readable = store.read(stage, name) is not None
            why = "no run, adapter or newer result needs it" if readable else f"its {MANIFEST} cannot be read"
            drop.append(Thing("result", stage, name, folder, size(folder), why))
    for stage_folder in sorted((store.root / "work").glob("*")):
        folders = sorted((f for f in stage_folder.iterdir() if f.is_dir()), key=_touched, reverse=True)
        for place, folder in enumerate(folders):
            # the newest is what an interrupted run goes on from
            fresh = place == 0 or time.time() - _touched(folder) < days * DAY_SECONDS
            thing = Thing("checkpoint", stage_folder.name, folder.name, folder, size(folder), _CHECKPOINT[fresh])
            (keep if fresh else drop).append(thing)
    return Plan(tuple(keep), tuple(drop))


_CHECKPOINT = {True: "an interrupted run goes on from it", False: "a later run was interrupted at this stage"}


def wanted(store: Store, runs: Iterable[Link], days: float) -> dict[Entry, str]:
    """`{(stage, key): why}` of all that must stay, parents included."""
    roots: dict[Entry, str] = {**finished.needed(store), **needed(store)}
    for link in runs:
        roots.setdefault((link.stage, link.key), "the configured run")
    seen: set[str] = set()
    for manifest in store.manifests():
        if manifest.stage not in seen:
            seen.add(manifest.stage)
            roots.setdefault((manifest.stage, manifest.key), "newest of its stage")
        if days and time.time() - _touched(manifest.folder / MANIFEST) < days * DAY_SECONDS:
            roots.setdefault((manifest.stage, manifest.key), f"younger than {counted(float(days), 'day')}")
    return with_parents(store, roots)


def with_parents(store: Store, roots: Mapping[Entry, str]) -> dict[Entry, str]:
    """The roots and everything they were built from, each with the reason of the root that was met first."""
    reasons: dict[Entry, str] = {}
    queue = list(roots.items())
    while queue:
        entry, why = queue.pop(0)
        if entry not in reasons:
            reasons[entry] = why
            if manifest := store.read(*entry):
                queue += [((link.stage, link.key), why) for link in manifest.lineage.values()]
    return reasons


def collect(store: Store, runs: Iterable[Link] = (), days: float = 0.0) -> Plan:
    """Makes the plan anew and carries it out; refuses before the first deletion while any run is at work.

    Raises:
        RaftError: a run holds a lock; nothing was deleted.
    """
    with alone(store):
        outcome = plan(store, runs, days)
        remove(store, outcome.drop)
    return outcome


def remove(store: Store, things: Iterable[Thing]) -> None:
    """Deletes the folders. The caller is `alone` in the store.

    Each is renamed out of the way first, so that it is there whole or not at all; what a crash leaves renamed is a
    leftover that the next run or collection removes.

    Raises:
        RaftError: somebody builds one of them; nothing was deleted.
    """
    things = list(things)
    with contextlib.ExitStack() as stack:
        for entry in dict.fromkeys((thing.stage, thing.key) for thing in things):
            lock = store.lock(*entry)
            if not lock.acquire(timeout_seconds=0):
                raise busy(store, lock)
            stack.callback(lock.release)
        for thing in things:
            away = thing.folder
            if not away.name.startswith("."):
                away = away.with_name(f".{thing.key}.gone")
                shutil.rmtree(away, ignore_errors=True)
                thing.folder.rename(away)
            shutil.rmtree(away, ignore_errors=True)
    finished.tidy(store)


@contextlib.contextmanager
def alone(store: Store) -> Iterator[None]:
    """Nobody else runs or collects in the store during the block; runs that want to start wait.

    Raises:
        RaftError: a run is at work.
    """
    store.prepare()
    lock = store.running()
    if not lock.acquire(timeout_seconds=0):
        raise busy(store, lock)
    try:
        yield
    finally:
        lock.release()


def busy(store: Store, lock: FileLock) -> RaftError:
    """The error of a store that is in use."""
    holder = lock.holder()
    who = f" by {holder}" if holder else ""
    return RaftError(
        f"The store {store.root} is in use{who} ({lock.path.stem}); nothing was deleted",
        do="wait until the run has ended, or stop it, and try again",
    )


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(p.lstat().st_size for p in folder.rglob("*") if not p.is_dir())


def _touched(path: Path) -> float:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return 0.0

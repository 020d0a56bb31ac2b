"""Versions of an adapter with their states, and the pointer to the promoted one, switched atomically.

Everything about the adapter NAME is one file, `<store>/registry/NAME/registry.json`: versions (candidate, promoted,
retired), the pointer and the history with reasons. It is replaced as a whole (write, fsync, rename) under the lock
`locks/registry-NAME.lock`, so that concurrent promotions happen one after another and a crash leaves the old state or
the new one. Beside it `promoted` is a symbolic link to the export folder of the promoted version, for servers that need
a path that stays the same. `needed(store)` lists what garbage collection must keep. It knows nothing of gates or
schedules.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from raft_errors import BadInput, RaftError
from tasks.adapters.versions import Adapter, Event, Version, problems, switched, with_state
from tasks.store.access import make_folder, write_whole
from tasks.store.hashing import read_regular
from tasks.store.locks import locked
from tasks.store.manifest import Link, Manifest
from tasks.store.store import Store

FILE = "registry.json"
POINTER = "promoted"


class Registry:
    """The versions of one named adapter in a store."""

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name
        self.folder = root(store) / name

    @property
    def pointer(self) -> Path:
        """Link to the export folder of the promoted version; absent if none is promoted."""
        return self.folder / POINTER

    def read(self) -> Adapter:
        """
        Raises:
            RaftError: the file is damaged, or contradicts itself.
        """
        try:
            adapter = Adapter.model_validate_json(read_regular(self.folder / FILE))
        except FileNotFoundError:
            return Adapter(name=self.name)
        except ValidationError as error:
            raise self._damaged(problems(error)) from error
        except OSError as error:
            raise self._damaged(error.strerror or str(error)) from error
        if adapter.name != self.name:
            raise self._damaged(f"it belongs to {adapter.name}")
        return adapter

    def _damaged(self, why: str) -> RaftError:
        return RaftError(
            f"The registry {self.folder / FILE} is damaged ({why})",
            expected="the file as it was written",
            do="restore it from a copy; versions and their files in the store are untouched",
        )

    def register(
        self, stages: Mapping[str, Manifest | Link], *, reason: str, started_from: int | None = None
    ) -> Version:
        """A new candidate, or the version that has this export already."""
        links = {name: stage if isinstance(stage, Link) else stage.link for name, stage in stages.items()}
        with self._changing() as (adapter, write):
            for version in adapter.versions:
                if version.stages["export"] == links["export"]:
                    return version
            version = Version(
                number=max((v.number for v in adapter.versions), default=0) + 1,
                state="candidate",
                created=now(),
                stages=links,
                started_from=started_from,
                reason=reason,
            )
            event = Event(at=version.created, action="registered", version=version.number, reason=reason)
            versions, history = (*adapter.versions, version), (*adapter.history, event)
            write(adapter.model_copy(update={"versions": versions, "history": history}))
        return version

    def promote(self, number: int, *, reason: str, on_trial: bool = False) -> Adapter:
        """Points to the version and retires the one in use before. Promoting the promoted one changes nothing.

        Raises:
            RaftError: its files are not intact in the store.
        """
        with self._changing() as (adapter, write):
            self._require_files(adapter.version(number))
            if adapter.promoted == number:
                return adapter
            event = Event(at=now(), action="promoted", version=number, reason=reason, was=adapter.promoted)
            return write(switched(adapter, number, event, on_trial, f"replaced by version {number}"))

    def settle(self, number: int, *, reason: str) -> Adapter:
        """Ends the trial of the promoted version, whose smoke test has passed."""
        with self._changing() as (adapter, write):
            if adapter.promoted != number or not adapter.on_trial:
                return adapter
            event = Event(at=now(), action="tested", version=number, reason=reason)
            return write(adapter.model_copy(update={"on_trial": False, "history": (*adapter.history, event)}))

    def roll_back(self, *, reason: str, number: int | None = None) -> Adapter:
        """Points to the version that the promoted one replaced (or to none); the promoted one is retired.

        Args:
            number: roll back only if this is the promoted version, else change nothing.
        Raises:
            BadInput: nothing is promoted.
            RaftError: the files of the earlier version are not intact in the store.
        """
        with self._changing() as (adapter, write):
            if number is not None and adapter.promoted != number:
                return adapter
            if adapter.promoted is None:
                raise BadInput(f"No version of {self.name} is promoted", do="see `raft adapters`")
            target = adapter.before
            if target is not None:
                self._require_files(adapter.version(target))
            event = Event(at=now(), action="rolled back", version=adapter.promoted, reason=reason, was=adapter.promoted)
            return write(switched(adapter, target, event, False, f"rolled back: {reason}"))

    def retire(self, number: int, *, reason: str) -> Adapter:
        """
        Raises:
            BadInput: the version is promoted; roll back or promote another one first.
        """
        with self._changing() as (adapter, write):
            version = adapter.version(number)
            if adapter.promoted == number:
                raise BadInput(
                    f"Version {number} of {self.name} is in use", do="promote another one or roll back first"
                )
            if version.state == "retired":
                return adapter
            event = Event(at=now(), action="retired", version=number, reason=reason)
            return write(
                adapter.model_copy(
                    update={
                        "versions": with_state(adapter.versions, number, "retired", reason),
                        "history": (*adapter.history, event),
                    }
                )
            )

    @contextlib.contextmanager
    def _changing(self) -> Iterator[tuple[Adapter, Callable[[Adapter], Adapter]]]:
        """The present state and what writes the next one, with the registry's lock held."""
        self.store.prepare()
        with locked(self.store.lock("registry", self.name)):
            adapter = self.read()
            self._point(adapter)
            yield adapter, self._write

    def _write(self, adapter: Adapter) -> Adapter:
        make_folder(self.folder)
        write_whole(self.folder / FILE, adapter.model_dump_json(indent=1).encode() + b"\n")
        self._point(adapter)
        return adapter

    def _point(self, adapter: Adapter) -> None:
        """Makes the link agree with the file; the next change repairs it after a crash between the two."""
        version = adapter.in_use
        if os.path.lexists(self.pointer) and not self.pointer.is_symlink():
            raise RaftError(
                f"{self.pointer} is in the way",
                expected="a link to the version in use in this place",
                do="move it away and try again",
            )
        if version is None:
            self.pointer.unlink(missing_ok=True)
            return
        link = version.stages["export"]
        target = os.path.relpath(self.store.folder(link.stage, link.key), self.folder)
        with contextlib.suppress(OSError):
            if str(self.pointer.readlink()) == target:
                return
        temporary = self.folder / f".{POINTER}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        temporary.replace(self.pointer)

    def _require_files(self, version: Version) -> None:
        link = version.stages["export"]
        manifest, wrong = self.store.inspect(link.stage, link.key)
        if manifest is None or manifest.digest != link.digest:
            raise RaftError(
                f"Version {version.number} of {self.name} cannot be used: {wrong or 'its files are not in the store'}",
                expected=f"the export {link.key} with the content {link.digest[:12]}",
                do="build it again (raft run), or choose another version (raft adapters)",
            )


def root(store: Store) -> Path:
    """The folder of all registries of a store."""
    return store.root / "registry"


def adapters(store: Store) -> list[Registry]:
    """Every named adapter of a store, in order of name."""
    return [Registry(store, path.parent.name) for path in sorted(root(store).glob(f"*/{FILE}"))]


def needed(store: Store) -> dict[tuple[str, str], str]:
    """`{(stage, key): why}` of what must stay: candidates, the promoted version, the way back, the frozen test set."""
    reasons: dict[tuple[str, str], str] = {}
    for registry in adapters(store):
        adapter = registry.read()
        if adapter.versions and (test := adapter.versions[0].stages.get("records")):
            reasons[test.stage, test.key] = f"{adapter.name} (frozen test set)"
        for version in adapter.versions:
            why = "rollback target" if version.number == adapter.before else version.state
            if why != "retired":
                for link in version.stages.values():
                    reasons.setdefault((link.stage, link.key), f"{adapter.name} {version.number} ({why})")
    return reasons


def now() -> str:
    """UTC, to the second, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")

"""The artefact store: one content-checked directory per stage and key, published whole or not at all.

Files first, manifest last, one atomic rename; a crash leaves only a temporary directory, which the next holder of the
key's lock removes. The store is the truth about what has been built; it knows nothing of Prefect or of any stage.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from raft_errors import BadInput, RaftError
from tasks.store import access
from tasks.store.disks import (
    NO_SPACE,
    SPARE_BYTES,
    no_space,
    no_space_during_build,
    sync_folder,
    sync_tree,
    write_synced,
)
from tasks.store.hashing import FileHashes, read_regular
from tasks.store.itemcache import SqliteCache
from tasks.store.locks import FileLock
from tasks.store.manifest import ALTERED, MANIFEST, Damage, Manifest, content_of, entries_of, read_manifest, verify
from tasks.store.source_manifest import SourceManifest

_HOW = "docs/pipeline.md, Who may read a store, says how to open it to a group"
_OPEN_IT = f"its owner open it to your group ({_HOW.partition(',')[0]})"


class SharedPlace(Protocol):
    """Another place for results, beside the store: `tasks.store.share`."""

    @property
    def shown(self) -> str:
        """Its address as people may see it."""
        ...

    @property
    def notice(self) -> str:
        """What people should know about it; "" if there is nothing."""
        ...

    def look(self, stage: str, key: str) -> Manifest | None:
        """The manifest there, its files unchecked."""
        ...

    def fetch(self, stage: str, key: str, store: Store) -> Manifest | None:
        """Takes the result into the store."""
        ...

    def put(self, manifest: Manifest) -> None:
        """Puts a result there."""
        ...


class Store:
    """A folder of stage directories, with the locks, scratch folders and item caches that belong to them.

    `share` is another place for results, to look into before a build and to write to after it. `mode` applies if the
    folder is made now; one that exists keeps its own, and everything made in it follows.

    Raises:
        BadInput: it belongs to someone else and is closed to this user.
    """

    def __init__(self, root: Path, share: SharedPlace | None = None, mode: int = access.PRIVATE) -> None:
        self.root = Path(root).absolute()
        self.share = share
        self._mode = mode
        _require_open(self.root)
        self._caches: dict[str, SqliteCache] = {}
        self._hashes: FileHashes | None = None

    def folder(self, stage: str, key: str) -> Path:
        return self.root / "store" / stage / key

    def scratch(self, stage: str, key: str) -> Path:
        """Survives a killed build of the key (checkpoints); removed once the key is published."""
        return self.root / "work" / stage / key

    def lock(self, stage: str, key: str) -> FileLock:
        return FileLock(self.root / "locks" / f"{stage}-{key}.lock")

    def running(self, shared: bool = False) -> FileLock:
        """Held shared by every run while it works, and exclusively by whatever may delete results."""
        return FileLock(self.root / "locks" / "running.lock", shared)

    def cache(self, stage: str) -> SqliteCache:
        if stage not in self._caches:
            with contextlib.suppress(OSError, RaftError):  # the cache itself warns
                access.make_folder(self.root, self._mode)
            of_work = stage not in ("files", "checks")
            path = self.root / "cache" / f"{stage}.sqlite"
            self._caches[stage] = SqliteCache(path, self._stop_when_full) if of_work else SqliteCache(path)
        return self._caches[stage]

    def _stop_when_full(self) -> None:
        """Stops a build whose teacher replies could no longer be kept, nor its result be published on the same disk."""
        if (self.root / "cache").stat().st_dev == self.root.stat().st_dev:
            raise no_space(self.root)

    def drop_caches(self) -> None:
        """Deletes all item caches with everything in them. The caller must be alone in the store."""
        for cache in self._caches.values():
            cache.close()
        self._caches.clear()
        self._hashes = None
        shutil.rmtree(self.root / "cache", ignore_errors=True)

    @property
    def sources(self) -> SourceManifest:
        """Which files each corpus was last read from."""
        return SourceManifest(self.root / "sources.sqlite")

    @property
    def hashes(self) -> FileHashes:
        """The remembered hashes of files; in a store that does not exist yet, nothing is created."""
        if self._hashes is None:
            self._hashes = FileHashes(self.cache("files") if self.root.is_dir() else None)
        return self._hashes

    def prepare(self) -> None:
        """Creates the store.

        Raises:
            BadInput: the place cannot be written.
        """
        try:
            access.make_folder(self.root, self._mode)
            probe = tempfile.TemporaryFile(dir=self.root)  # noqa: SIM115 - closed in the next line
            probe.close()
        except (OSError, RaftError) as error:
            if isinstance(error, OSError) and error.errno in NO_SPACE:
                raise no_space(self.root) from error
            why = error.strerror if isinstance(error, OSError) else error.what
            raise BadInput(
                f"The store {self.root} cannot be written ({why})",
                expected="a folder that you may write",
                do=f"set `store` in the configuration to another folder, or have {_OPEN_IT}"
                if self.root.is_dir()
                else "set `store` in the configuration to another folder",
            ) from error
        self._hashes = None

    def working(self) -> contextlib.AbstractContextManager[None]:
        """What this process and its children create during the block is as open as the store."""
        return access.working_in(self.root)

    @property
    def notice(self) -> str:
        """What the owner should know about who may read the store; "" if it is as configured."""
        mode = access.folder_mode(self.root)
        if mode & 0o007:
            return (
                f"Every user of this machine may read the store {self.root} (mode {mode:o}): "
                f"`chmod o-rwx {self.root}` makes it private"
            )
        if self._mode & 0o020 and not mode & 0o020:
            return (
                f"store_access is group, but the mode {mode:o} that the store {self.root} was made with counts: {_HOW}"
            )
        return ""

    # ---- reading

    def inspect(self, stage: str, key: str) -> tuple[Manifest | None, str]:
        """The verified manifest, or None and what is wrong with the directory ("" if there is none)."""
        folder = self.folder(stage, key)
        try:
            if folder.is_symlink():
                return None, "its folder is a link"
            manifest = read_manifest(folder)
        except FileNotFoundError:
            return (None, f"{MANIFEST} is missing") if folder.is_dir() else (None, "")
        except (OSError, ValueError) as error:
            if ALTERED in str(error):
                return None, f"{MANIFEST} was altered"
            why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
            return None, f"{MANIFEST} cannot be read ({why})"
        try:
            if (manifest.stage, manifest.key) != (stage, key):
                raise Damage(f"{MANIFEST} belongs to {manifest.stage}/{manifest.key}")
            self.verify(manifest)
        except (Damage, OSError) as error:
            return None, str(error)
        return manifest, ""

    def load(self, stage: str, key: str) -> Manifest | None:
        """The manifest, or None if the directory is missing, incomplete or altered in any byte."""
        return self.inspect(stage, key)[0]

    def verify(self, manifest: Manifest, deep: bool = False) -> None:
        """Checks that every file is there with the size and sha256 of the manifest.

        Args:
            deep: read every byte, even if the time stamps say that nothing changed.
        Raises:
            Damage: naming the first file that differs.
        """
        verify(manifest, FileHashes() if deep else self.hashes)

    def read(self, stage: str, key: str) -> Manifest | None:
        """The manifest as it stands, its files unchecked; None if it is missing or unreadable."""
        try:
            return read_manifest(self.folder(stage, key))
        except (OSError, ValueError):
            return None

    def manifests(self, stage: str = "*") -> list[Manifest]:
        """Every readable manifest of a stage (by default of all), newest first; their files are unchecked."""
        by_age: list[tuple[float, Manifest]] = []
        for path in (self.root / "store").glob(f"{stage}/[!.]*/{MANIFEST}"):
            with contextlib.suppress(OSError, ValueError):
                by_age.append((path.stat().st_mtime_ns, read_manifest(path.parent)))
        return [manifest for _, manifest in sorted(by_age, key=lambda row: (-row[0], row[1].stage, row[1].key))]

    def latest(self, stage: str, call: str = "") -> Manifest | None:
        """The most recently published manifest of a stage, whatever its key and state; it shows what changed.

        Args:
            call: the stage's name in the flow, where that is another one.
        """
        return next((m for m in self.manifests(stage) if m.call == call), None)

    # ---- writing

    @contextlib.contextmanager
    def publish(self, stage: str, key: str, describing: tuple[str, ...] = ()) -> Iterator[tuple[Path, Manifest]]:
        """Yields a temporary folder to fill and a manifest to complete; publishes both if the block succeeds.

        Hold the key's lock. After the block the manifest is complete and its folder is the published one. On any error
        the folder is removed and the store is as it was.

        Args:
            describing: names of files that only describe the build; they are verified but not part of the digest.
        Raises:
            RaftError: the disk is full.
        """
        manifest = Manifest(stage=stage, key=key, digest="", files=[])
        with self._placed(manifest) as temporary:
            yield temporary, manifest
            manifest.files = entries_of(temporary, describing)
            manifest.digest = content_of(manifest.files)

    @contextlib.contextmanager
    def receive(self, manifest: Manifest) -> Iterator[Path]:
        """Yields a temporary folder to fill with the files of a manifest from elsewhere; publishes it like our own.

        Hold the key's lock.

        Raises:
            Damage: the files are not those of the manifest; nothing is published.
            RaftError: the disk is full.
        """
        with self._placed(manifest) as temporary:
            yield temporary
            entries = entries_of(temporary, tuple(entry.path for entry in manifest.files if not entry.result))
            if odd := {entry.path for entry in {*entries} ^ {*manifest.files}}:
                raise Damage(f"{min(odd)} is not what {MANIFEST} says")
            if manifest.digest != content_of(manifest.files):
                raise Damage(f"{MANIFEST} was altered")

    @contextlib.contextmanager
    def _placed(self, manifest: Manifest) -> Iterator[Path]:
        """A temporary folder that becomes the published one if the block succeeds."""
        stage, key = manifest.stage, manifest.key
        final = self.folder(stage, key)
        temporary: Path | None = None
        try:
            access.make_folder(self.root, self._mode)
            access.make_folder(final.parent)
            self._collect(stage, key)
            self.require_space(0)
            temporary = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=final.parent))
            temporary.chmod(access.folder_mode(final.parent))  # mkdtemp makes it 0700
            yield temporary
            self.require_space(0)
            write_synced(temporary / MANIFEST, manifest.to_json())
            access.follow_tree(temporary, final.parent)
            sync_tree(temporary)
            if os.path.lexists(final):
                if (twin := self.load(stage, key)) is not None and twin.digest == manifest.digest:
                    for field in Manifest.model_fields:  # of the files that only describe the build the older ones stay
                        setattr(manifest, field, getattr(twin, field))
                    manifest._folder = final
                    return
                final.rename(Path(tempfile.mkdtemp(prefix=f".{key}.old.", dir=final.parent)) / "was")
            temporary.rename(final)
            sync_folder(final.parent)
            manifest._folder = final
            self._collect(stage, key)
        except OSError as error:
            if error.errno in NO_SPACE:
                raise no_space_during_build(error, self.root) from error
            raise
        finally:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)

    def require_space(self, needed_bytes: int) -> None:
        """Raises `RaftError` unless the disk has `needed_bytes` and a small reserve free."""
        free = shutil.disk_usage(self.root).free
        if free < needed_bytes + SPARE_BYTES:
            raise no_space(self.root, free, needed_bytes + SPARE_BYTES)

    def collect_leftovers(self) -> int:
        """Removes temporary folders of builds that died; those of running builds keep their lock and stay."""
        count = 0
        for folder in sorted((self.root / "store").glob("*/.*")):
            stage, key = folder.parent.name, folder.name[1:].split(".")[0]
            lock = self.lock(stage, key)
            if lock.acquire(timeout_seconds=0):
                access.remove(folder)
                count += 1
                lock.release()
        return count

    def _collect(self, stage: str, key: str) -> None:
        for folder in self.folder(stage, key).parent.glob(f".{key}.*"):
            access.remove(folder)


def _require_open(root: Path) -> None:
    """Raises BadInput where this user may not look into the store."""
    try:
        status = root.stat()
        if not stat.S_ISDIR(status.st_mode) or os.access(root, os.R_OK | os.X_OK):
            return
        why = f"it belongs to {access.owner(root)} and has mode {stat.S_IMODE(status.st_mode):o}"
    except PermissionError:
        why = "a folder above it is closed"
    except OSError:  # not made yet, or reported by whatever makes it
        return
    raise BadInput(
        f"The store {root} is closed to you: {why}",
        expected="a store of your own, or one that is open to your group",
        do=f"set `store` in the configuration to another folder, or have {_OPEN_IT}",
    )


def read_json(path: Path) -> Any:
    """The parsed JSON file."""
    return json.loads(read_regular(path).decode("utf-8"))

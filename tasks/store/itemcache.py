"""Work kept per item (file, chunk text, question) in SQLite: a killed stage or a changed corpus costs what is new.

A cache is never a reason to fail, and its bytes are never trusted: every value carries a checksum, a damaged file is
set aside and replaced by an empty one, and a run does without one that cannot be opened or written. Each of these gives
one warning that names the file.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from raft_errors import RaftError
from tasks.store.access import make_file, make_folder, remove
from tasks.store.hashing import irregular

log = logging.getLogger("raft.itemcache")

_BATCH = 500  # below SQLite's limit on bound variables
_SUM_BYTES = 8
_WAIT_SECONDS = 60  # for another process's write
_PARTS = ("", "-wal", "-shm", "-journal")

# What SQLite reports about a file that may be sound: no space, no rights, no path to it, another process's lock.
_OF_THE_PLACE = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
}
_SHORT = {sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS}  # these do mean the file
_without: set[Path] = set()  # files that this process does without, and folders of such files
_full_folders: set[Path] = set()  # folders whose disk was reported as full


class SqliteCache:
    """The `data.nouns.ItemCache` of one stage: one SQLite file in WAL mode, safe between processes and threads.

    Args:
        on_full: called when its disk is full; may raise to stop work that would be lost.
    """

    def __init__(self, path: Path, on_full: Callable[[], None] = lambda: None) -> None:
        self.path = Path(path)
        self._on_full = on_full
        self._mutex = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._inode = 0
        with self._mutex:
            self._guarded(lambda db: None)

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The items that exist and are intact."""
        items: dict[str, bytes] = {}

        def read(db: sqlite3.Connection) -> None:
            for start in range(0, len(keys), _BATCH):
                some = list(keys[start : start + _BATCH])
                marks = ",".join("?" * len(some))
                for key, value in db.execute(f"SELECT key, value FROM items WHERE key IN ({marks})", some):
                    if isinstance(value, bytes) and value[:_SUM_BYTES] == _checksum(key, value[_SUM_BYTES:]):
                        items[key] = value[_SUM_BYTES:]

        with self._mutex:
            self._guarded(read)
        return items

    def put_many(self, items: Mapping[str, bytes]) -> None:
        """Stores all items in one atomic commit, or none of them."""
        rows = [(key, _checksum(key, value) + value) for key, value in items.items()]

        def write(db: sqlite3.Connection) -> None:
            try:
                db.execute("BEGIN IMMEDIATE")
                db.executemany("INSERT OR REPLACE INTO items VALUES (?, ?)", rows)
                db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    if db.in_transaction:  # on a full disk SQLite has rolled back by itself
                        db.execute("ROLLBACK")
                raise

        with self._mutex:
            self._guarded(write)

    def clear(self) -> None:
        """Forgets everything."""

        def delete(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM items")

        with self._mutex:
            self._guarded(delete)

    def close(self) -> None:
        with self._mutex:
            self._shut()

    def _guarded(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """Does the work on the open file, on a new one if that is damaged, or not at all if there can be none."""
        if not _without.isdisjoint((self.path, self.path.parent)):
            return
        for _ in range(2):
            try:
                if self._db is None:
                    self._db = self._open()
                return work(self._db)
            except (sqlite3.ProgrammingError, sqlite3.InterfaceError):
                raise  # a fault of ours, not of the file
            except (sqlite3.Error, OSError, RaftError) as error:
                if not _is_full(error):
                    self._shut()
                if not (is_damage(error) or irregular_part(self.path)):
                    return self._do_without(error)
                try:
                    self._set_aside(error)
                except OSError as failure:
                    return self._do_without(failure)
        self._do_without(None)

    def _open(self) -> sqlite3.Connection:
        make_folder(self.path.parent)
        if what := irregular_part(self.path):
            raise sqlite3.DatabaseError(what)
        make_file(self.path)
        self._inode = self.path.stat().st_ino
        db = sqlite3.connect(self.path, timeout=_WAIT_SECONDS, check_same_thread=False, isolation_level=None)
        try:
            _switch_to_wal(db)
            db.execute("PRAGMA synchronous=NORMAL")
            db.execute("CREATE TABLE IF NOT EXISTS items(key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                db.close()
            raise
        return db

    def _shut(self) -> None:
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
        self._db = None

    def _set_aside(self, error: BaseException) -> None:
        with contextlib.suppress(OSError):
            if self._inode and self.path.stat().st_ino != self._inode:
                return  # another process was faster, and the file there is new
        log.warning("the cache %s is damaged (%s): set aside as *.damaged, starting an empty one", self.path, error)
        set_aside(self.path)
        self._inode = 0

    def _do_without(self, error: BaseException | None) -> None:
        """Warns once. A full disk may have room again later; a folder that cannot be written stays that way."""
        folder = self.path.parent
        if error is not None and _is_full(error):
            self._on_full()
            if folder not in _full_folders:
                log.warning("the cache %s cannot grow (its disk is full): new items are not kept", self.path)
            _full_folders.add(folder)
            return
        locked = getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
        _without.add(self.path if locked or error is None else folder)
        more = "" if locked or error is None else ", and without any other in its folder"
        log.warning(
            "the cache %s cannot be used (%s): going on without it%s", self.path, error or "damaged again", more
        )


def parts_of(path: Path) -> list[Path]:
    """The files of an SQLite database."""
    return [path.with_name(path.name + suffix) for suffix in _PARTS]


def irregular_part(path: Path) -> str:
    """What lies in the place of one of a database's files without being a file, in words; "" if nothing does."""
    for part in parts_of(path):
        with contextlib.suppress(OSError):
            if what := irregular(part.stat()):
                return f"{part.name} is {what}"
    return ""


def set_aside(path: Path) -> None:
    """Renames the files of a database, or what lies in their place, so that nobody opens them again.

    Raises:
        OSError: they cannot be renamed.
    """
    for part in parts_of(path):
        if os.path.lexists(part):
            aside = part.with_name(part.name + ".damaged")
            remove(aside)
            part.rename(aside)


def is_damage(error: BaseException) -> bool:
    """Whether the error lies in the database's bytes or tables, and not in its place."""
    if not isinstance(error, sqlite3.Error):
        return False
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)  # without one it comes from no database of ours
    return code in _SHORT or code & 0xFF not in _OF_THE_PLACE


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL


def _switch_to_wal(db: sqlite3.Connection) -> None:
    # The time limit of a connection does not apply here: if two processes open a new file, SQLite fails one at once.
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _checksum(key: str, body: bytes) -> bytes:
    return hashlib.blake2b(key.encode() + b"\0" + body, digest_size=_SUM_BYTES).digest()

"""Work kept per item (file, chunk text, question) in SQLite: a killed stage or a changed corpus costs what is new.

A value carries its own checksum: a damaged row, or a whole damaged file, is a miss and never an input.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

log = logging.getLogger("raft.itemcache")

_BATCH = 500  # below SQLite's limit on bound variables
_SUM_BYTES = 8
_WAIT_SECONDS = 60  # for another process's write


class SqliteCache:
    """The `data.nouns.ItemCache` of one stage: one SQLite file in WAL mode, safe between processes and threads."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._mutex = threading.Lock()
        try:
            self._db = self._open()
        except sqlite3.OperationalError as error:  # a full disk, a lock: the cache itself may be sound
            raise as_os_error(error, self.path) from error
        except sqlite3.DatabaseError as error:
            self._set_aside(error)
            self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=_WAIT_SECONDS, check_same_thread=False, isolation_level=None)
        _switch_to_wal(db)
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute("CREATE TABLE IF NOT EXISTS items(key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID")
        return db

    def _set_aside(self, error: Exception) -> None:
        log.warning("the item cache %s is damaged (%s): starting an empty one", self.path, error)
        for suffix in ("", "-wal", "-shm"):
            part = self.path.with_name(self.path.name + suffix)
            if part.exists():
                part.replace(part.with_name(part.name + ".damaged"))

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The items that are there and whole."""
        found: dict[str, bytes] = {}
        try:
            with self._mutex:
                for start in range(0, len(keys), _BATCH):
                    some = list(keys[start : start + _BATCH])
                    marks = ",".join("?" * len(some))
                    for key, value in self._db.execute(f"SELECT key, value FROM items WHERE key IN ({marks})", some):
                        body = value[_SUM_BYTES:]
                        if value[:_SUM_BYTES] == _checksum(key, body):
                            found[key] = body
        except sqlite3.DatabaseError as error:
            log.warning("the item cache %s cannot be read (%s): making its items again", self.path, error)
        return found

    def put_many(self, items: Mapping[str, bytes]) -> None:
        """Stores all items in one atomic commit.

        Raises:
            OSError: the disk is full (ENOSPC), or SQLite could not write for another reason (EIO).
        """
        rows = [(key, _checksum(key, value) + value) for key, value in items.items()]
        with self._mutex:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.executemany("INSERT OR REPLACE INTO items VALUES (?, ?)", rows)
                self._db.execute("COMMIT")
            except BaseException as error:
                if self._db.in_transaction:  # on a full disk SQLite has rolled back by itself
                    self._db.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):
                    raise as_os_error(error, self.path) from error
                raise

    def clear(self) -> None:
        """Forgets everything."""
        with self._mutex:
            self._db.execute("DELETE FROM items")

    def close(self) -> None:
        with self._mutex:
            self._db.close()


def _switch_to_wal(db: sqlite3.Connection) -> None:
    # The time limit of a connection does not hold here: of two first openers SQLite fails one at once, so we wait.
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def as_os_error(error: sqlite3.OperationalError, path: Path) -> OSError:
    """What SQLite could not do with a file that may be sound: ENOSPC on a full disk, EIO for the rest."""
    code = errno.ENOSPC if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL else errno.EIO
    return OSError(code, str(error), str(path))


def _checksum(key: str, body: bytes) -> bytes:
    return hashlib.blake2b(key.encode() + b"\0" + body, digest_size=_SUM_BYTES).digest()

"""The SQLite manifest of sources: which files each corpus was last read from, and the ingest that holds their text.

It remembers what no longer is: a file that has vanished is known only here. Losing it loses no result; a damaged one is
put aside and begun anew.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from tasks.itemcache import as_os_error

log = logging.getLogger("raft.tasks")

_TABLES = """
CREATE TABLE IF NOT EXISTS corpora(id TEXT PRIMARY KEY, sources TEXT NOT NULL, ingest TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS files(
    corpus TEXT NOT NULL, source TEXT NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY(corpus, source)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Recorded:
    """What a corpus was last read from: `{source: sha256}`, and the key of the ingest that read it ("" = never)."""

    files: Mapping[str, str] = field(default_factory=dict)
    ingest: str = ""


class SourceManifest:
    """One SQLite file for all corpora of a store."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def read(self, corpus: str) -> Recorded:
        """What is known of a corpus; nothing where there is no file yet. Creates nothing."""
        if not self.path.is_file():
            return Recorded()
        try:
            with closing(sqlite3.connect(self.path, timeout=60)) as db:
                found = db.execute("SELECT ingest FROM corpora WHERE id = ?", (corpus,)).fetchone()
                rows = db.execute("SELECT source, sha256 FROM files WHERE corpus = ?", (corpus,)).fetchall()
        except sqlite3.DatabaseError as error:
            log.warning(
                "the manifest of sources %s cannot be read (%s): nothing is known of earlier runs", self.path, error
            )
            return Recorded()
        return Recorded(dict(rows), found[0]) if found else Recorded()

    def write(self, corpus: str, sources: str, now: Recorded) -> None:
        """Makes `now` what is known, in one transaction; touches nothing where it is known already.

        Raises:
            OSError: the disk is full, or SQLite could not write for another reason; a damaged file is put aside.
        """
        if self.read(corpus) == now:
            return
        try:
            self._write(corpus, sources, now)
        except sqlite3.OperationalError as error:
            raise as_os_error(error, self.path) from error
        except sqlite3.DatabaseError as error:
            aside = self.path.with_name(self.path.name + ".damaged")
            log.warning("the manifest of sources %s is damaged (%s): put aside as %s", self.path, error, aside.name)
            self.path.replace(aside)
            self._write(corpus, sources, now)

    def _write(self, corpus: str, sources: str, now: Recorded) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self.path, timeout=60)) as db, db:
            db.executescript(_TABLES)
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT OR REPLACE INTO corpora VALUES (?, ?, ?)", (corpus, sources, now.ingest))
            db.execute("DELETE FROM files WHERE corpus = ?", (corpus,))
            db.executemany("INSERT INTO files VALUES (?, ?, ?)", [(corpus, s, sha) for s, sha in now.files.items()])

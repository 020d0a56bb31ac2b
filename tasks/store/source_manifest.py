"""The SQLite manifest of sources: which files each corpus was last read from, and the ingest that holds their text.

It remembers what is gone: a vanished file is known only here. Losing it loses no result: a damaged manifest is set
aside and replaced by an empty one, and one that cannot be written costs a warning.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from raft_errors import RaftError
from tasks.store.access import make_file, make_folder
from tasks.store.itemcache import irregular_part, is_damage, set_aside

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
        """What is known about a corpus; nothing if there is no file yet. Creates nothing."""
        if not os.path.lexists(self.path):
            return Recorded()
        try:
            return self._read(corpus)
        except sqlite3.Error as error:
            log.warning("the manifest of sources %s cannot be read (%s): earlier runs are forgotten", self.path, error)
            return Recorded()

    def _read(self, corpus: str) -> Recorded:
        if what := irregular_part(self.path):
            raise sqlite3.DatabaseError(what)
        with closing(sqlite3.connect(self.path, timeout=60)) as db:
            corpus_row = db.execute("SELECT ingest FROM corpora WHERE id = ?", (corpus,)).fetchone()
            rows = db.execute("SELECT source, sha256 FROM files WHERE corpus = ?", (corpus,)).fetchall()
        if not all(isinstance(text, str) for entry in [corpus_row or (), *rows] for text in entry):
            raise sqlite3.DatabaseError("a value is not text")
        return Recorded(dict(rows), corpus_row[0]) if corpus_row else Recorded()

    def write(self, corpus: str, sources: str, now: Recorded) -> None:
        """Records `now` in one transaction; touches nothing if it is recorded already.

        A damaged file is set aside; one that cannot be written gives a warning and stays as it is.
        """
        try:
            try:
                if os.path.lexists(self.path) and self._read(corpus) == now:
                    return
                self._write(corpus, sources, now)
            except sqlite3.Error as error:
                if not (is_damage(error) or irregular_part(self.path)):
                    raise
                log.warning("the manifest of sources %s is damaged (%s): set aside as *.damaged", self.path, error)
                set_aside(self.path)
                self._write(corpus, sources, now)
        except (sqlite3.Error, OSError, RaftError) as error:
            log.warning(
                "the manifest of sources %s cannot be written (%s): this corpus is not recorded as read",
                self.path,
                error,
            )

    def _write(self, corpus: str, sources: str, now: Recorded) -> None:
        make_folder(self.path.parent)
        if what := irregular_part(self.path):
            raise sqlite3.DatabaseError(what)
        make_file(self.path)
        with closing(sqlite3.connect(self.path, timeout=60)) as db, db:
            db.executescript(_TABLES)
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT OR REPLACE INTO corpora VALUES (?, ?, ?)", (corpus, sources, now.ingest))
            db.execute("DELETE FROM files WHERE corpus = ?", (corpus,))
            db.executemany("INSERT INTO files VALUES (?, ?, ?)", [(corpus, s, sha) for s, sha in now.files.items()])

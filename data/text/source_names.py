"""By which names a person may call a source: its own, that of the file it is a part of, and either as it is shown.

A row of a table, a message of a mailbox and a member of an archive are documents of their own (`it.csv#7`,
`old.zip/a.md`), while lists of files name the file (`it.csv`, `old.zip`).
"""

from __future__ import annotations

from pathlib import PurePosixPath

from data.text.shown import shown

_ARCHIVES = {".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz"}


def names_of(source: str) -> tuple[str, ...]:
    """The source itself, the files it is a part of, the innermost first, and each as a terminal shows it."""
    names = [source]
    table, mark, _ = source.rpartition("#")
    if mark and PurePosixPath(table).suffix:
        names.append(table)
    names += [str(parent) for parent in PurePosixPath(names[-1]).parents if parent.suffix.lower() in _ARCHIVES]
    return tuple(dict.fromkeys([*names, *map(shown, names)]))

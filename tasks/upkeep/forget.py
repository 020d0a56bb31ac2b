"""What to do about a document that is to be forgotten, and doing it: retire, delete, say what is left to the user.

What it has touched is found by `tasks.upkeep.touched`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data.loading.sources import expand
from data.text.counts import counted
from data.text.source_names import names_of
from raft_errors import BadInput, RaftError
from tasks.adapters.feedback import feedback_about, forget_feedback
from tasks.adapters.registry import Registry, adapters, now
from tasks.ingest import IngestConfig, corpus_of
from tasks.store.access import make_folder, write_whole
from tasks.store.finished import FOLDER
from tasks.store.store import Store
from tasks.upkeep.gc import alone, remove
from tasks.upkeep.touched import Touched
from tasks.work.ingest import options_of


def plan(touched: Touched, store: Store, source: str, corpus: Sequence[str], ingest: IngestConfig) -> list[str]:
    """The steps to a state in which nothing in use has seen the document, in words.

    Args:
        source: the name that was asked for.
        corpus, ingest: what the configuration reads, and how.
    """
    steps = []
    if still := present(touched, corpus, ingest):
        where = "still read by this configuration"
        steps.append(f"Remove from the corpus: {', '.join(still)} ({where}), then raft ingest --prune.")
    elif kept := sorted(set(_kept(store, corpus, ingest)).intersection(_files(touched))):
        steps.append(f"raft ingest --prune: {', '.join(kept)}, gone from the corpus, would be kept without it.")
    if touched.duplicates:
        steps.append(f"The same text stands in {', '.join(touched.duplicates)}: remove it too if the text must go.")
    used = [a for a in touched.adapters if a.state == "promoted"]
    waiting = [a for a in touched.adapters if a.state == "candidate"]
    if used:
        learned = [a for a in used if a.trained_on]
        which = ", ".join(a.version for a in used)
        why = "learned from it" if learned else "did not train on it, but its index holds it"
        steps.append(f"{which} is in use and {why}: raft retrain (or raft run and raft promote) replaces it.")
        clean = clean_versions(touched, store)
        if clean:
            steps.append(f"Until then, {', '.join(clean)} never saw it: raft promote NUMBER goes back to it at once.")
    if waiting:
        steps.append(f"Do not promote {', '.join(a.version for a in waiting)}: made with it.")
    said = feedback_about(store.root, touched.sources)
    feedback = f" and the {counted(said, 'entry', 'entries')} of feedback on answers over it" if said else ""
    steps.append(
        f"Then raft forget {source!r} --yes deletes the {counted(len(touched.folders), 'result')} it is in{feedback}; "
        "add --caches to empty the item caches as well, which hold its text (work that was remembered there is done "
        "again)."
    )
    steps.append("Copies of the adapters outside this store (exports, uploads, servers) are yours to withdraw.")
    return steps


def present(touched: Touched, corpus: Sequence[str], ingest: IngestConfig) -> list[str]:
    """The files with the documents that the configured corpus still has."""
    try:
        return sorted({item.source for item in expand(corpus, options_of(ingest))}.intersection(_files(touched)))
    except RaftError:
        return []


def _files(touched: Touched) -> set[str]:
    """The documents by every name that a file of theirs may have."""
    return {name for source in touched.sources for name in names_of(source)}


def _kept(store: Store, corpus: Sequence[str], ingest: IngestConfig) -> tuple[str, ...]:
    try:
        return corpus_of(corpus, ingest, store).kept
    except RaftError:
        return ()


def clean_versions(touched: Touched, store: Store) -> list[str]:
    """Versions that the document is not in and whose files are whole."""
    bad = {a.key for a in touched.adapters}
    return [
        f"{registry.name}:{v.number}"
        for registry in adapters(store)
        for v in registry.read().versions
        if v.stages["export"].key not in bad and store.load("export", v.stages["export"].key)
    ]


def carry_out(
    touched: Touched, store: Store, source: str, corpus: Sequence[str], ingest: IngestConfig, *, caches: bool = False
) -> None:
    """Retires the candidates and deletes the results, and the item caches where told.

    Raises:
        BadInput: one of the versions is in use, or the corpus still has the document; nothing is changed then.
    """
    if used := [a.version for a in touched.adapters if a.state == "promoted"]:
        raise BadInput(
            f"{', '.join(used)} is in use and was made with {source}; nothing was deleted",
            do="promote one that was not (raft forget without --yes says how), or roll back first",
        )
    if still := present(touched, corpus, ingest):
        raise BadInput(
            f"The corpus still has {', '.join(still)}: the next run would read it again; nothing was deleted",
            do="remove it from the corpus first",
        )
    with alone(store):
        for adapter in touched.adapters:
            if adapter.version and adapter.state == "candidate":
                name, _, number = adapter.version.rpartition(":")
                Registry(store, name).retire(int(number), reason=f"made with {source}, which is to be forgotten")
        remove(store, touched.folders)
        forget_feedback(store.root, touched.sources)
        if caches:
            store.drop_caches()
        file = forgotten_file(store)
        make_folder(file.parent)
        write_whole(file, f"{now()}\n".encode())


def forgotten_file(store: Store) -> Path:
    """A file that is replaced whenever something was forgotten, for servers that hold texts in memory."""
    return store.root / FOLDER / ".forgotten"

"""The verb `forget`: what a document has touched, what to do about each, and its removal when told so."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows.cli import emit
from flows.config import RunConfig, load_config
from flows.display import table
from flows.verbs import ConfigOption, JsonOption, SetOption
from raft_errors import BadInput, RaftError
from tasks.gc import alone, remove
from tasks.registry import Registry, adapters
from tasks.store import Store
from tasks.touched import Touched, touched


def forget(
    source: Annotated[
        str,
        typer.Argument(help="A document as citations name it, its last parts, or a pattern with *"),
    ],
    yes: Annotated[
        bool, typer.Option("--yes", help="Delete every result it is in; without it nothing is touched")
    ] = False,
    caches: Annotated[
        bool, typer.Option("--caches", help="With --yes: also the item caches, in which its text is kept")
    ] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """List the chunks, questions, records and adapters that a document is in, and plan their retirement."""
    loaded = load_config(config, set_ or [])
    store = Store(Path(loaded.store))
    found = touched(store, source)
    steps = plan(found, loaded, store, source)
    if yes:
        _carry_out(found, loaded, store, source, caches)
    if json:
        emit({"ok": True, "deleted": yes, **found.to_dict(), "plan": steps})
        return
    out = Console(highlight=False)
    _show(out, found)
    if yes:
        freed = sum(thing.bytes for thing in found.folders)
        out.print(f"Deleted {len(found.folders)} results ({freed / 1e6:.1f} MB). The next run makes them without it.")
        return
    out.print("What to do:")
    for number, step in enumerate(steps, 1):
        out.print(f"  {number}. {step}", markup=False)
    out.print("Nothing was changed.")


def plan(found: Touched, config: RunConfig, store: Store, source: str) -> list[str]:
    """The steps to a state in which nothing in use has seen the document, in words."""
    steps = []
    if still := present(found, config):
        where = "it is still read by this configuration"
        steps.append(f"Remove from the corpus: {', '.join(still)} ({where}), then raft ingest --prune.")
    elif kept := sorted(set(_kept(config, store)).intersection(found.sources)):
        steps.append(f"raft ingest --prune: {', '.join(kept)} has vanished from the corpus, but is kept until then.")
    if found.duplicates:
        steps.append(f"The same text stands in {', '.join(found.duplicates)}: remove it too if the text must go.")
    used = [a for a in found.adapters if a.state == "promoted"]
    waiting = [a for a in found.adapters if a.state == "candidate"]
    if used:
        learned = [a for a in used if a.trained_on]
        which = ", ".join(a.version for a in used)
        why = "learned from it" if learned else "did not train on it, but its index holds it"
        steps.append(f"{which} is in use and {why}: raft retrain (or raft run and raft promote) replaces it.")
        clean = clean_versions(found, store)
        if clean:
            steps.append(f"Until then, {', '.join(clean)} never saw it: raft promote NUMBER goes back to it at once.")
    if waiting:
        steps.append(f"Do not promote {', '.join(a.version for a in waiting)}: made with it.")
    steps.append(
        f"Then raft forget {source!r} --yes deletes the {len(found.folders)} results it is in; add --caches to empty "
        "the item caches as well, which hold its text (work that was remembered there is done again)."
    )
    steps.append("Copies of the adapters outside this store (exports, uploads, servers) are yours to withdraw.")
    return steps


def present(found: Touched, config: RunConfig) -> list[str]:
    """The documents that the configured corpus still has."""
    from data.loading.sources import expand

    try:
        return sorted({item.source for item in expand(config.corpus)}.intersection(found.sources))
    except RaftError:
        return []


def _kept(config: RunConfig, store: Store) -> tuple[str, ...]:
    from tasks.ingest import corpus_of

    try:
        return corpus_of(config.corpus, config.ingest, store).kept
    except RaftError:
        return ()


def clean_versions(found: Touched, store: Store) -> list[str]:
    """Versions that the document is not in and whose files are whole."""
    bad = {a.key for a in found.adapters}
    return [
        f"{registry.name}:{v.number}"
        for registry in adapters(store)
        for v in registry.read().versions
        if v.stages["export"].key not in bad and store.load("export", v.stages["export"].key)
    ]


def _carry_out(found: Touched, config: RunConfig, store: Store, source: str, caches: bool) -> None:
    """Retires the versions and deletes the results; refuses while one of them is in use or the corpus has it still."""
    if used := [a.version for a in found.adapters if a.state == "promoted"]:
        raise BadInput(
            f"{', '.join(used)} is in use and was made with {source}; nothing was deleted",
            do="promote one that was not (raft forget without --yes says how), or roll back first",
        )
    if still := present(found, config):
        raise BadInput(
            f"The corpus still has {', '.join(still)}: the next run would read it again; nothing was deleted",
            do="remove it from the corpus first",
        )
    with alone(store):
        for adapter in found.adapters:
            if adapter.version and adapter.state == "candidate":
                name, _, number = adapter.version.rpartition(":")
                Registry(store, name).retire(int(number), reason=f"made with {source}, which is to be forgotten")
        remove(store, found.folders)
        if caches:
            store.drop_caches()


def _show(out: Console, found: Touched) -> None:
    out.print(
        f"{', '.join(found.sources)}: {len(found.chunks)} chunks, {len(found.questions)} questions", soft_wrap=True
    )
    records = [(r.split, r.role, r.id, r.question) for r in found.records]
    if records:
        out.print(table(f"{len(records)} records", ("split", "as", "record", "question"), records))
    adapters = [
        (a.version or "-", a.state, a.key[:8], str(a.trained_on), str(a.tested_on), _verdict(a.trained_on))
        for a in found.adapters
    ]
    if adapters:
        columns = ("version", "state", "export", "trained on", "tested on", "what that means")
        out.print(table(f"{len(adapters)} adapters", columns, adapters))
    out.print()


def _verdict(trained_on: int) -> str:
    return "its weights learned from it: retire" if trained_on else "only its index holds it: build the index again"

"""The verb `ingest`: reads the sources, or with `--dry-run` says what reading them would change."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from data.loading.keeping import file_of
from data.nouns import Chunk, Document, read_jsonl
from flows.cli import emit
from flows.config import RunConfig, load_config
from flows.display import table
from flows.plan import plan
from flows.verbs import ConfigArgument, ForceOption, JsonOption, NoPrefectOption, SetOption, build
from tasks.corpus import vanished
from tasks.ingest import corpus_id, corpus_of
from tasks.store import Manifest, Store

STATES = {
    "new": "will be read",
    "changed": "will be read again; its chunks are replaced",
    "moved": "same bytes under a new name",
    "vanished": "",
    "unchanged": "costs a look at its time stamps",
}


def ingest(
    config: ConfigArgument = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change; change nothing")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Drop the documents of files that have vanished")] = False,
    set_: SetOption = None,
    force: ForceOption = False,
    no_prefect: NoPrefectOption = False,
    json: JsonOption = False,
) -> None:
    """Read the sources into documents. Builds what it needs before."""
    overrides = [*(set_ or []), *(["ingest.prune=true"] if prune else [])]
    if not dry_run:
        build(config, overrides, "ingest", force, no_prefect, json)
        return
    loaded = load_config(config, overrides)
    found = changes(loaded, Store(Path(loaded.store)))
    if json:
        emit({"ok": True, **found})
        return
    out = Console(highlight=False)
    rows = [
        (state, str(len(part["files"])), str(part["chunks"] or ""), part["what"], _few(part["files"]))
        for state, part in found["files"].items()
        if part["files"]
    ]
    out.print(table("", ("files", "number", "chunks now", "what happens", "which"), rows))
    out.print(table("", ("stage", "state", "why"), [(r["stage"], r["state"], r["why"]) for r in found["stages"]]))
    out.print("Nothing was changed.")


def changes(config: RunConfig, store: Store) -> dict[str, Any]:
    """What an ingest would do: the files by state with the chunks that they have now, and the outlook of the stages."""
    corpus = corpus_of(config.corpus, config.ingest, store)
    recorded = store.sources.read(corpus_id(config.corpus, config.ingest))
    kept = set(corpus.kept)
    present = {name: sha for name, sha in corpus.files.items() if name not in kept}
    before = recorded.files
    gone = vanished(before, present)
    moved_from = {sha for name, sha in before.items() if name not in present and name not in gone}
    states: dict[str, list[str]] = {state: [] for state in STATES}
    for name, sha in sorted(present.items()):
        same = before.get(name)
        fresh = "moved" if sha in moved_from else "new"
        states[fresh if same is None else "unchanged" if same == sha else "changed"].append(name)
    states["vanished"] = sorted(gone)
    chunks = _chunks(store, recorded.ingest, before)
    words = {**STATES, "vanished": _fate(config, kept)}
    files = {
        state: {"files": names, "chunks": sum(chunks[name] for name in names), "what": words[state]}
        for state, names in states.items()
    }
    return {"files": files, "kept": list(corpus.kept), "stages": [row.__dict__ for row in plan(config, "index")]}


def _fate(config: RunConfig, kept: set[str]) -> str:
    if config.ingest.prune:
        return "dropped, with the chunks (--prune)"
    return "kept (--prune drops them)" if kept else "dropped: the store holds no document as it would be read today"


def _chunks(store: Store, ingest: str, files: Any) -> Counter[str]:
    """How many chunks each file has in the newest chunking of an ingest; none where it was never chunked."""
    found: Counter[str] = Counter()
    held = store.read("ingest", ingest) if ingest else None
    made = next((m for m in store.manifests("chunk") if _parent(m) == ingest), None)
    if held is None or made is None:
        return found
    owner = {d.id: file_of(d.source, files) for d in read_jsonl(held.path("documents.jsonl"), Document)}
    found.update(owner.get(c.document_id, "") for c in read_jsonl(made.path("chunks.jsonl"), Chunk))
    return found


def _parent(made: Manifest) -> str:
    link = made.lineage.get("ingest")
    return link.key if link else ""


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")

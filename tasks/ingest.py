"""Stage `ingest`: sources into documents; what cannot be read is quarantined with a reason, duplicates are counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from data.loading.keeping import file_of
from data.loading.parsers import PARSERS
from data.nouns import Document, read_jsonl
from data.text.urls import without_secrets
from tasks.build.keys import key_of, result_fields
from tasks.build.section import Section, setting
from tasks.build.stage import Request, Stage
from tasks.inputs.corpus import Corpus, snapshot, vanished
from tasks.store.manifest import Manifest
from tasks.store.source_manifest import Recorded
from tasks.store.store import Store
from tasks.work.ingest import build, options_of

Redacted = Literal["email", "phone", "iban", "card", "secret"]


class IngestConfig(Section):
    """How sources are read."""

    text_field: str | None = setting(None, "Column that holds the text in jsonl, csv and parquet rows; none = by name")
    title_field: str | None = setting(None, "Column that holds the title; none = by name")
    id_field: str | None = setting(None, "Column that identifies a row; none = by name, else the row number")
    max_file_mib: int = setting(200, "Larger files are quarantined unread", unit="MiB", ge=1, le=100_000)
    max_pages: int = setting(5000, "Longer PDF files are quarantined", unit="pages", ge=1)
    max_seconds: float = setting(60.0, "Files that take longer are quarantined", unit="CPU seconds", gt=0, le=3600)
    max_unpacked_mib: int = setting(
        1024, "Zipped documents and archives that unpack to more are quarantined", unit="MiB", ge=1, le=100_000
    )
    max_chars: int = setting(20_000_000, "Longer documents are quarantined", unit="characters", ge=1000)
    max_memory_mib: int = setting(
        4096, "Address space of a process that reads files; a file that needs more is quarantined", unit="MiB", ge=512
    )
    archives: bool = setting(False, "Open zip, tar, gz, bz2 and xz files and read what is in them, one level deep")
    follow_links: bool = setting(
        False, "Follow links that lead out of the folder, glob or file that was named", from_outside=False
    )
    redact: tuple[Redacted, ...] = setting(
        (), "Personal data and secrets to take out, found by patterns", from_outside=False
    )
    redact_patterns: tuple[str, ...] = setting((), "Regular expressions of what else to take out")
    near_duplicates: Literal["keep", "flag", "drop"] = setting(
        "keep", "What to do with documents that resemble an earlier one: flag puts it in their metadata"
    )
    near_threshold: float = setting(
        0.8, "Jaccard similarity of word triples from which documents are near-duplicates", gt=0, le=1
    )
    languages: tuple[str, ...] = setting(
        (),
        "Languages to load, as ISO 639 codes such as [en, de]; documents in others are quarantined, those that do not "
        "tell are loaded; [] = all",
    )
    ocr: bool = setting(
        False,
        "Read PDF pages without a text layer by text recognition, which needs the extra `ocr` and some seconds a page",
    )
    prune: bool = setting(
        False, "Drop the documents of files that have vanished; false keeps them, and says so", result=False
    )
    workers: int | None = setting(
        None, "Processes that read files; none = one a CPU, at most 8", ge=1, le=256, result=False
    )


def corpus_of(sources: Sequence[str], config: IngestConfig, store: Store) -> Corpus:
    """What a run reads now: the files that are there, and those that have vanished and are kept.

    A file is kept where the last ingest of these sources with these settings holds a document of it, and was made by
    the code that is here now: what other rules read is never mixed in.

    Raises:
        BadInput: a source that names nothing.
    """
    present = snapshot(sources, store.hashes, options_of(config))
    recorded = store.sources.read(corpus_id(sources, config))
    gone = {} if config.prune else vanished(recorded.files, present.files)
    if not gone:
        return present
    held = store.load("ingest", recorded.ingest)
    asked = Request(STAGE, config, {"corpus": present}).ingredients()
    if held is None or any(held.ingredients.get(name) != asked[name] for name in ("code", "packages")):
        return replace(present, lost=tuple(sorted(gone)))
    read = {file_of(d.source, recorded.files) for d in read_jsonl(held.path("documents.jsonl"), Document)}
    kept = {name: sha for name, sha in gone.items() if name in read}
    return replace(present, files={**present.files, **kept}, kept=tuple(sorted(kept)), held=held if kept else None)


def remember(corpus: Corpus, config: IngestConfig, manifest: Manifest, store: Store) -> None:
    """Writes down that `made` is the ingest of the corpus; what it does not name is forgotten."""
    now = Recorded(corpus.files, manifest.key)
    store.sources.write(corpus_id(corpus.sources, config), "\n".join(map(without_secrets, corpus.sources)), now)


def corpus_id(sources: Sequence[str], config: IngestConfig) -> str:
    """Stands for sources and the settings they are read with: other settings make a corpus of their own."""
    return key_of({"sources": list(sources), "config": result_fields(config)})


STAGE = Stage(
    "ingest",
    IngestConfig,
    build,
    help="Read the corpus into documents.",
    modules=("data.loading.worker",),
    packages=(*PARSERS, "datasketch"),
)

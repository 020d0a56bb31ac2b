"""Stage `ingest`: sources into documents; what cannot be read is quarantined with a reason, duplicates are counted."""

from __future__ import annotations

from typing import Literal

from data.nouns import write_jsonl
from tasks.corpus import Corpus
from tasks.section import Section, setting
from tasks.stage import Bench, Outcome, Stage, balanced
from tasks.store import write_json

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
    redact: tuple[Redacted, ...] = setting((), "Personal data and secrets to take out, found by patterns")
    redact_patterns: tuple[str, ...] = setting((), "Regular expressions of what else to take out")
    near_duplicates: Literal["keep", "flag", "drop"] = setting(
        "keep", "What to do with documents that resemble an earlier one: flag puts it in their metadata"
    )
    near_threshold: float = setting(
        0.8, "Jaccard similarity of word triples from which documents are near-duplicates", gt=0, le=1
    )
    workers: int | None = setting(
        None, "Processes that read files; none = one a CPU, at most 8", ge=1, le=256, result=False
    )


def build(bench: Bench, config: IngestConfig, corpus: Corpus) -> Outcome:
    """Writes documents.jsonl, quarantine.jsonl and report.json."""
    from data.loading import LoadOptions, corpus_report, load_corpus

    settings = config.model_dump()
    for name in ("file", "unpacked", "memory"):
        settings[f"max_{name}_bytes"] = settings.pop(f"max_{name}_mib") * 2**20
    options = LoadOptions(**settings)
    loaded = load_corpus(corpus.sources, options=options, cache=bench.cache, progress=bench.progress)
    counts = dict(loaded.counts)
    balanced("ingest", counts["found"], counts["loaded"], counts["quarantined"] + counts["duplicates"])
    write_jsonl(bench.out / "documents.jsonl", loaded.documents)
    write_jsonl(bench.out / "quarantine.jsonl", loaded.quarantined)
    write_json(bench.out / "report.json", corpus_report(loaded))
    return Outcome(
        f"{counts['found']} found = {counts['loaded']} loaded + {counts['quarantined']} quarantined "
        f"+ {counts['duplicates']} duplicates",
        counts,
    )


STAGE = Stage(
    "ingest",
    IngestConfig,
    build,
    inputs=("corpus",),
    modules=("data.loading.worker",),
    packages=(
        "pypdfium2",
        "pypdf",
        "trafilatura",
        "selectolax",
        "markitdown",
        "charset-normalizer",
        "datasets",
        "datasketch",
    ),
)

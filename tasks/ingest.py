"""Stage `ingest`: sources into documents; what cannot be read is quarantined with a reason, duplicates are counted."""

from __future__ import annotations

from data.nouns import write_jsonl
from raft_errors import BadInput
from tasks.corpus import Corpus
from tasks.section import Section, setting
from tasks.stage import Bench, Outcome, Stage, balanced
from tasks.store import write_json


class IngestConfig(Section):
    """How sources are read."""

    text_field: str | None = setting(None, "Column that holds the text in jsonl, csv and parquet rows; none = by name")
    title_field: str | None = setting(None, "Column that holds the title; none = by name")
    id_field: str | None = setting(None, "Column that identifies a row; none = by name, else the row number")
    max_file_mib: int = setting(200, "Larger files are quarantined unread", unit="MiB", ge=1, le=100_000)
    max_pages: int = setting(5000, "Longer PDF files are quarantined", unit="pages", ge=1)
    max_seconds: float = setting(60.0, "Files that take longer are quarantined", unit="CPU seconds", gt=0, le=3600)
    workers: int | None = setting(
        None, "Processes that read files; none = one a CPU, at most 8", ge=1, le=256, result=False
    )


def build(bench: Bench, config: IngestConfig, corpus: Corpus) -> Outcome:
    """Writes documents.jsonl, quarantine.jsonl and report.json."""
    from data.loading import LoadOptions, load_corpus

    options = LoadOptions(
        text_field=config.text_field,
        title_field=config.title_field,
        id_field=config.id_field,
        max_file_bytes=config.max_file_mib * 2**20,
        max_pages=config.max_pages,
        max_seconds=config.max_seconds,
        workers=config.workers,
    )
    loaded = load_corpus(corpus.sources, options=options, cache=bench.cache, progress=bench.progress)
    counts = dict(loaded.counts)
    balanced("ingest", counts["found"], counts["loaded"], counts["quarantined"] + counts["duplicates"])
    if not loaded.documents:
        reasons = sorted({q.reason for q in loaded.quarantined})
        raise BadInput(
            f"No readable document in {', '.join(corpus.sources)}: {counts['found']} found, none could be used"
            + (f" ({', '.join(reasons)})" if reasons else ""),
            expected="at least one document with text (txt, md, rst, html, pdf, docx, jsonl, csv, parquet, ...)",
            do="check `corpus` in the configuration",
        )
    write_jsonl(bench.out / "documents.jsonl", loaded.documents)
    write_jsonl(bench.out / "quarantine.jsonl", loaded.quarantined)
    duplicates = [d.to_dict() for d in loaded.duplicates]
    kept = {k: counts[k] for k in ("found", "loaded", "quarantined", "duplicates")}
    write_json(bench.out / "report.json", {"counts": kept, "duplicates": duplicates})
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
    packages=("pypdfium2", "pypdf", "trafilatura", "selectolax", "markitdown", "charset-normalizer", "datasets"),
)

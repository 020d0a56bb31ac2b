"""The work of `ingest`: sources into documents; what cannot be read is quarantined, duplicates are counted."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from data.loading.keeping import file_of, with_kept
from data.loading.options import LoadOptions
from data.nouns import Document, read_jsonl, write_jsonl
from data.text.counts import counted
from tasks.runtime.folders import StageFiles, write_json
from tasks.work.bench import Bench, Outcome, balanced

if TYPE_CHECKING:
    from tasks.ingest import IngestConfig


class CorpusFiles(Protocol):
    """The corpus as an input: what to read, and whether it held still while it was read."""

    @property
    def sources(self) -> tuple[str, ...]: ...

    @property
    def files(self) -> Mapping[str, str]:
        """sha256 of every file by its source name."""
        ...

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of files that have vanished, whose documents are taken from the ingest `held`."""
        ...

    @property
    def held(self) -> StageFiles | None: ...

    def require_as_hashed(self, digests: Mapping[str, str], options: LoadOptions) -> None:
        """Refuses what was read where it is not what the key stands for."""
        ...

    def require_held_as_hashed(self) -> None:
        """The same of the documents of `held`."""
        ...


def build(bench: Bench, config: IngestConfig, corpus: CorpusFiles) -> Outcome:
    """Writes documents.jsonl, quarantine.jsonl and report.json."""
    from data.loading.corpus import load_corpus
    from data.loading.report import corpus_report

    options = options_of(config)
    loaded = load_corpus(corpus.sources, options=options, cache=bench.cache, progress=bench.progress)
    corpus.require_as_hashed(loaded.digests, options)
    if corpus.held is not None:
        loaded = with_kept(loaded, _documents_of(corpus.kept, corpus.held, corpus.files), corpus.files)
        corpus.require_held_as_hashed()
    counts = dict(loaded.counts)
    balanced("ingest", counts["found"], counts["loaded"], counts["quarantined"] + counts["duplicates"])
    write_jsonl(bench.out / "documents.jsonl", loaded.documents)
    write_jsonl(bench.out / "quarantine.jsonl", loaded.quarantined)
    report = corpus_report(loaded)
    write_json(bench.out / "report.json", {**report, "kept": list(corpus.kept)})
    kept = f" ({counts['kept']} of files that have vanished)" if counts.get("kept") else ""
    return Outcome(
        f"{counts['found']} found = {counts['loaded']} loaded{kept} + {counts['quarantined']} quarantined "
        f"+ {counted(counts['duplicates'], 'duplicate')}; {_languages(report['by_language'])}{_warnings(report)}",
        counts,
    )


def options_of(config: IngestConfig) -> LoadOptions:
    """The settings as `data.loading` knows them."""
    settings = config.model_dump(exclude={"prune"})
    for name in ("file", "unpacked", "memory"):
        settings[f"max_{name}_bytes"] = settings.pop(f"max_{name}_mib") * 2**20
    return LoadOptions(**settings)


def _languages(counts: Mapping[str, int]) -> str:
    """`en 70, de 9, unknown 1, 5 others 12`: the four most frequent."""
    named = [f"{language} {count}" for language, count in list(counts.items())[:4]]
    rest = list(counts.values())[4:]
    return ", ".join([*named, *([f"{counted(len(rest), 'other')} {sum(rest)}"] if rest else [])])


def _warnings(report: Mapping[str, Any]) -> str:
    """How many documents are not all there, and where they are named."""
    sources = {entry["source"] for entry in report.get("warnings", ())}
    return f"; {len(sources)} with warnings (report.json)" if sources else ""


def _documents_of(names: Sequence[str], held: StageFiles, files: Collection[str]) -> list[Document]:
    wanted, path = set(names), held.path("documents.jsonl")
    return [document for document in read_jsonl(path, Document) if file_of(document.source, files) in wanted]

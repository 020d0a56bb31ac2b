"""A load in figures: what was found, by format, encoding and reason, for reports and `ingest`'s `report.json`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from data.loading.options import Corpus


def corpus_report(corpus: Corpus) -> dict[str, Any]:
    """JSON values only, in a fixed order: counts, then how they divide."""
    documents = corpus.documents
    redacted: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    warnings = []
    for document in documents:
        redacted.update(document.metadata.get("redacted", {}))
        left_out.update(document.metadata.get("left_out", {}))
        warnings += [{"source": document.source, "warning": line} for line in document.metadata.get("warnings", ())]
    damaged = sum(document.metadata.get("damaged_characters", 0) for document in documents)
    return {
        "counts": dict(corpus.counts),
        "by_media_type": _count(document.media_type for document in documents),
        "by_loader": _count(str(document.metadata.get("loader", "")) for document in documents),
        "by_encoding": _count(str(document.metadata.get("encoding", "binary format")) for document in documents),
        "by_language": _count(str(document.metadata.get("language") or "unknown") for document in documents),
        "quarantined_by_reason": _count(entry.reason for entry in corpus.quarantined),
        "near_duplicates_flagged": sum("near_duplicate_of" in document.metadata for document in documents),
        "redacted": dict(sorted(redacted.items())),
        "pages": sum(len(document.pages) for document in documents),
        "with_headings": sum(bool(document.headings) for document in documents),
        "duplicates": [entry.to_dict() for entry in corpus.duplicates],
        **({"warnings": warnings} if warnings else {}),
        **({"left_out": dict(sorted(left_out.items()))} if left_out else {}),
        **({"damaged_characters": damaged} if damaged else {}),
    }


def _count(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items(), key=lambda entry: (-entry[1], entry[0])))

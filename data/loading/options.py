"""What a load is asked and what it answers: options and limits, quarantined sources, duplicates, the corpus.

Values only: nothing here opens a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from data.nouns import Document, Noun

MEBIBYTE = 1024 * 1024

REASONS = {
    "empty": "there is nothing in it",
    "encrypted": "it needs a password",
    "no-text": "it has pages or rows but no text",
    "unreadable": "it is damaged, hostile or cannot be opened",
    "too-large": "it is over a limit of size, pages, characters or memory",
    "too-slow": "it took longer than the limit",
    "crashed": "the parser died on it",
    "archive": "it is an archive, which is not opened",
    "link": "it is a link that leads out of the corpus folder, and was not followed",
    "unsupported": "its format is not read",
    "language": "it is in a language that was not asked for",
    "bad-line": "one row of a table or JSON Lines file cannot be used",
}
"""The stable reason codes of `Quarantined.reason`, with their meaning."""


@dataclass(frozen=True)
class LoadOptions:
    """Field mapping and limits of a load.

    Attributes:
        text_field, title_field, id_field: columns of jsonl, json, csv and parquet rows; None = found by usual names.
        max_file_bytes: larger files are quarantined unread.
        max_unpacked_bytes: largest sum of member sizes of a zipped document (docx, xlsx, epub, odt) or archive.
        max_pages: most pages of a PDF.
        max_chars: most characters of one document.
        max_seconds: CPU seconds of one file; on the clock it may take twice that and 5 s.
        max_memory_bytes: address space of a worker process.
        archives: open zip, tar, gz, bz2 and xz files and load what is in them (one level deep).
        follow_links: follow links that lead out of the folder, glob or file that was named.
        redact: kinds of personal data and secrets to take out: `email`, `phone`, `iban`, `card`, `secret`.
        redact_patterns: regular expressions of what else to take out.
        near_duplicates: `keep`, `flag` (in the metadata) or `drop` documents that resemble an earlier one.
        near_threshold: Jaccard similarity of word triples from which documents are near-duplicates.
        languages: ISO 639 codes of the languages to load; empty = all. A text that does not tell its own is loaded.
        ocr: read pages without a text layer by text recognition (the extra `ocr`).
        ocr_languages: languages of the documents around a scan, the most frequent first; `load_corpus` fills them in.
        workers: worker processes; None = one a CPU, at most 8. Never changes the result.
    """

    text_field: str | None = None
    title_field: str | None = None
    id_field: str | None = None
    max_file_bytes: int = 200 * MEBIBYTE
    max_unpacked_bytes: int = 1024 * MEBIBYTE
    max_pages: int = 5000
    max_chars: int = 20_000_000
    max_seconds: float = 60.0
    max_memory_bytes: int = 4096 * MEBIBYTE
    archives: bool = False
    follow_links: bool = False
    redact: tuple[str, ...] = ()
    redact_patterns: tuple[str, ...] = ()
    near_duplicates: Literal["keep", "flag", "drop"] = "keep"
    near_threshold: float = 0.8
    languages: tuple[str, ...] = ()
    ocr: bool = False
    ocr_languages: tuple[str, ...] = ()
    workers: int | None = None


@dataclass(frozen=True)
class Quarantined(Noun):
    """A source that could not be used: a stable `reason` code of `REASONS`, and a sentence that says what to do."""

    source: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Duplicate(Noun):
    """A source that was dropped because its text equals, or resembles, that of the document `same_as` (a source)."""

    source: str
    same_as: str
    similarity: float = 1.0


@dataclass(frozen=True)
class Corpus:
    """What was loaded, in the order of the sources' names.

    Attributes:
        documents: one for each distinct text.
        quarantined: what could not be used, and why.
        counts: `found` = `loaded` + `quarantined` + `duplicates`; also `files` and `characters`.
        duplicates: what was dropped, and the source it equals.
        cached: how many files came from the cache; no part of the result.
        digests: sha256 of the bytes that were read of each file; "" for a remote one, and where none were read. No part
            of the result.
    """

    documents: list[Document]
    quarantined: list[Quarantined]
    counts: dict[str, Any]
    duplicates: list[Duplicate] = field(default_factory=list)
    cached: int = field(default=0, compare=False)
    digests: Mapping[str, str] = field(default_factory=dict, compare=False)


NO_TEXT_LAYER = (
    "its pages hold no text layer (a scan?); install the extra `ocr` (pip install 'jora-raft[ocr]') and set ingest.ocr "
    "to read it by text recognition (OCR), or do that beforehand"
)


class ArchiveFound(Exception):
    """Raised where a file is an archive of the given `kind`; opened or refused by `parse`."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class Refused(Exception):
    """Raised by a loader that cannot use its input; becomes one `Quarantined`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

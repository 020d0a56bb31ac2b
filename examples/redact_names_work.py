"""The work of the stage `redact`: documents in, the same documents with some words blacked out.

Its key is computed from this file and all that it imports, so it imports nothing that does not decide its result.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from data.nouns import Document, read_jsonl, text_sha256, write_jsonl
from tasks.runtime.folders import StageFiles
from tasks.work.bench import Bench, Outcome

if TYPE_CHECKING:
    from redact_names import RedactConfig


def build(bench: Bench, config: RedactConfig, documents: StageFiles) -> Outcome:
    """Writes documents.jsonl. A name becomes as many blocks, so that the offsets of pages and headings hold."""
    words = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in config.names) or r"(?!)")

    def redacted(text: str) -> str:
        return words.sub(lambda match: "█" * len(match[0]), text)

    rows, changed = [], 0
    for document in read_jsonl(documents.path("documents.jsonl"), Document):
        text = redacted(document.text)
        changed += text != document.text
        headings = tuple((start, level, redacted(title)) for start, level, title in document.headings)
        rows.append(
            replace(document, title=redacted(document.title), text=text, sha256=text_sha256(text), headings=headings)
        )
        bench.progress(len(rows), None, "documents")
    write_jsonl(bench.out / "documents.jsonl", rows)
    return Outcome(
        f"{len(rows)} documents, {changed} with a name blacked out", {"documents": len(rows), "changed": changed}
    )

"""From what a loader read to a finished `Document`: cleaning, page offsets, headings, title, id and limits.

Loaders return drafts; only `finish` makes documents, so that every format obeys the same rules.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from data.loading.data_uris import without_base64, without_data_uris
from data.loading.headings import Heading, find_headings
from data.loading.options import NO_TEXT_LAYER, LoadOptions, Refused
from data.loading.raised import write_raised
from data.loading.redaction import redact, redact_value
from data.loading.text import clean_text
from data.nouns import Document, digest, text_sha256

PAGE_SEPARATOR = "\n\n"
_JUNK_TITLE = re.compile(
    r"(?i)\(?(anonymous|unknown|no title)\)?|untitled.*|(document|presentation|slide)\s?\d*|microsoft \w+ - .*"
    r"|.*\.(docx?|odt|rtf|txt|pdf|e?ps|tex|dvi|indd|qxd|pptx?|xlsx?|html?|jpe?g|png|tiff?)"
)


@dataclass(frozen=True)
class Draft:
    """What a loader read.

    Attributes:
        parts: the text; more than one where the format has pages.
        markup: how headings are found: `markdown`, `rst`, `asciidoc` or `plain`.
        title: as the file states it, or empty.
        paged: `parts` are pages.
        outline: (part number from 0, level, heading) of formats that list their headings apart from the text.
    """

    parts: Sequence[str]
    media_type: str
    markup: str = "plain"
    title: str = ""
    paged: bool = False
    outline: Sequence[tuple[int, int, str]] = ()
    metadata: dict[str, Any] = field(default_factory=dict)


def finish(draft: Draft, source: str, options: LoadOptions) -> Document:
    """Cleans a draft and gives it its id, offsets and title.

    Raises:
        Refused: `empty` or `no-text` when nothing is left, `too-large` above `max_chars`.
    """
    parts, uris = [], 0
    for part in draft.parts:
        words, count = without_data_uris(write_raised(part))
        words, more = without_base64(words)
        parts.append(clean_text(words))
        uris += count + more
    title = write_raised(draft.title)
    if uris:
        draft = draft_without(draft, {"embedded files": uris})
    redacted: dict[str, int] = {}
    if options.redact or options.redact_patterns:
        parts, title, redacted = _redact(parts, title, options)
        draft = _redacted_rest(draft, redacted, options)
    pages, position = [], 0
    for part in parts:
        pages.append(position)
        position += len(part) + len(PAGE_SEPARATOR) if part else 0
    text = PAGE_SEPARATOR.join(part for part in parts if part)
    pages = [min(page, len(text)) for page in pages]
    if len(text) > options.max_chars:
        raise Refused(
            "too-large", f"{len(text)} characters, over the limit of {options.max_chars}; split it or raise max_chars"
        )
    if not any(c.isalnum() for c in text):
        if draft.paged:
            raise Refused("no-text", NO_TEXT_LAYER)
        raise Refused("empty", "it holds no words; leave it out")
    headings = find_headings(text, draft.markup) or _place(draft.outline, text, pages)
    counts = dict(sorted(redacted.items()))
    metadata = {**draft.metadata, "markup": draft.markup, **({"redacted": counts} if counts else {})}
    if counts:
        metadata.pop("boxes", None)  # they name places in the text as it was
    if damaged := text.count("\ufffd"):
        metadata["damaged_characters"] = damaged
    return Document(
        id=digest(source),
        source=source,
        title=_title(title, headings, text, source),
        text=text,
        media_type=draft.media_type,
        sha256=text_sha256(text),
        pages=tuple(pages) if draft.paged else (),
        headings=tuple(headings),
        metadata=metadata,
    )


def draft_without(draft: Draft, counts: Mapping[str, int]) -> Draft:
    """The draft with what was left out of its text added to `left_out` in its metadata."""
    total = Counter(draft.metadata.get("left_out", {})) + Counter(counts)
    return replace(draft, metadata={**draft.metadata, "left_out": dict(sorted(total.items()))}) if total else draft


def _redact(parts: Sequence[str], title: str, options: LoadOptions) -> tuple[list[str], str, dict[str, int]]:
    counts: Counter[str] = Counter()
    cleaned = []
    for part in (*parts, title):
        text, found = redact(part, options.redact, options.redact_patterns)
        cleaned.append(clean_text(text))
        counts.update(found)
    return cleaned[:-1], cleaned[-1], dict(counts)


def _redacted_rest(draft: Draft, counts: dict[str, int], options: LoadOptions) -> Draft:
    """What is not in the text: metadata (columns, attachments), and the outline, which must still match the text."""
    metadata = redact_value(draft.metadata, options.redact, options.redact_patterns, counts)
    outline = [
        (part, level, redact(entry, options.redact, options.redact_patterns)[0]) for part, level, entry in draft.outline
    ]
    return replace(draft, metadata=metadata, outline=outline)


def is_no_title(title: str) -> bool:
    """What programs put in a title's place: a file's name, `untitled`, `Microsoft Word - ...`."""
    return not title.strip() or bool(_JUNK_TITLE.fullmatch(" ".join(title.split())))


def _title(stated: str, headings: Sequence[Heading], text: str, source: str) -> str:
    """The stated title, else the first heading where the text begins with one, else the file's name."""
    title = " ".join(clean_text(stated).split())
    if is_no_title(title):
        title = ""
    if not title and headings and headings[0][0] <= 200:
        title = headings[0][2]
    return (title or PurePosixPath(source).stem or source)[:300]


def _place(outline: Sequence[tuple[int, int, str]], text: str, pages: Sequence[int]) -> tuple[Heading, ...]:
    """Finds outline entries at the start of a line on their page; those that do not stand there are left out."""
    placed: list[Heading] = []
    for part, level, entry in outline:
        title = " ".join(clean_text(entry).split())
        if not title or not 0 <= part < len(pages):
            continue
        end = pages[part + 1] if part + 1 < len(pages) else len(text)
        words = re.compile(r"\s+".join(map(re.escape, title.split())))
        found = words.search(text, max(pages[part], placed[-1][0] + 1 if placed else 0), end)
        if found:
            start = text.rfind("\n", 0, found.start()) + 1
            if not placed or start > placed[-1][0]:
                placed.append((start, level, title))
    return tuple(placed)

"""Which files of a corpus are read again by text recognition, and with what: the second look at scans.

The first look is the usual one, so that the languages of the documents around a scan are known when it is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from data.loading.formats.pdf_pages.recognition import EXTRA, is_installed
from data.loading.options import LoadOptions, Quarantined
from data.nouns import Document
from raft_errors import BadInput

_TIMES = 50  # as long as another file a scan may take
_LANGUAGES = 3

Loaded = tuple[list[Document], list[Quarantined]]


def check_recognition(options: LoadOptions) -> None:
    """Raises BadInput where text recognition is asked for and not installed."""
    if options.ocr and not is_installed():
        raise BadInput(
            "ingest.ocr is set, and the extra `ocr` is not installed", expected="RapidOCR", do=f"{EXTRA}, or set it off"
        )


def holds_scans(result: Loaded) -> bool:
    """Whether a file has pages of which the first look saw no text."""
    documents, quarantined = result
    return any(entry.reason == "no-text" for entry in quarantined) or any(
        document.metadata.get("pages_without_text") or document.metadata.get("pages_of_pictures")
        for document in documents
    )


def recognition_options(options: LoadOptions, loaded: Sequence[Loaded]) -> LoadOptions:
    """The options of the second look: the languages of what was loaded, most frequent first, and more time."""
    languages = Counter(
        language for documents, _ in loaded for d in documents if (language := d.metadata.get("language"))
    )
    frequent = sorted(languages, key=lambda language: (-languages[language], language))
    return replace(options, ocr_languages=tuple(frequent[:_LANGUAGES]), max_seconds=_TIMES * options.max_seconds)


def better_of(first: Loaded, second: Loaded) -> Loaded:
    """What the second look gave, unless it lost the documents of the first."""
    return first if first[0] and not second[0] else second

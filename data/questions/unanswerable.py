"""Where a question that has no answer was asked: the chunk that looks most as if it held one.

Such a question is trained on with a refusal, and this chunk is its hardest distractor. Reads no files.
"""

from __future__ import annotations

from collections.abc import Sequence

from data.nouns import Chunk, Hit
from data.questions.files import Row
from data.questions.filters import Fault
from data.questions.library import Library, Page
from data.questions.wording import content_words


def asked_of(row: Row, library: Library, hits: Sequence[Hit]) -> Chunk | Fault:
    """The chunk of the document that the row names, or of the context it brings, else the retriever's first hit."""
    pages = [p for name in row.documents for i in library.named(name) for p in library.by_document[i]]
    if not pages and row.context:
        pages = library.sharing(row.context) or _alike(row.context, library)
    if not pages:
        pages = [library.pages[h.chunk_id] for h in hits[:1] if h.chunk_id in library.pages]
    if not pages:
        return Fault("gold_not_found", "no passage is near a question that is marked as having no answer")
    question_words = content_words(row.question, library.language)
    return max(pages, key=lambda p: len(p.words & question_words)).chunk


def _alike(context: str, library: Library) -> list[Page]:
    """The chunks of which four words in five are the context's."""
    wanted = content_words(context, library.language)
    return [p for p in library.pages.values() if len(p.words & wanted) >= 0.8 * max(1, len(p.words))]

"""Documents of files that are gone, put back among those that were loaded, where they would have stood."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from data.loading.options import Corpus
from data.nouns import Document


def file_of(source: str, files: Collection[str]) -> str:
    """The file that a document's source was read from: itself, its table or its archive; "" for none of them."""
    name = source
    while name and name not in files:
        cut = max(name.rfind("#"), name.rfind("/"))
        name = name[:cut] if cut > 0 else ""
    return name


def with_kept(loaded: Corpus, kept: Iterable[Document], files: Collection[str]) -> Corpus:
    """The corpus with the kept documents in their place; one whose text was loaded anyway is not needed.

    Args:
        files: names of all files, the vanished ones included.
    """
    texts = {" ".join(document.text.split()) for document in loaded.documents}
    back = [document for document in kept if " ".join(document.text.split()) not in texts]
    documents = sorted([*loaded.documents, *back], key=lambda document: file_of(document.source, files))
    counts = dict(loaded.counts)
    counts["found"] += len(back)
    counts["loaded"] += len(back)
    counts["characters"] += sum(len(document.text) for document in back)
    return replace(loaded, documents=documents, counts={**counts, "kept": len(back)})

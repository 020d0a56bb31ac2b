"""The chunks of a corpus as questions are placed in them, and every name by which a row may call their document.

People name a document by id, path (from wherever they stand, with whichever slashes), file name, title or URL. Knows no
rows and decides nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import PurePosixPath
from types import MappingProxyType
from urllib.parse import unquote

from data.nouns import Chunk, Document
from data.questions.wording import content_words, flat, numbers
from data.text.alike import alike
from data.text.quotes import Span, sentences
from data.text.unspaced import spaced_out

_OPENING = 6  # words (of scripts without spaces: characters) by which a sentence is looked up


def comparable(text: str) -> str:
    """A text as it is searched: on one line, in lower case, look-alike characters unified, runs spaced out."""
    return spaced_out(alike(flat(text))).lower()


class Page:
    """What is looked up again and again of one chunk, worked out once."""

    def __init__(self, chunk: Chunk, language: str) -> None:
        self.chunk, self._language = chunk, language

    @cached_property
    def lower(self) -> str:
        return comparable(self.chunk.text)

    @cached_property
    def words(self) -> frozenset[str]:
        return content_words(self.chunk.text, self._language)

    @cached_property
    def numbers(self) -> frozenset[str]:
        return numbers(self.chunk.text)

    @cached_property
    def sentences(self) -> list[tuple[Span, frozenset[str]]]:
        """Each sentence with its content words."""
        text = self.chunk.text
        return [(s, content_words(s.of(text), self._language)) for s in sentences(text)]


class Library:
    """The chunks by document and by name.

    Names are the document's id and source, the part of the source after `#` or `:`, every end of its path with and
    without ending, its title, and, where documents are given, ids and titles among their metadata. `language` is the
    corpus' ISO 639 code. `copies` are sources that were left out because another one has the same text: they name its
    document, where they do not name one of their own.
    """

    def __init__(
        self,
        chunks: Sequence[Chunk],
        documents: Sequence[Document] = (),
        *,
        language: str = "en",
        copies: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.language = language
        self.pages = {c.id: Page(c, language) for c in sorted(chunks, key=lambda c: (c.document_id, c.ordinal, c.id))}
        self.by_document: dict[str, list[Page]] = {}
        for page in self.pages.values():
            self.by_document.setdefault(page.chunk.document_id, []).append(page)
        self._given: dict[str, list[str]] = {}  # a document's own list of sentences
        self._texts: dict[str, str] = {}
        self._exact: dict[str, dict[str, None]] = {}
        self._paths: dict[str, dict[str, None]] = {}
        self._loose: dict[str, dict[str, None]] = {}
        for document_id, own in self.by_document.items():
            self._name(document_id, own[0].chunk)
        for document in documents:
            if document.id in self.by_document:
                self._learn(document)
        for copy, original in copies.items():
            ids = self._exact.get(original, {})
            self._exact.setdefault(copy, ids)
            self._paths.setdefault(_path(copy), ids)
            for end in _ends(_path(copy)):
                self._loose.setdefault(_loose(end), ids)
        for names in (self._exact, self._paths, self._loose):
            names.pop("", None)

    def _name(self, document_id: str, chunk: Chunk) -> None:
        source = chunk.source
        for name in (document_id, source, source.partition("#")[2], source.partition(":")[2]):
            self._exact.setdefault(name, {})[document_id] = None
        if not _ROW.search(source):
            self._paths.setdefault(_path(source), {})[document_id] = None
            for end in _ends(_path(source)):
                for name in (_loose(end), _without_ending(end)):
                    self._loose.setdefault(name, {})[document_id] = None
        self._loose.setdefault(_loose(chunk.title), {})[document_id] = None

    def _learn(self, document: Document) -> None:
        inner = document.metadata.get("fields")
        for fields in (document.metadata, inner if isinstance(inner, Mapping) else {}):
            for key in ("id", "_id", "doc_id", "document_id", "key", "pmid", "title"):
                if isinstance(value := fields.get(key), str | int):
                    self._exact.setdefault(str(value), {})[document.id] = None
            if isinstance(given := fields.get("sentences"), list):
                self._given[document.id] = [str(s) for s in given]
        self._texts[document.id] = document.text

    def sentence(self, document_id: str, number: int) -> str:
        """A document's sentence by its number (0-based): of its own list if it brings one, else of ours; or ""."""
        if document_id not in self._given:
            text = self._texts.get(document_id, "")
            self._given[document_id] = [s.of(text) for s in sentences(text)]
        given = self._given[document_id]
        return given[number].strip() if 0 <= number < len(given) else ""

    def named(self, name: str) -> list[str]:
        """Ids of the documents called so: exact ids and sources first, then file names and ends of paths, then a whole
        path below folders that the corpus does not know (`docs/guide/a.md` for `guide/a.md`), then titles."""
        if ids := self._exact.get(name) or self._exact.get(alike(name)):
            return list(ids)
        for form in dict.fromkeys((_path(name), _path(name.partition("#")[0]))):
            if ids := self._paths.get(form) or self._loose.get(_loose(form)):
                return list(ids)
            for whole in _ends(form)[1:]:
                if ids := self._paths.get(whole):
                    return list(ids)
        return list(self._loose.get(_loose(name), ()))

    @cached_property
    def _openings(self) -> dict[str, list[tuple[Page, str]]]:
        """The first words of each sentence -> where it stands, and all of it."""
        openings: dict[str, list[tuple[Page, str]]] = {}
        for page in self.pages.values():
            for sentence in _plain_sentences(page.chunk.text):
                words = _words(sentence)
                if len(words) >= _OPENING:
                    openings.setdefault(" ".join(words[:_OPENING]), []).append((page, sentence))
        return openings

    def sharing(self, text: str) -> list[Page]:
        """The chunks of which most sentences stand in a text, or which hold most of the text's own, in order; of those
        that share a standing phrase with it only the ones that share as much as any."""
        plain = comparable(text)
        words, own = _words(plain), _plain_sentences(text)
        near: dict[str, Page] = {}
        for at in range(len(words) - _OPENING + 1):
            for page, sentence in self._openings.get(" ".join(words[at : at + _OPENING]), ()):
                if sentence in plain:
                    near[page.chunk.id] = page
        shares = {
            i: max(_share(_plain_sentences(page.chunk.text), plain), _share(own, page.lower))
            for i, page in near.items()
        }
        least = max(0.5, 0.75 * max(shares.values(), default=0.0))
        pages = [page for i, page in near.items() if shares[i] >= least]
        pages.sort(key=lambda page: (page.chunk.document_id, page.chunk.ordinal))
        return pages or [page for page in self.pages.values() if len(plain) >= 20 and plain in page.lower]


def _plain_sentences(text: str) -> list[str]:
    return [comparable(span.of(text)).strip(" .。") for span in sentences(text)]


def _share(parts: Sequence[str], text: str) -> float:
    """How much of the sentences stands in a text, by characters."""
    return sum(len(part) for part in parts if part in text) / max(1, sum(map(len, parts)))


def _words(plain: str) -> list[str]:
    return [word.strip(".。") for word in plain.split()]


_ROW = re.compile(r"\.(?:jsonl|ndjson|json|csv|tsv|parquet|arrow|zip|mbox|xlsx?|ods)\b[^/]*#[^/]*$", re.IGNORECASE)
"""The source of a row or part of a file; `C# guide.md` is a file."""


def _path(name: str) -> str:
    """A path or URL in one form: forward slashes, no scheme, no `./`, no escapes, in lower case."""
    name = unquote(alike(name)).replace("\\", "/").lower()
    name = re.sub(r"^(?:file:/*|https?://(?:www\.)?|[a-z]:/+)", "", name)
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _ends(path: str) -> list[str]:
    """The path, and what is left of it without its first folder, its first two, ..."""
    parts = path.split("/")
    return ["/".join(parts[at:]) for at in range(len(parts))]


def _without_ending(path: str) -> str:
    return _loose(str(PurePosixPath(path).with_suffix(""))) if path else ""


def _loose(name: str) -> str:
    return " ".join(alike(name).lower().replace("_", " ").split())

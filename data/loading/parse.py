"""One file to documents: detect its kind, call that kind's loader, finish the drafts.

This is what a worker process runs. It opens the file it is given and nothing else.
"""

from __future__ import annotations

import hashlib
import stat
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any

from data.loading.detect import detect_bytes, detect_text
from data.loading.draft import Draft, draft_without, finish
from data.loading.formats.archives import read_members
from data.loading.formats.front_matter import split_front_matter
from data.loading.formats.hf_datasets import folder_rows, folder_sha256, is_dataset_folder, parquet_rows
from data.loading.formats.html import declared_encoding, render_html
from data.loading.formats.mail import load_mail, messages
from data.loading.formats.markup import shown_asciidoc, shown_markdown, shown_rst
from data.loading.formats.notebook import load_notebook
from data.loading.formats.odf import load_odf
from data.loading.formats.office.load import MEDIA_TYPES, load_office
from data.loading.formats.pdf import load_pdf
from data.loading.formats.rows import json_lines, json_rows, load_csv, load_rows
from data.loading.formats.rtf import load_rtf
from data.loading.formats.xml import load_xml
from data.loading.options import ArchiveFound, LoadOptions, Quarantined, Refused
from data.loading.parsers import PARSERS
from data.loading.redaction import redact, redact_name
from data.loading.text import clean_text, decode
from data.nouns import Document

_SHOWN = {"markdown": shown_markdown, "rst": shown_rst, "asciidoc": shown_asciidoc}
_PLAIN_TYPES = {"markdown": "text/markdown", "rst": "text/x-rst", "asciidoc": "text/asciidoc", "plain": "text/plain"}


Loaded = tuple[list[Document], list[Quarantined]]


def loader_version() -> str:
    """Changes whenever the same bytes may load differently: our own format version, Python's and the parsers'."""
    python = f"python {sys.version_info.major}.{sys.version_info.minor}"  # its mail, csv, json and zip readers
    return " ".join(["loading 13", python, *(f"{name} {_version(name)}" for name in PARSERS)])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def load_file(path: Path, source: str, options: LoadOptions) -> tuple[list[Document], list[Quarantined], str]:
    """Loads one local file.

    Returns:
        Its documents, what was quarantined of it (itself or single rows), and the sha256 of its bytes. A file that is
        not rows gives exactly one of either.
    """
    sha = ""
    try:
        if is_dataset_folder(path):
            sha = folder_sha256(path, options)
            rows = folder_rows(path)
            documents, quarantined = load_rows(
                rows, source, "application/vnd.apache.arrow", options, {"loader": "datasets"}
            )
            # its files are read where they lie: a data set that is saved anew meanwhile has no one digest
            unchanged = sha == folder_sha256(path, options)
            return documents, [_told(entry, options) for entry in quarantined], sha if unchanged else ""
        raw = _read(path, options)
        sha = hashlib.sha256(raw).hexdigest()
        documents, quarantined = _parse(raw, source, options)
    except Refused as refusal:
        return [], [_told(Quarantined(source, refusal.reason, refusal.detail), options)], sha
    if not documents and not quarantined:
        quarantined = [Quarantined(source, "empty", "it holds nothing to read; leave it out")]
    return documents, [_told(entry, options) for entry in quarantined], sha


def _told(entry: Quarantined, options: LoadOptions) -> Quarantined:
    """Parsers quote the text that they fail on: what is to be taken out of that is taken out of their words too."""
    return replace(entry, detail=redact(entry.detail, options.redact, options.redact_patterns)[0])


def _read(path: Path, options: LoadOptions) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Refused("unreadable", "it is not a regular file (a pipe, a socket or a device?); leave it out")
        if status.st_size > options.max_file_bytes:
            raise Refused(
                "too-large",
                f"{status.st_size} bytes, over the limit of {options.max_file_bytes}; split it or raise max_file_bytes",
            )
        with path.open("rb") as file:
            return file.read(options.max_file_bytes + 1)
    except OSError as error:
        raise Refused(
            "unreadable", f"it cannot be opened ({error.strerror or error}); check link and rights"
        ) from error


def _parse(raw: bytes, source: str, options: LoadOptions, *, inside: bool = False) -> Loaded:
    try:
        kind = detect_bytes(raw, source)
    except ArchiveFound as found:
        if not options.archives or inside:
            do = "unpack it into the folder" if inside else "unpack it into the folder or set archives: true"
            raise Refused("archive", f"it is a {found.kind} archive, which is not opened; {do}") from None
        return _parse_members(raw, found.kind, source, options)
    if kind == "parquet":
        rows = parquet_rows(raw)
        return load_rows(rows, source, "application/vnd.apache.parquet", options, {"loader": "datasets"})
    if kind == "text":
        return _parse_text(raw, source, options)
    return [finish(_load_binary(raw, kind, options), source, options)], []


def _parse_members(raw: bytes, kind: str, source: str, options: LoadOptions) -> Loaded:
    """Documents of an archive's files, each named `archive.zip/name inside`, the second of a name `name~2.suffix`."""
    documents: list[Document] = []
    quarantined: list[Quarantined] = []
    taken: dict[str, int] = {}
    for member, content in read_members(raw, kind, source, options):
        inside_name = redact_name(clean_text(member).replace("\n", " "), options.redact, options.redact_patterns)
        name = f"{source}/{_free_name(inside_name, taken)}"
        try:
            if isinstance(content, Refused):
                raise content
            made, refused = _parse(content, name, options, inside=True)
            documents += made
            quarantined += refused
        except Refused as refusal:
            quarantined.append(Quarantined(name, refusal.reason, refusal.detail))
    return documents, quarantined


def _free_name(name: str, taken: dict[str, int]) -> str:
    """An archive may hold a name twice, and a citation must mean one of them; `taken` counts the names given."""
    place = PurePosixPath(name)
    free, number = name, taken.get(name, 0)
    while free in taken:
        number += 1
        free = name.removesuffix(place.suffix) + f"~{number}{place.suffix}"
    taken[name] = max(number, 1)
    taken.setdefault(free, 1)
    return free


def _load_binary(raw: bytes, kind: str, options: LoadOptions) -> Draft:
    if kind == "pdf":
        return load_pdf(raw, options)
    if kind in MEDIA_TYPES:
        return load_office(raw, kind, options)
    if kind == "odf":
        return load_odf(raw, options)
    return load_rtf(raw)


def _parse_text(raw: bytes, source: str, options: LoadOptions) -> Loaded:
    text, encoding = decode(raw, declared_encoding(raw))
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    kind = detect_text(text, source)
    metadata: dict[str, Any] = {"loader": kind, "encoding": encoding}
    if kind == "jsonl":
        return load_rows(json_lines(text, options), source, "application/jsonl", options, metadata)
    if kind == "csv":
        return load_csv(text, source, options, metadata)
    if kind == "mailbox":
        return _parse_mailbox(*_bytes_of_mail(raw, text, encoding), source, options)
    if kind == "json":
        rows = json_rows(text, options)
        if rows is not None:
            return load_rows(rows, source, "application/json", options, metadata)
        draft = Draft([text], "application/json", metadata=metadata)
    elif kind == "html":
        title, text = split_front_matter(text)  # of pages that a site generator has still to fill
        draft = render_html(text, {"encoding": encoding})
        draft = replace(draft, title=draft.title or title)
    elif kind == "notebook":
        draft = load_notebook(text, encoding)
    elif kind == "mail":
        draft = load_mail(*_bytes_of_mail(raw, text, encoding))
    elif kind == "xml":
        draft = load_xml(text, metadata)
    else:
        draft = _plain(text, kind, metadata)
    return [finish(draft, source, options)], []


def _bytes_of_mail(raw: bytes, text: str, encoding: str) -> tuple[bytes, str]:
    """The bytes of mail, and their charset where that is one of the whole file and not of its parts."""
    wide = encoding.startswith(("utf-16", "utf-32"))
    return (text.encode("utf-8", "replace"), "utf-8") if wide else (raw, "")


def _parse_mailbox(raw: bytes, charset: str, source: str, options: LoadOptions) -> Loaded:
    """A document for each message, `mailbox#number`; a damaged one is quarantined alone."""
    documents: list[Document] = []
    quarantined: list[Quarantined] = []
    for number, message in enumerate(messages(raw), 1):
        name = f"{source}#{number}"
        try:
            documents.append(finish(load_mail(message, charset), name, options))
        except Refused as refusal:
            quarantined.append(Quarantined(name, refusal.reason, refusal.detail))
    return documents, quarantined


def _plain(text: str, kind: str, metadata: dict[str, Any]) -> Draft:
    """A text as its reader sees it, of whichever markup."""
    title = ""
    left_out: dict[str, int] = {}
    if kind in _SHOWN:
        title, text = split_front_matter(text)
        text, left_out = _SHOWN[kind](text)
    draft = Draft([text], _PLAIN_TYPES[kind], markup=kind, title=title, metadata=metadata)
    return draft_without(draft, left_out)

"""`load_corpus`: sources in, documents out, everything counted.

Files go to worker processes; what a worker could not use, or died of, becomes a quarantine entry. Order and result do
not depend on timing, the number of workers or the cache.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
import tempfile
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from data.loading.confinement import fitting_workers
from data.loading.draft import Draft, finish
from data.loading.formats.hf_datasets import folder_sha256, is_dataset_folder
from data.loading.formats.pdf_pages.recognition import engine
from data.loading.languages import check_languages, language_of, prepare
from data.loading.near_duplicates import find_near_duplicates
from data.loading.options import MEBIBYTE, Corpus, Duplicate, LoadOptions, Quarantined, Refused
from data.loading.parse import loader_version
from data.loading.pool import Pool
from data.loading.redaction import check_redaction, redact
from data.loading.scans import better_of, check_recognition, holds_scans, recognition_options
from data.loading.sources import PYDOC, Item, expand
from data.nouns import Document, ItemCache, Progress, digest
from data.text.urls import text_without_secrets, without_secrets
from raft_errors import BadInput

_log = logging.getLogger("raft.data")
# options that never change what one file gives
_NOT_RESULT = ("workers", "max_seconds", "max_memory_bytes", "near_duplicates", "near_threshold", "languages",
               "follow_links")  # fmt: skip
_TRANSIENT = ("crashed", "too-slow")  # may be the machine's fault: tried again on the next load
_BATCH = 64


def load_corpus(
    sources: Sequence[str],
    *,
    options: LoadOptions = LoadOptions(),  # noqa: B008  a frozen value
    cache: ItemCache | None = None,
    progress: Progress | None = None,
) -> Corpus:
    """Loads files, folders, globs, fsspec URLs and `pydoc:topics` (the Python language reference in every CPython).

    Args:
        sources: what to load, as texts or paths; a file named twice is loaded once.
        options: field mapping and limits.
        cache: keeps the result of each file by the sha256 of its bytes, so that an unchanged file costs a hash.
        progress: called for each file.

    Returns:
        Documents sorted by source (rows in their order), the quarantine, the duplicates and the counts.

    Raises:
        BadInput: a source that names nothing, no file at all, or not one readable document.
    """
    if isinstance(sources, (str, os.PathLike)):
        sources = [os.fspath(sources)]
    if not sources:
        raise BadInput("no sources given", expected="at least one file, folder, glob or URL", do="name your documents")
    sources = [os.fspath(source) for source in sources]
    check_redaction(options.redact, options.redact_patterns)
    check_languages(options.languages)
    check_recognition(options)
    items = expand(sources, options)
    loaded: list[tuple[list[Document], list[Quarantined]]] = []
    if PYDOC in sources:
        loaded.append(([_with_language(document) for document in _pydoc_topics(options)], []))
    cached = 0
    digests: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="raft-remote-") as folder:
        first = len(loaded)
        plain = replace(options, ocr=False)
        for number, (item, result, hit, sha) in enumerate(_load_all(items, plain, cache, Path(folder)), 1):
            loaded.append(result)
            cached += hit
            digests[item.source] = sha
            if progress:
                progress(number, len(items), item.source)
        if options.ocr:
            scans = [n for n, result in enumerate(loaded[first:]) if holds_scans(result)]
            asked = recognition_options(options, loaded)
            again = _load_all([items[n] for n in scans], asked, cache, Path(folder))
            for number, (n, (item, result, _, sha)) in enumerate(zip(scans, again, strict=True), 1):
                loaded[first + n], digests[item.source] = better_of(loaded[first + n], result), sha
                if progress:
                    progress(number, len(scans), f"{item.source} (text recognition)")
    corpus = replace(_gather(loaded, len(items), cached, options), digests=digests)
    if not corpus.documents:
        raise BadInput(
            f"not one readable document in {', '.join(map(without_secrets, sources))}: {_summary(corpus.quarantined)}",
            expected="at least one document with text",
            do="see the reasons above; put readable documents in",
        )
    _log.info("loaded %s", corpus.counts)
    return corpus


def _summary(quarantined: Sequence[Quarantined]) -> str:
    shown = "; ".join(f"{entry.source} ({entry.reason}: {entry.detail})" for entry in quarantined[:3])
    return f"{shown}; and {len(quarantined) - 3} more" if len(quarantined) > 3 else shown


def _gather(
    loaded: Sequence[tuple[list[Document], list[Quarantined]]], files: int, cached: int, options: LoadOptions
) -> Corpus:
    """Drops other languages and exact duplicates (white space aside), near ones where asked, and counts."""
    quarantined = [entry for _, made in loaded for entry in made]
    documents: list[Document] = []
    duplicates: list[Duplicate] = []
    first: dict[bytes, str] = {}
    for document in (document for made, _ in loaded for document in made):
        if other := _other_language(document, options):
            quarantined.append(other)
            continue
        key = hashlib.sha256(" ".join(document.text.split()).encode()).digest()
        if key in first:
            duplicates.append(Duplicate(document.source, first[key]))
        else:
            first[key] = document.source
            documents.append(document)
    if options.near_duplicates != "keep":
        documents, near = _near(documents, options)
        duplicates += near
    counts = {
        "found": len(documents) + len(quarantined) + len(duplicates),
        "loaded": len(documents),
        "quarantined": len(quarantined),
        "duplicates": len(duplicates),
        "files": files,
        "characters": sum(len(document.text) for document in documents),
    }
    return Corpus(documents, quarantined, counts, duplicates, cached)


def _with_language(document: Document) -> Document:
    return replace(document, metadata={**document.metadata, "language": language_of(document.text)})


def _other_language(document: Document, options: LoadOptions) -> Quarantined | None:
    """Why the document stays out, where only certain languages are wanted; one that does not tell its own stays in."""
    language = document.metadata.get("language")
    if not options.languages or language is None or language in options.languages:
        return None
    wanted = ", ".join(options.languages)
    detail = f"it is in language {language!r}, not in {wanted}; add {language!r} to languages to keep it"
    return Quarantined(document.source, "language", detail)


def _near(documents: list[Document], options: LoadOptions) -> tuple[list[Document], list[Duplicate]]:
    found = find_near_duplicates([document.text for document in documents], options.near_threshold)
    kept: list[Document] = []
    dropped: list[Duplicate] = []
    for number, document in enumerate(documents):
        other, similarity = found.get(number, (None, 0.0))
        if other is None:
            kept.append(document)
        elif options.near_duplicates == "drop":
            dropped.append(Duplicate(document.source, documents[other].source, similarity))
        else:
            flag = {"near_duplicate_of": documents[other].source, "similarity": similarity}
            kept.append(replace(document, metadata={**document.metadata, **flag}))
    return kept, dropped


def _pydoc_topics(options: LoadOptions) -> list[Document]:
    """The 79 or so topics of the Python language reference that pydoc carries."""
    topics: dict[str, str] = import_module("pydoc_data.topics").topics
    return [
        finish(
            Draft([topics[name]], "text/x-rst", "rst", metadata={"loader": "pydoc", "encoding": "utf-8"}),
            f"pydoc:{name}",
            options,
        )
        for name in sorted(topics)
    ]


def _load_all(
    items: Sequence[Item], options: LoadOptions, cache: ItemCache | None, folder: Path
) -> Iterator[tuple[Item, tuple[list[Document], list[Quarantined]], bool, str]]:
    """Results in the order of `items`, batch by batch, so that a killed load keeps what it has in the cache.

    Each comes with whether the cache had it, and with the sha256 of the bytes that were read of a local file.
    """
    asked = {key: value for key, value in asdict(options).items() if key not in _NOT_RESULT}
    readers = f"{loader_version()} {engine()}" if options.ocr else loader_version()
    setting = json.dumps([readers, asked], sort_keys=True)
    workers = fitting_workers(options.workers, len(items), options.max_memory_bytes)
    pool: Pool | None = None
    try:
        for start in range(0, len(items), _BATCH):
            batch = items[start : start + _BATCH]
            paths = [_fetch(item, options, folder) for item in batch]
            shas = [_digest(path, options) if cache else "" for path in paths]
            keys = [_cache_key(sha, item.source, setting) for item, sha in zip(batch, shas)]
            held = cache.get_many([key for key in keys if key]) if cache else {}
            todo = [n for n, key in enumerate(keys) if key not in held and not isinstance(paths[n], Quarantined)]
            answers: dict[int, Any] = {}
            if todo:
                if pool is None:
                    limit = options.max_memory_bytes // MEBIBYTE
                    _log.info("reading with %d processes of at most %d MiB each", workers, limit)
                    pool = Pool(
                        workers,
                        max_seconds=options.max_seconds,
                        max_memory_bytes=options.max_memory_bytes,
                    )
                    threading.Thread(target=prepare, daemon=True).start()  # while the workers start
                requests = [_request(batch[n], paths[n], options) for n in todo]
                answers = dict(zip(todo, pool.map(requests), strict=True))
            fresh: dict[str, bytes] = {}
            for n, item in enumerate(batch):
                path, sha = paths[n], shas[n]
                if isinstance(path, Quarantined):
                    result: tuple[list[Document], list[Quarantined]] = ([], [path])
                elif n in answers:
                    sha = answers[n].get("sha256", "")
                    read, refused = _result(item, answers[n], options)
                    result = [_with_language(document) for document in read], refused
                    if cache and not any(entry.reason in _TRANSIENT for entry in result[1]):
                        key = _cache_key(sha, item.source, setting)
                        if key:
                            fresh[key] = _pack(result)
                else:
                    result = _unpack(held[keys[n]])
                hit = n not in answers and not isinstance(path, Quarantined)
                yield item, result, hit, sha if item.remote is None else ""
            if cache and fresh:
                cache.put_many(fresh)
    finally:
        if pool is not None:
            pool.__exit__(None, None, None)


def _request(item: Item, path: Any, options: LoadOptions) -> dict[str, Any]:
    place = os.fsencode(Path(path).absolute()).hex()
    return {"path": place, "source": item.source, "options": asdict(options)}


def _fetch(item: Item, options: LoadOptions, folder: Path) -> str | Quarantined:
    """The local path of an item; remote files are copied, up to the size limit."""
    if item.refused:
        return Quarantined(item.source, "link", item.refused)
    if item.remote is None:
        return item.path
    target = folder / digest(item.source)
    try:
        with item.remote.open(item.path, "rb") as remote, target.open("wb") as local:
            left = options.max_file_bytes + 1
            while left > 0 and (block := remote.read(min(left, 1 << 20))):
                local.write(block)
                left -= len(block)
    except (OSError, ValueError) as error:
        words = redact(text_without_secrets(str(error)), options.redact, options.redact_patterns)[0]
        detail = f"it cannot be fetched ({words}); check the URL and your rights"
        return Quarantined(item.source, "unreadable", detail)
    return str(target)


def _digest(path: str | Quarantined, options: LoadOptions) -> str:
    """sha256 of what lies there; "" where it is not to be read or cannot be."""
    if isinstance(path, Quarantined):
        return ""
    try:
        if is_dataset_folder(Path(path)):
            return folder_sha256(Path(path), options)
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > options.max_file_bytes:
            return ""
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, Refused):
        return ""


def _cache_key(sha: str, source: str, setting: str) -> str:
    return hashlib.sha256("\0".join(["load", sha, source, setting]).encode()).hexdigest() if sha else ""


def _pack(result: tuple[list[Document], list[Quarantined]]) -> bytes:
    rows = [[document.to_dict() for document in result[0]], [entry.to_dict() for entry in result[1]]]
    return zlib.compress(json.dumps(rows, ensure_ascii=False).encode(), 1)


def _unpack(packed: bytes) -> tuple[list[Document], list[Quarantined]]:
    documents, quarantined = json.loads(zlib.decompress(packed))
    return [Document.from_dict(row) for row in documents], [Quarantined.from_dict(row) for row in quarantined]


def _result(item: Item, answer: dict[str, Any], options: LoadOptions) -> tuple[list[Document], list[Quarantined]]:
    """What a worker answered, or the quarantine entry for how it ended."""
    if "documents" in answer:
        documents = [Document.from_dict(row) for row in answer["documents"]]
        return documents, [Quarantined.from_dict(row) for row in answer["quarantined"]]
    error = str(answer.get("error", "no answer"))
    if error == "too-slow":
        limit_s = f"{options.max_seconds:g} s of work, or twice that of waiting"
        reason, detail = "too-slow", f"over {limit_s}; split it or raise max_seconds"
    elif error == "memory":
        limit = options.max_memory_bytes
        reason, detail = "too-large", f"it needs more than {limit} bytes of memory; split it or raise max_memory_bytes"
    elif error.startswith("crashed"):
        reason, detail = "crashed", f"the parser died on it ({error[9:]}); save it in another format"
    else:
        reason, detail = "unreadable", f"the parser failed on it ({error}); save it anew or in another format"
    detail = redact(detail, options.redact, options.redact_patterns)[0]
    return [], [Quarantined(item.source, reason, detail)]

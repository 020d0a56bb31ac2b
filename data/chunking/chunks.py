"""Documents to chunks: token-exact spans that respect headings, with offsets, page and heading path.

A chunk's text is always `document.text[start:end]`, and never more than `max_tokens` tokens of the given tokenizer.
Nothing here knows where documents come from or what chunks are used for.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from tokenizers import Tokenizer

from data.chunking.cutting import Budget, ChunkOptions, Cutter, SizedSpan, is_markdown
from data.nouns import Chunk, Document, ItemCache, Progress, digest, text_sha256
from raft_errors import BadInput

__all__ = ["ChunkOptions", "chunk_documents"]

_log = logging.getLogger("raft.data")
_VERSION = "chunking 4"
_BATCH = 64


def chunk_documents(
    documents: Sequence[Document],
    tokenizer_file: Path,
    *,
    options: ChunkOptions = ChunkOptions(),  # noqa: B008  a frozen value
    context_tokenizer_file: Path | None = None,
    cache: ItemCache | None = None,
    progress: Progress | None = None,
) -> list[Chunk]:
    """Cuts documents into chunks, in their order.

    Documents with headings are cut at them: a chunk does not span two sections of the highest level that divides the
    document, unless one of them is smaller than `min_tokens`. Sections are filled up to the budget.

    Args:
        documents: as `load_corpus` returns them.
        tokenizer_file: a Hugging Face `tokenizer.json`; its truncation and padding are switched off.
        options: budgets.
        context_tokenizer_file: `tokenizer.json` of the model that will read the chunks, for `max_context_tokens`.
        cache: keeps the spans of each text.
        progress: called for each document.

    Raises:
        BadInput: options out of range, or a file that is not a tokenizer.
    """
    _check(options)
    tokenizer, fingerprint = _load_tokenizer(Path(tokenizer_file))
    budgets, fingerprints = [Budget(tokenizer, options.max_tokens)], [fingerprint]
    if (context_tokenizer_file is None) != (options.max_context_tokens is None):
        raise BadInput(
            "a training context budget needs both a tokenizer and a number",
            expected="context_tokenizer_file and max_context_tokens, or neither",
            do="give the missing one",
        )
    if context_tokenizer_file is not None and options.max_context_tokens is not None:
        tokenizer, fingerprint = _load_tokenizer(Path(context_tokenizer_file))
        budgets.append(Budget(tokenizer, options.max_context_tokens))
        fingerprints.append(fingerprint)
    cutter = Cutter(budgets, options)
    setting = json.dumps([_VERSION, fingerprints, asdict(options)], sort_keys=True)
    chunks: list[Chunk] = []
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8), thread_name_prefix="raft-chunk") as threads:
        for start in range(0, len(documents), _BATCH):
            batch = documents[start : start + _BATCH]
            for number, (document, spans) in enumerate(zip(batch, _spans(batch, cutter, threads, setting, cache)), 1):
                chunks += _chunks(document, spans)
                if progress:
                    progress(start + number, len(documents), document.source)
    _log.info("cut %d documents into %d chunks", len(documents), len(chunks))
    return chunks


def _spans(
    batch: Sequence[Document], cutter: Cutter, threads: ThreadPoolExecutor, setting: str, cache: ItemCache | None
) -> list[list[SizedSpan]]:
    """The spans of each document, from the cache or cut now; the splitter lets other threads run."""
    if cache is None:
        return list(threads.map(cutter.cut, batch))
    keys = [_cache_key(document, setting) for document in batch]
    stored = cache.get_many(keys)
    new = {key: document for key, document in zip(keys, batch, strict=True) if key not in stored}
    fresh = dict(zip(new, threads.map(cutter.cut, new.values()), strict=True))
    if fresh:
        cache.put_many({key: json.dumps(spans).encode() for key, spans in fresh.items()})
    old = {key: [(start, end, tokens) for start, end, tokens in json.loads(line)] for key, line in stored.items()}
    spans_of = fresh | old
    return [spans_of[key] for key in keys]


def _check(options: ChunkOptions) -> None:
    if min(options.max_tokens, options.max_context_tokens or options.max_tokens) < 8:
        raise BadInput(
            f"max_tokens = {options.max_tokens}, max_context_tokens = {options.max_context_tokens}",
            expected="at least 8 tokens a chunk",
            do="set it near the embedder's training length, for example 128 or 256",
        )
    if not 0 <= options.overlap_tokens <= options.max_tokens // 2:
        raise BadInput(
            f"overlap_tokens = {options.overlap_tokens}",
            expected=f"0 to {options.max_tokens // 2}, half of max_tokens",
            do="lower overlap_tokens or raise max_tokens",
        )
    if not 0 <= options.min_tokens <= options.max_tokens:
        raise BadInput(
            f"min_tokens = {options.min_tokens}",
            expected=f"0 to max_tokens = {options.max_tokens}",
            do="lower min_tokens",
        )
    if options.char_limit < 16:
        raise BadInput(f"max_chars = {options.max_chars}", expected="at least 16 characters", do="raise max_chars")


def _load_tokenizer(file: Path) -> tuple[Tokenizer, str]:
    try:
        raw = file.read_bytes()
        tokenizer = Tokenizer.from_buffer(raw)
    except OSError as error:
        raise BadInput(
            f"{file}: cannot be read ({error.strerror})",
            expected="the tokenizer.json of the embedder",
            do="check the path",
        ) from error
    except Exception as error:  # tokenizers raises bare exceptions
        raise BadInput(
            f"{file}: not a tokenizer ({error})"[:300],
            expected="a tokenizer.json as Hugging Face tokenizers writes it",
            do="download it again",
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer, hashlib.sha256(raw).hexdigest()


def _cache_key(document: Document, setting: str) -> str:
    shape = json.dumps([is_markdown(document), [heading[:2] for heading in document.headings]])
    return hashlib.sha256("\0".join(["chunk", document.sha256, shape, setting]).encode()).hexdigest()


def _chunks(document: Document, spans: Sequence[SizedSpan]) -> Iterator[Chunk]:
    paths = _heading_paths(document, [start for start, _, _ in spans])
    for ordinal, ((start, end, tokens), path) in enumerate(zip(spans, paths, strict=True)):
        text = document.text[start:end]
        yield Chunk(
            id=digest(document.id, str(ordinal), text),
            document_id=document.id,
            ordinal=ordinal,
            text=text,
            start=start,
            end=end,
            tokens=tokens,
            sha256=text_sha256(text),
            source=document.source,
            title=document.title,
            page=max(1, bisect_right(document.pages, start)) if document.pages else None,
            heading_path=path,
        )


def _heading_paths(document: Document, starts: Sequence[int]) -> Iterator[tuple[str, ...]]:
    """For each ascending start, the headings above it (one at the start itself counts), outermost first."""
    open_headings: list[tuple[int, str]] = []
    position = 0
    for start in starts:
        while position < len(document.headings) and document.headings[position][0] <= start:
            _, level, title = document.headings[position]
            while open_headings and open_headings[-1][0] >= level:
                open_headings.pop()
            open_headings.append((level, title))
            position += 1
        yield tuple(title for _, title in open_headings)

"""What a person reads of a reply: the final answer, then each quote with its number; citations by place in it.

The template's marks and the reasoning around the quotes are left out. While a reply is being written, only what will
not change any more is given, so that the pieces of a stream are the whole text.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote as url_quote
from urllib.parse import urlsplit

from data.prompting.contract import PromptTemplate
from retrieval.search import Citation
from tasks.runtime.asking import Asked


def growing(text: str, template: PromptTemplate) -> str:
    """The beginning of the final answer that stands fast while a reply is written; empty before the answer's mark."""
    marker = template.answer_marker
    _, mark, after = text.partition(marker)
    if not mark:
        return ""
    answer, repeated, _ = after.partition(marker)
    if repeated:
        return answer.strip()
    held = max((n for n in range(1, len(marker)) if answer.endswith(marker[:n])), default=0)
    return answer[: len(answer) - held].strip()


def finished(text: str, asked: Asked, passage_url: str) -> tuple[str, list[dict[str, Any]]]:
    """The whole content of a reply, and its annotations.

    Args:
        passage_url: where this server shows a passage; the chunk's id is put after it.
    """
    reply = asked.read(text)
    content, annotations = reply["answer"], []
    if reply["refused"]:
        return content, []
    seen = set()
    for quote in reply["quotes"]:
        number, words = quote["passage"], quote["text"]
        if number is None or not 1 <= number <= len(asked.citations) or not words or (number, words) in seen:
            continue  # a number that no passage has is no link
        seen.add((number, words))
        content += "\n\n“" if len(seen) == 1 else "\n“"
        start = len(content)
        content += f"{words}” [{number}]"
        citation = asked.citations[number - 1]
        place = {"start_index": start, "end_index": start + len(words)}
        annotations.append(annotation(citation, number, words, quote["verbatim"], place, passage_url))
    return content, annotations


def annotation(
    citation: Citation, number: int, quote: str, verbatim: bool, place: dict[str, int], passage_url: str
) -> dict[str, Any]:
    """A `url_citation`; indices are code points of the content, the end exclusive. Beside it stands what only clients
    that know this server read."""
    page = f", page {citation.page}" if citation.page else ""
    return {
        "type": "url_citation",
        "url_citation": {
            **place,
            "title": f"{citation.title or source_of(citation)}{page}",
            "url": f"{passage_url}/{url_quote(citation.chunk_id, safe='')}",
        },
        "passage": number,
        "chunk_id": citation.chunk_id,
        "source": source_of(citation),
        "page": citation.page,
        "span": [citation.start, citation.end],
        "quote": quote,
        "verbatim": verbatim,
    }


def source_of(citation: Citation) -> str:
    """The document's name; of a file never its folder, which is this machine's business."""
    parts = urlsplit(citation.source)
    if parts.scheme in ("http", "https"):
        return citation.source
    return (parts.path or citation.source).rstrip("/").rpartition("/")[2]

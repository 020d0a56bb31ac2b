"""What a person reads of a reply: the final answer, then each quote with its number; citations by place in it.

The template's marks and the reasoning around the quotes are left out. While a reply is being written, only what will
not change any more is given, so that the pieces of a stream are the whole text. A passage has one number everywhere:
that which it had in the prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote as url_quote
from urllib.parse import urlsplit

from data.nouns import Chunk
from data.prompting.contract import PromptTemplate
from retrieval.search import Citation
from serving.marking import marked
from serving.schema import Sources
from tasks.runtime.asking import Asked


@dataclass(frozen=True)
class Content:
    """An answer as it is sent.

    Attributes:
        annotations: a `url_citation` for each quote.
        events: what a page shows beside the text: of Open WebUI each passage of the prompt, in the order of its number,
            so that its count is ours; of this server's own page those with their quotes marked. Empty unless they are
            asked for.
        annotated: whether a stream has `annotations` beside its events.
    """

    text: str
    annotations: tuple[dict[str, Any], ...] = ()
    events: tuple[dict[str, Any], ...] = ()
    annotated: bool = True


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


def finished(text: str, asked: Asked, passage_url: str, sources: Sources = "annotations") -> Content:
    """The whole content of a reply.

    Args:
        passage_url: where this server shows a passage; the chunk's id is put after it.
    """
    reply = asked.read(text)
    content, annotations = reply["answer"], []
    if reply["refused"]:
        return Content(content, events=(answer_event(reply),) if sources == "passages" else ())
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
    if sources == "text" and annotations:
        content += "\n\n" + source_lines(annotations)
    if sources == "open_webui":
        # its page makes a source of each annotation too, and would show all of them twice
        events = tuple(event(citation, passage_url) for citation in asked.citations)
        return Content(content, tuple(annotations), events, annotated=False)
    events = ()
    if sources == "passages":
        events = (*shown_passages(asked, passage_url, annotations), answer_event(reply))
    return Content(content, tuple(annotations), events)


def annotation(
    citation: Citation, number: int, quote: str, verbatim: bool, place: dict[str, int], passage_url: str
) -> dict[str, Any]:
    """A `url_citation`; indices are code points of the content, the end exclusive. Beside it stands what only clients
    that know this server read."""
    return {
        "type": "url_citation",
        "url_citation": {**place, "title": title_of(citation), "url": url_of(citation, passage_url)},
        "passage": number,
        "chunk_id": citation.chunk_id,
        "source": source_of(citation),
        "page": citation.page,
        "span": [citation.start, citation.end],
        "quote": quote,
        "verbatim": verbatim,
    }


def source_lines(annotations: list[dict[str, Any]]) -> str:
    """The passages that are cited, a line each in the order of their numbers, for clients that drop annotations. What
    is not word for word in its passage is said to be so, since such a client does not see it otherwise."""
    lines: dict[int, str] = {}
    for one in sorted(annotations, key=lambda one: (one["passage"], one["verbatim"])):
        place = one["url_citation"]
        doubt = "" if one["verbatim"] else " (not quoted word for word)"
        title = " ".join(place["title"].split())
        lines.setdefault(one["passage"], f"[{one['passage']}] {title}{doubt}: {place['url']}")
    return "\n".join(["Sources:", *lines.values()])


def event(citation: Citation, passage_url: str) -> dict[str, Any]:
    """A source as Open WebUI takes it from a stream: its page shows the passage itself, where it shows of an annotation
    the title alone. It counts by `metadata.source`, so each passage has its own."""
    url, name = url_of(citation, passage_url), title_of(citation)
    source = {
        "source": {"name": name, "url": url},
        "document": [citation.text],
        "metadata": [{"source": url, "name": name}],
    }
    return {"type": "source", "data": source}


def shown_passages(
    asked: Asked, passage_url: str, annotations: Sequence[Mapping[str, Any]] = ()
) -> tuple[dict[str, Any], ...]:
    """The passages of a prompt as the page of this server shows them: where each stands in its document, and its text
    in segments, each with the numbers of the quotes in it (1 = the first of the annotations)."""
    quotes = list(enumerate((one["passage"], one["quote"], one["verbatim"]) for one in annotations))
    return tuple(
        {
            "type": "passage",
            "data": {
                "number": number,
                "chunk_id": citation.chunk_id,
                "url": url_of(citation, passage_url),
                "title": citation.title or source_of(citation),
                "source": source_of(citation),
                "page": citation.page,
                "span": [citation.start, citation.end],
                "segments": marked(
                    citation.text, {at + 1: quote for at, (of, quote, whole) in quotes if of == number and whole}
                ),
            },
        }
        for number, citation in enumerate(asked.citations, 1)
    )


def answer_event(reply: Mapping[str, Any]) -> dict[str, Any]:
    """The final answer without the quotes that the content has behind it, and whether it is a refusal."""
    return {"type": "answer", "data": {"text": reply["answer"], "refused": reply["refused"]}}


def title_of(citation: Citation) -> str:
    page = f", page {citation.page}" if citation.page else ""
    return f"{citation.title or source_of(citation)}{page}"


def url_of(citation: Citation, passage_url: str) -> str:
    return f"{passage_url}/{url_quote(citation.chunk_id, safe='')}"


def source_of(citation: Citation | Chunk) -> str:
    """The document's name; of a file never its folder, which is this machine's business."""
    parts = urlsplit(citation.source)
    if parts.scheme in ("http", "https"):
        return citation.source
    return (parts.path or citation.source).rstrip("/").rpartition("/")[2]

"""A Jupyter notebook to Markdown: its Markdown cells as they are shown, its code cells fenced, its outputs left out."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from data.loading.draft import Draft, draft_without
from data.loading.formats.markup import shown_markdown
from data.loading.options import Refused


def load_notebook(text: str, encoding: str) -> Draft:
    """Reads notebook format 3 and 4.

    Raises:
        Refused: `unreadable` when it is not a notebook.
    """
    try:
        book = json.loads(text)
        meta = book.get("metadata", {})
        language = meta.get("kernelspec", {}).get("language") or meta.get("language_info", {}).get("name") or ""
        cells = book.get("cells") or [cell for sheet in book.get("worksheets", ()) for cell in sheet.get("cells", ())]
        left_out: Counter[str] = Counter()
        parts = [part for cell in cells if (part := _cell(cell, str(language), left_out))]
        title = meta.get("title", "")
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise Refused("unreadable", f"it is not a valid notebook ({error}); save it anew") from error
    draft = Draft(
        ["\n\n".join(parts)],
        "application/x-ipynb+json",
        markup="markdown",
        title=title if isinstance(title, str) else "",
        metadata={"loader": "notebook", "encoding": encoding},
    )
    return draft_without(draft, left_out)


def _cell(cell: dict[str, Any], language: str, left_out: Counter[str]) -> str:
    source = cell.get("source") or cell.get("input") or ""
    words = "".join(source) if isinstance(source, list) else str(source)
    if not words.strip():
        return ""
    if cell.get("cell_type") == "heading":
        return "#" * int(cell.get("level", 1)) + " " + words
    if cell.get("cell_type") == "code":
        fence = "````" if "```" in words else "```"
        return f"{fence}{language}\n{words}\n{fence}"
    if cell.get("cell_type") != "markdown":
        return words
    words, counts = shown_markdown(words)
    left_out.update(counts)
    return words.strip("\n")

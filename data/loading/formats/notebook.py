"""A Jupyter notebook to Markdown: its Markdown cells as they are, its code cells fenced, its outputs left out."""

from __future__ import annotations

import json
from typing import Any

from data.loading.draft import Draft
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
        parts = [part for cell in cells if (part := _cell(cell, str(language)))]
        title = meta.get("title", "")
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise Refused("unreadable", f"it is not a valid notebook ({error}); save it anew") from error
    return Draft(
        ["\n\n".join(parts)],
        "application/x-ipynb+json",
        markup="markdown",
        title=title if isinstance(title, str) else "",
        metadata={"loader": "notebook", "encoding": encoding},
    )


def _cell(cell: dict[str, Any], language: str) -> str:
    source = cell.get("source") or cell.get("input") or ""
    words = "".join(source) if isinstance(source, list) else str(source)
    if not words.strip():
        return ""
    if cell.get("cell_type") == "heading":
        return "#" * int(cell.get("level", 1)) + " " + words
    return f"```{language}\n{words}\n```" if cell.get("cell_type") == "code" else words

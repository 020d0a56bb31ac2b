"""HTML to Markdown-like text: the page's own blocks in order, less what trafilatura finds to be boilerplate.

trafilatura knows best which parts of a page are content but loses headings that stand inside layout markup, so it is
the judge of blocks and never the writer: blocks are rendered here with their headings, lists, tables and code. Where
it keeps too little to be believed (reference pages, `<pre>` pages) all blocks are used: see `article`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from data.loading.draft import Draft, draft_without
from data.loading.formats.article import article_of, mark_places, passages_of, whole_page
from data.loading.formats.numerals import numeral
from data.loading.formats.page_tree import settle_nested_tables, show, spans
from data.loading.formats.tables import Grid, full_rows, row_line
from data.loading.text import decode

_SKIP = {"script", "style", "template", "noscript", "head", "svg", "iframe", "button", "select", "object", "canvas"}
_CHROME = {"nav", "footer", "aside"}
_MENUS = {"nav"}
_BLOCK = {
    "address", "article", "aside", "blockquote", "body", "caption", "center", "dd", "details", "dialog", "div", "dl",
    "dt", "fieldset", "figcaption", "figure", "footer", "form", "header", "hr", "html", "legend", "li", "main", "menu",
    "nav", "ol", "p", "section", "summary", "table", "tbody", "tfoot", "thead", "tr", "td", "th", "ul",
}  # fmt: skip
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_META = re.compile(rb"<meta[^>]{0,300}?charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_XML = re.compile(rb"^\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([\w.:-]+)", re.IGNORECASE)
_BREAK = "\x0b"  # stands for <br>; text itself never keeps one


@dataclass(frozen=True)
class Block:
    """One block of a page: `kind` is `heading`, `text`, `item`, `row` or `code`.

    `level` is that of a heading; of a row, the number of its cells; of an item, its number, 0 where it has none.
    `style` is the `type` of its list: `a`, `A`, `i` or `I` where items have letters or Roman numbers.
    """

    kind: str
    text: str
    level: int = 0
    style: str = ""


def declared_encoding(raw: bytes) -> str | None:
    """The encoding that an HTML or XML file states about itself, true or not."""
    declaration = _XML.search(raw[:300]) or _META.search(raw[:4096])
    return declaration[1].decode("ascii", "replace") if declaration else None


def load_html(raw: bytes) -> Draft:
    """Decodes and renders a page."""
    text, encoding = decode(raw, declared_encoding(raw))
    return render_html(text, {"encoding": encoding})


def render_html(page: str, metadata: dict[str, Any] | None = None, *, whole: bool = False) -> Draft:
    """Renders an HTML string; `whole` keeps all blocks (mail bodies) without looking for boilerplate."""
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(page)
    title = tree.css_first("title")
    left_out = show(tree)
    settle_nested_tables(tree)
    if not whole:
        mark_places(tree)
    blocks = list(_blocks(tree.root, _SKIP | (_MENUS if whole else _CHROME))) or list(_blocks(tree.root, _SKIP))
    extractor = "selectolax"
    if not whole:
        passages = passages_of(blocks)
        if kept := article_of(passages, page):
            blocks, extractor = kept, "trafilatura"
        else:
            blocks = whole_page(passages)
    draft = Draft(
        [to_markdown(blocks)],
        "text/html",
        markup="markdown",
        title=title.text(strip=True) if title else "",
        metadata={**(metadata or {}), "loader": extractor},
    )
    return draft_without(draft, left_out)


def html_blocks(page: str) -> list[Block]:
    """All blocks of a piece of HTML, as feeds and mails hold it."""
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(page)
    show(tree)
    settle_nested_tables(tree)
    return list(_blocks(tree.root, _SKIP))


def to_markdown(blocks: Sequence[Block]) -> str:
    """Blocks as Markdown: `#` headings, `-` items, `|` rows, fenced code."""
    lines: list[str] = []
    before, width = "", 0
    for block in blocks:
        if block.kind == "row" and block.level != width:
            before, width = "", block.level  # another table
        if lines and not (block.kind == before and block.kind in ("item", "row")):
            lines.append("")
        if block.kind == "heading":
            lines.append("#" * block.level + " " + block.text)
        elif block.kind == "code":
            fence = "````" if "```" in block.text else "```"
            lines += [fence, block.text, fence]
        elif block.kind == "item":
            lines.append(f"{numeral(block.level, block.style)}. {block.text}" if block.level else f"- {block.text}")
        elif block.kind == "row":
            lines.append(block.text)
            if before != "row":
                lines.append("|" + " --- |" * block.level)
        else:
            lines.append(block.text)
        before = block.kind
    return "\n".join(lines)


def _blocks(root: Any, skip: set[str]) -> Iterator[Block]:
    """Walks the tree without recursion (hostile pages nest 100,000 deep) and yields non-empty blocks in order."""
    words: list[str] = []
    state = _State()
    node, entering = root, True
    while node is not None:
        tag = node.tag or ""
        if entering:
            if tag == "-text":
                words.append(node.text_content or "")
            elif tag not in skip and not (tag and tag[0] in "-!"):
                if _is_block(tag) and not state.in_cell(tag):
                    yield from state.flush(words)
                state.enter(node, tag, words)
                if node.first_child is not None:
                    node = node.first_child
                    continue
                yield from state.leave(node, tag, words)
            entering = False
        if node is root or _same(node, root):
            break
        if node.next is not None:
            node, entering = node.next, True
            continue
        node = node.parent
        if node is not None:
            yield from state.leave(node, node.tag or "", words)
    yield from state.flush(words)


def _same(one: Any, other: Any) -> bool:
    return one.mem_id == other.mem_id


def _is_block(tag: str) -> bool:
    return tag in _BLOCK or tag in _HEADINGS or tag == "pre"


class _State:
    """Where the walk is: inside which heading, item, code block or data-table row."""

    def __init__(self) -> None:
        self.kind = "text"
        self.level = 0
        self.style = ""
        self.styles: list[str] = []  # of each open list, how its numbers are written
        self.code = 0
        self.tables: list[Grid | None] = []  # of each open table, if it is a table of data
        self.rows = 0
        self.numbers: list[int] = []  # of each open list, that of its next item; 0 where items have none

        self.steps: list[int] = []  # of each open list, from one number to the next: 1, or -1 where it counts down

    def in_cell(self, tag: str) -> bool:
        """Inside a row of a data table blocks only separate words."""
        return self.rows > 0 and tag != "tr"

    def enter(self, node: Any, tag: str, words: list[str]) -> None:
        if tag == "table":
            self.tables.append(Grid() if _is_data_table(node) else None)
        elif self.rows:
            words.append(" " if tag in _BLOCK or tag == "br" else "")
        elif tag == "tr" and self.tables and self.tables[-1] is not None:
            self.rows = 1
        elif tag == "pre":
            self.code += 1
        elif tag in _HEADINGS:
            self.kind, self.level = "heading", _HEADINGS[tag]
        elif tag in ("ol", "ul", "menu"):
            self.numbers.append(_first_number(node) if tag == "ol" else 0)
            self.styles.append((node.attributes.get("type") or "").strip() if tag == "ol" else "")
            self.steps.append(-1 if "reversed" in node.attributes else 1)
        elif tag == "li":
            self.kind, self.level, self.style = "item", 0, self.styles[-1] if self.styles else ""
            if self.numbers and self.numbers[-1]:
                self.level = _count(node, "value", self.numbers[-1])
                self.numbers[-1] = self.level + self.steps[-1]
        elif tag == "br":
            words.append("\n" if self.code else _BREAK if self.kind == "text" else " ")

    def leave(self, node: Any, tag: str, words: list[str]) -> Iterator[Block]:
        grid = self.tables[-1] if self.tables else None
        if self.rows and grid is not None:
            if tag in ("td", "th"):
                grid.add(" ".join("".join(words).split()), *spans(node))
                words.clear()
            elif tag == "tr":
                self.rows = 0
                words.clear()
                grid.end_row()
            return
        if tag == "table" and self.tables:
            yield from self.flush(words)
            self.tables.pop()
            yield from (Block("row", row_line(row), len(row)) for row in (full_rows(grid.rows) if grid else ()))
        if _is_block(tag):
            yield from self.flush(words)
        if tag in ("ol", "ul", "menu") and self.numbers:
            self.numbers.pop()
            self.steps.pop()
            self.styles.pop()
        if tag == "pre":
            self.code = max(0, self.code - 1)
        if tag in _HEADINGS or tag == "li":
            self.kind = "text"

    def flush(self, words: list[str]) -> Iterator[Block]:
        raw = "".join(words)
        words.clear()
        if self.code:
            text = raw.strip("\n").rstrip()
            if text.strip():
                yield Block("code", text)
            return
        text = "\n".join(line for part in raw.split(_BREAK) if (line := " ".join(part.split())))
        if text:
            yield Block(self.kind, text, self.level, self.style if self.kind == "item" else "")
            if self.kind == "item":
                self.kind = "text"


def _first_number(items: Any) -> int:
    """Of a numbered list; one that counts down begins with the number of its items."""
    length = sum(item.tag == "li" for item in items.iter()) if "reversed" in items.attributes else 1
    return _count(items, "start", max(1, length))


def _count(node: Any, attribute: str, otherwise: int) -> int:
    """A whole number above 0 that an attribute states."""
    stated = (node.attributes.get(attribute) or "").strip()
    return int(stated) if re.fullmatch(r"[1-9]\d{0,8}", stated) else otherwise


def _is_data_table(table: Any) -> bool:
    """Layout tables hold tables, headings, lists or many paragraphs; data tables hold words."""
    return not table.css("td table, td h1, td h2, td h3, td ul, td ol, td pre, td p + p, td div div") and bool(
        table.css("tr td + td, tr th + th, tr th + td")
    )

"""An HTML tree made to say what its reader sees, before its words are taken out.

Hidden and struck-out elements go, raised and lowered text is marked, equations become TeX or a line of text, and
tables inside the cells of another table become words. Trees are selectolax's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from data.loading.formats.tables import Grid, write_inside_a_cell
from data.loading.raised import lowered, raised

_HIDDEN_STYLE = re.compile(
    r"(?:^|;)\s*(?:display\s*:\s*none|visibility\s*:\s*(?:hidden|collapse)|font-size\s*:\s*0(?:px|pt|em|%)?\s*(?:;|!|$)"
    r"|opacity\s*:\s*0(?:\.0+)?\s*(?:;|!|$)|mso-hide\s*:\s*all)",
    re.IGNORECASE,
)
_STRUCK_STYLE = re.compile(r"text-decoration(?:-line)?\s*:[^;]*line-through", re.IGNORECASE)
_RAISED_STYLE = re.compile(r"vertical-align\s*:\s*(super|sub)\b", re.IGNORECASE)
_NOTE_MARK = re.compile(r"\(?(?:\d{1,4}|[ivxlc]{1,7}|[a-zA-Z]|[*†‡§¶#]{1,3})[.)]?")
_NOTE_LINK = re.compile(r"note-?ref|footnote|endnote", re.IGNORECASE)
_RULE = re.compile(r"([^{}]+)\{([^{}]*)\}")
_SIMPLE_SELECTOR = re.compile(r"(?:[a-z][a-z0-9]*)?([.#])(-?[_a-z][\w-]*)", re.IGNORECASE)
_MEDIA = re.compile(r"@[\w-]+[^{};]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}|@[^{};]*;|/\*.*?\*/", re.DOTALL)
_WAITING = 0.8
"""Of a page's words: what holds more of them is a page that waits for its script, not a hidden note."""
_MOST_NESTED = 2000
_LONGEST_NESTED = 400
"""Characters of a table inside a cell that a web page's table of data may hold; a larger one is layout."""
_CELL_BLOCKS = "p, div, li, br, h1, h2, h3, h4, h5, h6, dt, dd, pre"
_SUP_SUB = re.compile(r"\{\\displaystyle\s*(.*)\}", re.DOTALL)


def show(tree: Any) -> dict[str, int]:
    """Makes the tree say what its reader sees; returns how many elements of which kind were left out."""
    unseen = _unseen(tree)
    for node, _ in reversed(unseen):  # what stands inside another one goes first
        node.decompose()
    for node in _outermost(tree, "math"):
        node.replace_with(_equation(node))
    for node in tree.css("script[type^='math/tex']"):  # MathJax draws it where it stands
        node.replace_with(f"${_bare(node.text())}$")
    _mark_raised(tree)
    return dict(sorted(Counter(kind for _, kind in unseen).items()))


def _unseen(tree: Any) -> list[tuple[Any, str]]:
    hidden_by_rule = _hidden_by_style_sheet(tree)
    whole = -1.0
    unseen = []
    for node in tree.css("[hidden], [style], del, s, strike" + "".join(f", {rule}" for rule in hidden_by_rule)):
        kind = _kind_unseen(node, hidden_by_rule)
        if not kind or node.tag in ("html", "body"):
            continue
        if whole < 0:
            whole = len(tree.body.text()) if tree.body is not None else 0
        words = node.text()
        if words.strip() and len(words) <= _WAITING * whole:
            unseen.append((node, kind))
    return unseen


def _kind_unseen(node: Any, hidden_by_rule: list[str]) -> str:
    attributes = node.attributes
    style = attributes.get("style") or ""
    if node.tag in ("del", "s", "strike") or _STRUCK_STYLE.search(style):
        return "struck out"
    # what is hidden "until-found" opens when the reader searches for it
    if "hidden" in attributes and (attributes["hidden"] or "").lower() != "until-found":
        return "hidden"
    if _HIDDEN_STYLE.search(style) or (hidden_by_rule and node.css_matches(", ".join(hidden_by_rule))):
        return "hidden"
    return ""


def _hidden_by_style_sheet(tree: Any) -> list[str]:
    """Selectors of classes and ids that the page's own style sheet hides, and that no other rule or script shows."""
    sheet = _MEDIA.sub("", "\n".join(node.text() for node in tree.css("style")))
    if "none" not in sheet and "hidden" not in sheet:
        return []
    hidden: dict[str, str] = {}
    shown: set[str] = set()
    for selectors, declarations in _RULE.findall(sheet):
        hides = bool(_HIDDEN_STYLE.search(declarations))
        for selector in selectors.split(","):
            simple = _SIMPLE_SELECTOR.fullmatch(selector.strip())
            if hides and simple:
                hidden[selector.strip()] = simple[2]
            elif not hides and re.search(r"display|visibility|opacity|font-size", declarations):
                shown.update(re.findall(r"[.#](-?[_a-zA-Z][\w-]*)", selector))
    if not hidden:
        return []
    scripts = "\n".join(node.text() for node in tree.css("script"))
    return [rule for rule, name in hidden.items() if name not in shown and name not in scripts]


def _mark_raised(tree: Any) -> None:
    for node in reversed(tree.css("sup, sub, span[style]")):
        up = node.tag == "sup"
        if node.tag == "span":
            style = _RAISED_STYLE.search(node.attributes.get("style") or "")
            if not style:
                continue
            up = style[1].lower() == "super"
        words = node.text()
        linked = up and (node.css_first("a") is not None or _is_link_to_note(node, words.strip()))
        if linked and words.strip() and not words.strip().startswith("["):
            node.replace_with(f"[{words.strip()}]")  # the number of a note
        else:
            node.replace_with(raised(words) if up else lowered(words))


def _is_link_to_note(node: Any, words: str) -> bool:
    """Whether a raised mark is all that a link around it shows, and the link leads to a note."""
    link = node.parent
    while link is not None and link.tag in ("span", "small", "b", "i", "em", "strong"):
        link = link.parent
    if link is None or link.tag != "a" or link.text().strip() != words or not _NOTE_MARK.fullmatch(words):
        return False
    attributes = link.attributes
    kinds = " ".join(attributes.get(name) or "" for name in ("role", "class", "epub:type", "rel"))
    return bool(_NOTE_LINK.search(kinds)) or "#" in (attributes.get("href") or "")


def _outermost(tree: Any, tag: str) -> list[Any]:
    return [node for node in reversed(tree.css(tag)) if not _inside(node, tag)]


def _inside(node: Any, tag: str) -> bool:
    parent = node.parent
    while parent is not None:
        if parent.tag == tag:
            return True
        parent = parent.parent
    return False


def _equation(math: Any) -> str:
    """An equation in MathML: the TeX that stands with it, else a line of text."""
    for note in math.css("annotation"):
        if "tex" in (note.attributes.get("encoding") or "").lower() and note.text().strip():
            return f"${_bare(note.text())}$"
    if tex := (math.attributes.get("alttext") or "").strip():
        return f"${_bare(tex)}$"
    return _linear(math)


def _bare(tex: str) -> str:
    display = _SUP_SUB.fullmatch(tex.strip())
    return " ".join((display[1] if display else tex).split())


def _linear(node: Any, depth: int = 0) -> str:
    if node.tag == "-text":
        return "".join((node.text_content or "").split())
    if depth > 200 or node.tag in ("annotation", "annotation-xml"):
        return ""
    parts = [part for child in node.iter(include_text=True) if (part := _linear(child, depth + 1))]
    if node.tag in ("msup", "mover", "msub", "munder") and len(parts) == 2:
        return parts[0] + ("^" if node.tag in ("msup", "mover") else "_") + _group(parts[1])
    if node.tag in ("msubsup", "munderover") and len(parts) == 3:
        return f"{parts[0]}_{_group(parts[1])}^{_group(parts[2])}"
    if node.tag == "mfrac" and len(parts) == 2:
        return f"{_group(parts[0])}/{_group(parts[1])}"
    if node.tag == "msqrt":
        return f"√{_group(''.join(parts))}"
    if node.tag == "mtr":
        return " ".join(parts) + "; "
    return (" " if node.tag == "mtable" else "").join(parts)


def _group(words: str) -> str:
    return words if re.fullmatch(r"[−-]?\w+", words) else f"({words})"


def settle_nested_tables(tree: Any) -> None:
    """Writes small tables in the cells of a table with headed columns as words, so that its rows stay rows."""
    nested = tree.css("table table")
    if not nested or len(nested) > _MOST_NESTED:
        return
    for table in reversed(nested):
        outer = table.parent
        while outer is not None and outer.tag != "table":
            outer = outer.parent
        if outer is not None and _is_headed(outer) and len(table.text()) <= _LONGEST_NESTED:
            table.replace_with(f" {write_inside_a_cell(table_rows(table))} ")


def _is_headed(table: Any) -> bool:
    first = next(_own_rows(table), None)
    return first is not None and any(cell.tag == "th" for cell in first.iter())


def table_rows(table: Any) -> list[list[str]]:
    """The cells of a table, merged ones repeated; what a nested table holds is part of its cell's words."""
    grid = Grid()
    for row in _own_rows(table):
        for cell in row.iter():
            if cell.tag in ("td", "th"):
                grid.add(_cell_words(cell), *spans(cell))
        grid.end_row()
    return grid.rows


def spans(cell: Any) -> tuple[int, int]:
    """How many rows and columns a cell of a table covers."""
    return _number(cell.attributes.get("rowspan")), _number(cell.attributes.get("colspan"))


def take_out_tables(tree: Any) -> Iterator[tuple[Any, list[list[str]]]]:
    """Every table with its rows, from the last to the first; those inside a cell have become words by then.

    A table of one cell is a frame around what it holds and is taken away.
    """
    for table in tree.css("table"):
        rows = list(_own_rows(table))
        cells = [cell for row in rows for cell in row.iter() if cell.tag in ("td", "th")]
        if len(cells) == 1:
            for node in (cells[0], rows[0], *(part for part in table.iter() if part.tag == "tbody"), table):
                node.unwrap()
    for table in reversed(tree.css("table")):
        if _inside(table, "table"):
            table.replace_with(f" {write_inside_a_cell(table_rows(table))} ")
        else:
            yield table, table_rows(table)


def _own_rows(table: Any) -> Iterator[Any]:
    for part in table.iter():
        if part.tag == "tr":
            yield part
        elif part.tag in ("tbody", "thead", "tfoot"):
            yield from (row for row in part.iter() if row.tag == "tr")


def _number(value: str | None) -> int:
    digits = re.match(r"\s*(\d{1,5})", value or "")
    return max(1, int(digits[1])) if digits else 1


def _cell_words(cell: Any) -> str:
    """The words of a cell on one line, its paragraphs apart."""
    for block in cell.css(_CELL_BLOCKS):
        block.insert_before(" ")
        block.insert_after(" ")
    return " ".join(cell.text().split())

"""OpenDocument text, spreadsheets and slides to Markdown, from `content.xml`.

Headings, paragraphs, text boxes, lists and tables in their order, notes in brackets behind their word. Hidden,
struck-out and deleted text, hidden sheets, rows and columns, comments and pictures are left out.
"""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Iterator
from xml.etree.ElementTree import Element, ParseError

from data.loading.draft import Draft, draft_without
from data.loading.formats.odf_styles import OFFICE, TABLE, TEXT, Styles, number_of
from data.loading.formats.tables import Grid, write_inside_a_cell, write_table
from data.loading.formats.zipped import check_zip
from data.loading.options import LoadOptions, Refused
from data.loading.raised import lowered, raised

_DRAW = "{urn:oasis:names:tc:opendocument:xmlns:drawing:1.0}"
_DC_TITLE = "{http://purl.org/dc/elements/1.1/}title"
_SKIP = {TEXT + "tracked-changes", TEXT + "note-citation", OFFICE + "forms", TEXT + "ruby-text", _DRAW + "frame",
         _DRAW + "custom-shape"}  # fmt: skip
_ROWS = {TABLE + name for name in ("table-header-rows", "table-rows", "table-row-group")}
_COLUMNS = {TABLE + name for name in ("table-header-columns", "table-columns", "table-column-group")}
_MOST_REPEATED = 1024


def load_odf(raw: bytes, options: LoadOptions) -> Draft:
    """Reads an odt, ods or odp file.

    Raises:
        Refused: what `check_zip` refuses; `encrypted`; `unreadable`.
    """
    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    check_zip(raw, options)
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            mimetype = archive.read("mimetype").decode("ascii", "replace").strip() if _has(archive, "mimetype") else ""
            if _has(archive, "META-INF/manifest.xml") and b"encryption-data" in archive.read("META-INF/manifest.xml"):
                raise Refused("encrypted", "it needs a password; save it without one")
            root = fromstring(archive.read("content.xml"))
            styles = fromstring(archive.read("styles.xml")) if _has(archive, "styles.xml") else None
            meta = fromstring(archive.read("meta.xml")) if _has(archive, "meta.xml") else None
    except (zipfile.BadZipFile, KeyError, ParseError, DefusedXmlException, ValueError) as error:
        raise Refused("unreadable", f"its OpenDocument content is damaged ({error}); save it anew") from error
    title = next((node.text or "" for node in meta.iter(_DC_TITLE)), "") if meta is not None else ""
    body = root.find(OFFICE + "body")
    reader = _Reader(Styles(root, styles))
    text = "\n\n".join(reader.blocks(body)) if body is not None else ""
    draft = Draft(
        [text], mimetype or "application/vnd.oasis.opendocument.text", "markdown", title, metadata={"loader": "odf"}
    )
    return draft_without(draft, reader.left_out)


def _has(archive: zipfile.ZipFile, name: str) -> bool:
    return name in archive.namelist()


class _Reader:
    """Walks the content and counts what it leaves out."""

    def __init__(self, styles: Styles) -> None:
        self.styles = styles
        self.left_out: Counter[str] = Counter()

    def blocks(self, node: Element) -> Iterator[str]:
        """The blocks below a node, in their order."""
        for child in node:
            if child.tag == TEXT + "tracked-changes":
                self.left_out["deleted"] += sum(1 for _ in child.iter(TEXT + "deletion"))
            elif child.tag in (OFFICE + "annotation", OFFICE + "annotation-end"):
                self.left_out["comments"] += child.tag == OFFICE + "annotation"
            elif child.tag == OFFICE + "forms":
                continue
            elif child.tag == TEXT + "section" and child.get(TEXT + "display") == "none":
                self.left_out["hidden"] += 1
            elif child.tag in (TEXT + "h", TEXT + "p"):
                yield from self.paragraph(child)
            elif child.tag == TEXT + "list":
                if items := list(self.items(child, 0, "")):
                    yield "\n".join(items)
            elif child.tag == TABLE + "table":
                yield from self.table(child, is_sheet=node.tag == OFFICE + "spreadsheet")
            else:
                yield from self.blocks(child)

    def paragraph(self, node: Element) -> Iterator[str]:
        """A paragraph or heading, then the text boxes that hang on it."""
        if text := self.inline(node).strip():
            level = number_of(node, TEXT + "outline-level")
            yield "#" * min(level, 6) + " " + " ".join(text.split()) if node.tag == TEXT + "h" else text
        for frame in _frames(node):
            yield from self.blocks(frame)

    def items(self, node: Element, depth: int, style: str) -> Iterator[str]:
        """The items of a list with their numbers, inner ones indented."""
        style = node.get(TEXT + "style-name") or style  # inner lists have that of the outer one
        is_numbered = self.styles.is_numbered(style, depth)
        number = 0
        for item in node:
            mark = "- "
            if item.tag == TEXT + "list-item":
                number = number_of(item, TEXT + "start-value") if item.get(TEXT + "start-value") else number + 1
                mark = f"{number}. " if is_numbered else mark
            for child in item:
                if child.tag == TEXT + "list":
                    yield from self.items(child, depth + 1, style)
                elif child.tag in (TEXT + "p", TEXT + "h") and (text := self.inline(child).strip()):
                    yield "  " * min(depth, 20) + mark + text
                    mark = " " * len(mark)  # further paragraphs of the item

    def table(self, table: Element, *, is_sheet: bool) -> Iterator[str]:
        """A table, in spreadsheets under the name of its sheet."""
        if self.styles.is_hidden_table(table):
            self.left_out["hidden sheets"] += 1
            return
        if text := write_table(self.rows(table)):
            if is_sheet and (name := table.get(TABLE + "name", "")):
                yield "## " + name
            yield text

    def rows(self, table: Element) -> list[list[str]]:
        """The rows that are shown, merged cells repeated, repeated ones written out."""
        grid = Grid()
        hidden_columns = _hidden_columns(table)
        hidden_rows: set[int] = set()
        for row in _parts(table, _ROWS, TABLE + "table-row"):
            cells = [
                (self.cell(cell), number_of(cell, TABLE + "number-columns-repeated"), cell)
                for cell in row
                if cell.tag == TABLE + "table-cell"
            ]
            while cells and not cells[-1][0]:  # a sheet's rows go on to its last column
                cells.pop()
            again = number_of(row, TABLE + "number-rows-repeated") if cells else 1
            for _ in range(min(again, _MOST_REPEATED)):
                for words, repeat, cell in cells:
                    for _ in range(min(repeat, _MOST_REPEATED)):
                        down = number_of(cell, TABLE + "number-rows-spanned")
                        grid.add(words, down, number_of(cell, TABLE + "number-columns-spanned"))
                count = len(grid.rows)
                grid.end_row()
                if row.get(TABLE + "visibility") == "collapse" and len(grid.rows) > count:
                    hidden_rows.add(count)
        shown = []
        for number, cells_of_row in enumerate(grid.rows):
            kept = [words for column, words in enumerate(cells_of_row) if column not in hidden_columns]
            hidden_words = (
                cells_of_row
                if number in hidden_rows
                else [w for c, w in enumerate(cells_of_row) if c in hidden_columns]
            )
            self.left_out["cells in hidden rows and columns"] += sum(map(bool, hidden_words))
            if number not in hidden_rows:
                shown.append(kept)
        return shown

    def cell(self, cell: Element) -> str:
        """A cell on one line: its words as they are shown, but dates in ISO form."""
        parts = []
        for child in cell:
            if child.tag in (TEXT + "p", TEXT + "h"):
                parts.append(self.inline(child))
            elif child.tag == TEXT + "list":
                parts += [item.strip().removeprefix("- ") for item in self.items(child, 0, "")]
            elif child.tag == TABLE + "table":
                parts.append(write_inside_a_cell(self.rows(child)))
            elif child.tag == OFFICE + "annotation":
                self.left_out["comments"] += 1
        words = " ".join(" ".join(parts).split())
        if date := cell.get(OFFICE + "date-value", ""):
            return date.removesuffix("T00:00:00").replace("T", " ")
        formula = cell.get(TABLE + "formula", "")
        return words or self.value(cell) or (_formula(formula) if formula else "")

    def value(self, cell: Element) -> str:
        """The value of a cell that was saved without the words that show it."""
        value = cell.get(OFFICE + "value") or cell.get(OFFICE + "string-value") or ""
        if cell.get(OFFICE + "value-type") == "percentage" and value.replace(".", "", 1).isdigit():
            return format(float(value) * 100, ".15g") + "%"
        return value or cell.get(OFFICE + "boolean-value", "").upper()

    def inline(self, node: Element) -> str:
        """The words of a paragraph or of a part of it."""
        looks = self.styles.of(node)
        if any(child.get(TEXT + "is-hidden") == "true" for child in node.iter(TEXT + "hidden-paragraph")):
            looks = {**looks, "hidden": True}
        words = self.children(node)
        kind = "hidden" if looks.get("hidden") else "struck out" if looks.get("struck") else ""
        if kind and words.strip():
            self.left_out[kind] += 1
            return ""
        height = looks.get("height")
        return raised(words) if height == "up" else lowered(words) if height == "down" else words

    def children(self, node: Element) -> str:
        """The words inside a node, whatever its own look is."""
        parts = [node.text or ""]
        for child in node:
            if child.tag == TEXT + "s":
                parts.append(" " * min(number_of(child, TEXT + "c"), 100))
            elif child.tag == TEXT + "tab":
                parts.append("\t")
            elif child.tag == TEXT + "line-break":
                parts.append("\n")
            elif child.tag == TEXT + "note":
                notes = [self.inline(part) for body in child.iter(TEXT + "note-body") for part in body]
                parts.append(f" [{' '.join(' '.join(notes).split())}]")
            elif (
                child.tag in (TEXT + "hidden-text", TEXT + "conditional-text")
                and child.get(TEXT + "is-hidden") == "true"
            ):
                self.left_out["hidden"] += 1
            elif child.tag == OFFICE + "annotation":
                self.left_out["comments"] += 1
            elif child.tag not in _SKIP:
                parts.append(self.inline(child))
            parts.append(child.tail or "")
        return "".join(parts)


def _frames(node: Element) -> Iterator[Element]:
    """What is drawn in a paragraph, the outermost of each."""
    for child in node:
        if child.tag in (_DRAW + "frame", _DRAW + "custom-shape"):
            yield child
        elif child.tag != TEXT + "note":
            yield from _frames(child)


def _parts(table: Element, groups: set[str], tag: str) -> Iterator[Element]:
    for child in table:
        if child.tag == tag:
            yield child
        elif child.tag in groups:
            yield from _parts(child, groups, tag)


def _hidden_columns(table: Element) -> set[int]:
    hidden: set[int] = set()
    place = 0
    for column in _parts(table, _COLUMNS, TABLE + "table-column"):
        count = min(number_of(column, TABLE + "number-columns-repeated"), _MOST_REPEATED)
        if column.get(TABLE + "visibility") == "collapse":
            hidden.update(range(place, place + count))
        place += count
    return hidden


def _formula(formula: str) -> str:
    """`of:=SUM([.B2:.B3])` as sheets show it: `=SUM(B2:B3)`."""
    shown = formula.partition(":=")[2] or formula.removeprefix("=")
    return "=" + shown.replace("[.", "").replace(":.", ":").replace("]", "")

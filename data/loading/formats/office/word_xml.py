"""What mammoth does not read of a Word file, made readable for it, and what no reader of the file sees taken out.

Works on the XML of the document, its foot- and endnotes (ECMA-376 part 1, chapter 17) before mammoth sees it: text
boxes that stand as bare drawings, fields, moved text, furigana, rows that begin late; hidden, struck-out and deleted
text and the prompts of empty form fields.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections import Counter
from typing import Any

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_MC = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
_PARTS = re.compile(r"word/(document\d*|footnotes|endnotes)\.xml")
_MARGINS = re.compile(r"word/(header|footer)\d*\.xml")
_V = "{urn:schemas-microsoft-com:vml}"
_SHAPES = [_V + name for name in ("oval", "line", "polyline", "arc", "curve")]
_UNWRAPPED = [_W + name for name in ("moveTo", "customXml", "fldSimple", "dir", "bdo", "smartTag")]
_RAISED_BY = 4  # half points from which a raised position is an exponent


def mend_docx(raw: bytes) -> tuple[bytes, dict[str, int]]:
    """The file with its XML mended, and how many pieces of which kind are not in its text."""
    left_out: Counter[str] = Counter()
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as source, zipfile.ZipFile(out, "w") as target:
        names = source.namelist()
        styles = _Styles(parse_xml(source.read("word/styles.xml")) if "word/styles.xml" in names else None)
        for name in dict.fromkeys(names):
            content = source.read(name)
            if _PARTS.fullmatch(name):
                root = parse_xml(content)
                if root is not None:
                    left_out.update(_mend(root, styles))
                    content = write_xml(root)
            elif _MARGINS.fullmatch(name) and re.search(rb"<w:t[ >][^<]*\w", content):
                left_out["headers and footers"] += 1
            elif name == "word/comments.xml":
                left_out["comments"] += len(re.findall(rb"<w:comment\b", content))
            target.writestr(name, content)
    left_out.update(drawn(names, "charts/chart", "diagrams/data"))
    return out.getvalue(), dict(+left_out)


def drawn(names: list[str], *kinds: str) -> dict[str, int]:
    """Charts and diagrams of an Office file, whose words are in parts of their own that nobody reads."""
    count = sum(bool(re.fullmatch(rf"(?:word|ppt|xl)/(?:{'|'.join(kinds)})\d*\.xml", name)) for name in names)
    return {"charts and diagrams": count} if count else {}


def parse_xml(content: bytes) -> Any:
    """The root of an Office file's part, repaired where it is damaged; None where nothing is left of it."""
    from lxml import etree

    parser = etree.XMLParser(resolve_entities=False, no_network=True, recover=True, huge_tree=True)
    try:
        return etree.fromstring(content, parser=parser)
    except etree.XMLSyntaxError:
        return None


def write_xml(root: Any) -> bytes:
    """The XML of a part."""
    from lxml import etree

    return bytes(etree.tostring(root.getroottree(), encoding="utf-8", xml_declaration=True))


class _Styles:
    """What paragraph and character styles say of hidden, struck-out and raised text, those they are based on too."""

    def __init__(self, root: Any) -> None:
        self._own = {style.get(_W + "styleId"): style for style in root.iter(_W + "style")} if root is not None else {}
        self._known: dict[str, dict[str, str]] = {}

    def of(self, name: str | None) -> dict[str, str]:
        if not name:
            return {}
        if name not in self._known:
            chain: list[Any] = []
            style = self._own.get(name)
            while style is not None and style not in chain and len(chain) < 20:
                chain.append(style)
                based = style.find(_W + "basedOn")
                style = self._own.get(based.get(_W + "val")) if based is not None else None
            looks: dict[str, str] = {}
            for one in reversed(chain):
                looks.update(_looks(one.find(_W + "rPr")))
            self._known[name] = looks
        return self._known[name]


def _looks(properties: Any) -> dict[str, str]:
    """Of run properties: `vanish`, `strike` and `vertAlign`, as far as they are stated."""
    looks: dict[str, str] = {}
    for one in properties if properties is not None else ():
        value = one.get(_W + "val", "")
        if one.tag in (_W + "vanish", _W + "specVanish"):
            looks["vanish"] = "" if value in ("0", "false", "off") else "yes"
        elif one.tag in (_W + "strike", _W + "dstrike"):
            looks["strike"] = "" if value in ("0", "false", "off") else "yes"
        elif one.tag == _W + "vertAlign":
            looks["vertAlign"] = value
        elif one.tag == _W + "position" and re.fullmatch(r"-?\d{1,4}", value) and abs(int(value)) >= _RAISED_BY:
            looks.setdefault("vertAlign", "subscript" if value[0] == "-" else "superscript")
    return looks


def _mend(root: Any, styles: _Styles) -> Counter[str]:
    left_out: Counter[str] = Counter()
    for change in [*root.iter(_W + "del", _W + "moveFrom")]:
        if change.getparent().tag not in (_W + "rPr", _W + "trPr"):  # there it marks the paragraph or row
            left_out["deleted"] += change.tag == _W + "del" and change.find(".//" + _W + "delText") is not None
            remove(change)
    for shape in root.iter(*_SHAPES):
        shape.tag = _V + "rect"  # mammoth knows the words of some shapes only
    for wrapper in [*root.iter(*_UNWRAPPED)]:
        unwrap(wrapper)
    for field in root.iter(_W + "sdt"):
        if field.find(f"{_W}sdtPr/{_W}showingPlcHdr") is not None:
            left_out["empty form fields"] += 1
            for run in [*field.iter(_W + "r")]:
                remove(run)
    for field in [*root.iter(_W + "fldChar")]:
        _write_choice(field)
    _mend_runs(root, styles, left_out)
    for box in [*root.iter(_W + "txbxContent")]:
        _place_box(box)
    for row in root.iter(_W + "tr"):
        _fill_row(row)
    return left_out


def _mend_runs(root: Any, styles: _Styles, left_out: Counter[str]) -> None:
    for run in [*root.iter(_W + "r")]:
        properties = run.find(_W + "rPr")
        looks = {
            **styles.of(_style(run.getparent(), "pPr", "pStyle")),
            **styles.of(_style(run, "rPr", "rStyle")),
            **_looks(properties),
        }
        for part in [*run.iter(_W + "ruby", _W + "cr", _W + "ptab")]:
            _simplify(part)
        kind = "hidden" if looks.get("vanish") else "struck out" if looks.get("strike") else ""
        words = [part for part in run if part.tag in (_W + "t", _W + "sym")]
        if kind and words:
            left_out[kind] += 1
            for part in [*words, *run.findall(_W + "tab"), *run.findall(_W + "br")]:
                run.remove(part)
        elif words and looks.get("vertAlign") in ("superscript", "subscript"):
            if properties is None:
                properties = run.makeelement(_W + "rPr")
                run.insert(0, properties)
            if properties.find(_W + "vertAlign") is None:
                properties.append(run.makeelement(_W + "vertAlign", {_W + "val": looks["vertAlign"]}))


def _style(node: Any, properties: str, style: str) -> str | None:
    while node is not None and properties == "pPr" and node.tag not in (_W + "p", _W + "body"):
        node = node.getparent()  # a run may stand in a hyperlink or a change
    one = node.find(f"{_W}{properties}/{_W}{style}") if node is not None else None
    return one.get(_W + "val") if one is not None else None


def _simplify(part: Any) -> None:
    """Furigana to the words that they stand over; other breaks and tabs to the usual ones."""
    if part.tag == _W + "ruby":
        base = part.find(_W + "rubyBase")
        plain = part.makeelement(_W + "t")
        plain.text = "".join(base.itertext(_W + "t")) if base is not None else ""
        part.getparent().replace(part, plain)
    else:
        part.tag = _W + ("br" if part.tag == _W + "cr" else "tab")
        part.attrib.clear()


def _write_choice(field: Any) -> None:
    """The chosen entry of a drop-down field, which stands in its properties and in no run."""
    choices = field.find(f"{_W}ffData/{_W}ddList")
    if choices is None or field.getparent().tag != _W + "r":
        return
    entries = [entry.get(_W + "val", "") for entry in choices.findall(_W + "listEntry")]
    chosen = choices.find(_W + "result")
    chosen = choices.find(_W + "default") if chosen is None else chosen
    number = chosen.get(_W + "val", "0") if chosen is not None else "0"
    if number.isdigit() and int(number) < len(entries):
        run = field.makeelement(_W + "r")
        words = run.makeelement(_W + "t")
        words.text = entries[int(number)]
        run.append(words)
        field.getparent().addprevious(run)


def _place_box(box: Any) -> None:
    """The paragraphs of a text box, behind the paragraph that it hangs on, where mammoth would not find them."""
    paragraph = None
    for above in box.iterancestors():
        if above.tag == _MC + "Fallback" or above.tag == _W + "pict":
            return  # mammoth reads it
        if above.tag == _MC + "Choice":
            other = above.getparent().find(_MC + "Fallback")
            if other is not None and other.find(".//" + _W + "txbxContent") is not None:
                return
        if above.tag == _W + "p":
            paragraph = above
            break
    if paragraph is None:
        return
    for block in reversed(box.findall("*")):
        paragraph.addnext(block)


def _fill_row(row: Any) -> None:
    """Empty cells for the columns that a row leaves out at its beginning or end."""
    properties = row.find(_W + "trPr")
    for one in [*properties] if properties is not None else ():
        if one.tag in (_W + "gridBefore", _W + "gridAfter"):
            value = one.get(_W + "val", "")
            cell = row.makeelement(_W + "tc")
            marks = cell.makeelement(_W + "tcPr")
            marks.append(
                cell.makeelement(_W + "gridSpan", {_W + "val": value if re.fullmatch(r"\d{1,2}", value) else "1"})
            )
            cell.extend([marks, cell.makeelement(_W + "p")])
            if one.tag == _W + "gridAfter":
                row.append(cell)
            elif (first := row.find(_W + "tc")) is not None:
                first.addprevious(cell)


def remove(node: Any) -> None:
    """Takes an element out, less the text behind it."""
    parent = node.getparent()
    if parent is None:
        return
    if node.tail:
        before = node.getprevious()
        if before is not None:
            before.tail = (before.tail or "") + node.tail
        else:
            parent.text = (parent.text or "") + node.tail
    parent.remove(node)


def unwrap(node: Any) -> None:
    """Puts the children of an element into its place."""
    parent = node.getparent()
    if parent is None:
        return
    place = parent.index(node)
    for child in reversed(node.findall("*")):
        parent.insert(place, child)
    parent.remove(node)

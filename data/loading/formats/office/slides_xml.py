"""What a presentation shows, for python-pptx: raised text marked, hidden and struck-out text taken out.

python-pptx passes over shapes that stand in two versions (`mc:AlternateContent`); the newer one is put in their place.
"""

from __future__ import annotations

import io
import posixpath
import re
import zipfile
from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from data.loading.formats.office.word_xml import drawn, parse_xml, remove, unwrap, write_xml
from data.loading.raised import lowered, raised

_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_P = "{http://schemas.openxmlformats.org/presentationml/2006/main}"
_MC = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
_R = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"
_SLIDES = re.compile(r"ppt/(slides/slide|notesSlides/notesSlide)\d+\.xml")


def mend_pptx(raw: bytes) -> tuple[bytes, dict[str, int], set[int]]:
    """The file with its XML mended, how many pieces of which kind are not in its text, and its hidden slides from 0."""
    left_out: Counter[str] = Counter()
    hidden: set[str] = set()
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as source, zipfile.ZipFile(out, "w") as target:
        names = source.namelist()
        for name in dict.fromkeys(names):
            content = source.read(name)
            if _SLIDES.fullmatch(name) and (root := parse_xml(content)) is not None:
                if root.get("show") in ("0", "false"):
                    hidden.add(name)
                    left_out["hidden slides"] += 1
                left_out.update(_mend(root))
                content = write_xml(root)
            elif name.startswith("ppt/comments/"):
                left_out["comments"] += len(re.findall(rb"<p(?:188)?:cm\b", content))
            target.writestr(name, content)
        order = _order(source) if hidden else []
    left_out.update(drawn(names, "diagrams/data"))
    return out.getvalue(), dict(+left_out), {number for number, name in enumerate(order) if name in hidden}


def _order(source: zipfile.ZipFile) -> list[str]:
    """The parts of the slides in the order in which they are shown."""
    show = parse_xml(source.read("ppt/presentation.xml"))
    links = parse_xml(source.read("ppt/_rels/presentation.xml.rels"))
    if show is None or links is None:
        return []
    targets: Mapping[str, str] = {link.get("Id"): link.get("Target", "") for link in links}
    slides = [targets.get(slide.get(_R + "id"), "") for slide in show.iter(_P + "sldId")]
    return [posixpath.normpath(posixpath.join("/ppt", target)).lstrip("/") for target in slides]


def _mend(root: Any) -> Counter[str]:
    left_out: Counter[str] = Counter()
    for pair in [*root.iter(_MC + "AlternateContent")]:
        choice, fallback = pair.find(_MC + "Choice"), pair.find(_MC + "Fallback")
        kept = choice if choice is not None and _holds_words(choice) else fallback if fallback is not None else choice
        for version in (choice, fallback):
            if version is not None and version is not kept:
                pair.remove(version)
        if kept is not None:
            unwrap(kept)
        unwrap(pair)
    for name in [*root.iter(_P + "cNvPr")]:
        shape = name.getparent().getparent()
        if name.get("hidden") in ("1", "true") and shape.getparent() is not None:
            left_out["hidden"] += 1
            remove(shape)
    for run in [*root.iter(_A + "r", _A + "fld")]:
        looks, words = run.find(_A + "rPr"), run.find(_A + "t")
        if looks is None or words is None or not (words.text or "").strip():
            continue
        height = looks.get("baseline", "0").rstrip("%")
        if looks.get("strike", "noStrike") != "noStrike":
            left_out["struck out"] += 1
            words.text = ""
        elif re.fullmatch(r"-?[1-9]\d*(?:\.\d+)?", height):
            words.text = lowered(words.text) if height[0] == "-" else raised(words.text)
    for table in root.iter(_A + "tbl"):
        _repeat_merged([row.findall(_A + "tc") for row in table.findall(_A + "tr")])
    return left_out


def _repeat_merged(rows: list[list[Any]]) -> None:
    """The words of a merged cell in each that it covers, which are there and empty; a row's title stands once."""
    for top, row in enumerate(rows):
        for left, cell in enumerate(row):
            down, right = (
                int(value) if value.isdigit() else 1 for value in (cell.get("rowSpan", "1"), cell.get("gridSpan", "1"))
            )
            words = cell.find(_A + "txBody")
            if words is None or down * right < 2 or right >= len(row):
                continue
            for covered in (one for below in rows[top : top + down] for one in below[left : left + right]):
                if covered is not cell and (empty := covered.find(_A + "txBody")) is not None:
                    covered.replace(empty, deepcopy(words))


def _holds_words(node: Any) -> bool:
    return any((words.text or "").strip() for words in node.iter(_A + "t"))

"""Pages without a text layer, read by text recognition: their lines with the boxes in which they stand.

The engine is RapidOCR with the models in its wheel (the extra `ocr`): nothing is fetched. They read the languages of
Latin script, Chinese and Japanese; what they make of other scripts is not text, so those are refused by name.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from itertools import islice
from statistics import fmean
from typing import Any

from data.loading.formats.pdf_pages.columns import find_gutters
from data.loading.text import clean_text

EXTRA = "pip install 'jora-raft[ocr]'"
_ENGINE = "rapidocr"
_DOTS_PER_INCH = 200
_MOST_PIXELS = 3_500  # of the longer side; a page may claim any size
_LEAST_CONFIDENCE = 0.8  # mean of a page's lines
_COVERED, _MOST_PICTURES = 0.7, 50
_SAME_ROW = 0.6  # of the lower line's height
_OTHER_SCRIPTS = frozenset(
    ("am", "ar", "as", "be", "bg", "bn", "dz", "el", "fa", "gu", "he", "hi", "hy", "ka", "kk", "km", "kn", "ko", "ky",
     "lo", "mk", "ml", "mn", "mr", "ne", "or", "pa", "ps", "ru", "si", "sr", "ta", "te", "th", "ug", "uk", "ur")
)  # fmt: skip


Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class TextLine:
    """A recognised line and its box: left, top, right, bottom, in points from the page's upper left corner.

    `confidence` is the engine's, from 0 to 1.
    """

    text: str
    box: Box
    confidence: float = 1.0


def is_installed() -> bool:
    """Whether the extra is there."""
    return find_spec(_ENGINE) is not None and find_spec("onnxruntime") is not None


def engine() -> str:
    """Name and version, for metadata and cached results."""
    return f"{_ENGINE} {version(_ENGINE)}" if is_installed() else f"{_ENGINE} absent"


def knows_script(languages: Sequence[str]) -> bool:
    """Whether the models read the script of the documents around a scan, the most frequent language first."""
    return not languages or languages[0] not in _OTHER_SCRIPTS


def recognise(page: Any) -> list[TextLine]:
    """The lines of a page of pypdfium2 in reading order; none where nothing is drawn on it."""
    if next(iter(page.get_objects(max_depth=1)), None) is None:
        return []
    width, height = page.get_size()
    scale = min(_DOTS_PER_INCH / 72, _MOST_PIXELS / max(width, height, 1))
    picture = page.render(scale=scale, grayscale=False).to_numpy()
    lines = _lines(picture, scale)
    if lines and _confidence(lines) < _LEAST_CONFIDENCE:  # upside down?
        turned = _lines(picture[::-1, ::-1].copy(), scale)
        if turned and _confidence(turned) > max(_confidence(lines), _LEAST_CONFIDENCE):
            return [replace(line, box=_turned(line.box, width, height)) for line in in_columns(turned, height)]
    return in_columns(lines, height)


def is_covered_by_picture(page: Any) -> bool:
    """Whether one picture takes up most of the page, as on a scan."""
    import pypdfium2.raw as raw

    width, height = page.get_size()
    for picture in islice(page.get_objects(filter=[raw.FPDF_PAGEOBJ_IMAGE], max_depth=2), _MOST_PICTURES):
        left, bottom, right, top = picture.get_bounds()
        if (right - left) * (top - bottom) > _COVERED * width * height:
            return True
    return False


def _lines(picture: Any, scale: float) -> list[TextLine]:
    page = _engine()(picture)
    if page.boxes is None or not page.txts:
        return []
    return [
        TextLine(text.strip(), _box(corners, scale), float(score))
        for corners, text, score in zip(page.boxes, page.txts, page.scores, strict=True)
        if text.strip()
    ]


def _confidence(lines: Sequence[TextLine]) -> float:
    return fmean(line.confidence for line in lines)


def _turned(box: Box, width: float, height: float) -> Box:
    """The box as it lies on the page that was turned round to be read."""
    left, top, right, bottom = box
    return round(width - right, 1), round(height - bottom, 1), round(width - left, 1), round(height - top, 1)


def _box(corners: Any, scale: float) -> Box:
    across, down = [float(x) / scale for x, _ in corners], [float(y) / scale for _, y in corners]
    return round(min(across), 1), round(min(down), 1), round(max(across), 1), round(max(down), 1)


@functools.cache
def _engine() -> Any:
    from rapidocr import RapidOCR

    threads = {f"EngineConfig.onnxruntime.{kind}_op_num_threads": 1 for kind in ("intra", "inter")}
    # its judge of upside-down lines turns good ones round at 200 dots an inch
    return RapidOCR(params={"Global.log_level": "critical", "Global.use_cls": False, **threads})


def unsure_pages(recognised: Mapping[int, Sequence[TextLine]]) -> list[int]:
    """Pages whose lines were recognised with little confidence: handwriting, another script."""
    return [n for n, lines in recognised.items() if _confidence(lines) < _LEAST_CONFIDENCE]


def in_columns(lines: Sequence[TextLine], height: float) -> list[TextLine]:
    """Lines from top to bottom, column by column where columns of prose stand side by side."""
    rows = _rows(lines)
    ordered = [line for row in rows for line in row]
    gutters = find_gutters([(b[0], height - b[3], b[2], height - b[1]) for b in (line.box for line in ordered)])
    columns: list[list[TextLine]] = [[] for _ in range(len(gutters) + 1)]
    done: list[TextLine] = []
    for line in ordered:
        left, _, right, _ = line.box
        if any(left < gutter < right for gutter in gutters):  # it goes across
            done += [line for column in columns for line in column]
            columns = [[] for _ in columns]
            done.append(line)
        else:
            columns[sum(gutter <= left for gutter in gutters)].append(line)
    return done + [line for column in columns for line in column]


def _rows(lines: Sequence[TextLine]) -> list[list[TextLine]]:
    rows: list[list[TextLine]] = []
    for line in sorted(lines, key=lambda line: (line.box[1] + line.box[3], line.box[0])):
        if rows and _share_a_row(rows[-1][0], line):
            rows[-1].append(line)
        else:
            rows.append([line])
    return [sorted(row, key=lambda line: line.box[0]) for row in rows]


def _share_a_row(a: TextLine, b: TextLine) -> bool:
    overlap = min(a.box[3], b.box[3]) - max(a.box[1], b.box[1])
    return overlap > _SAME_ROW * min(a.box[3] - a.box[1], b.box[3] - b.box[1])


def page_text(lines: Sequence[TextLine]) -> str:
    """The text of a page: a row a line, what stands apart in it separated by a space."""
    words: list[str] = []
    for number, line in enumerate(lines):
        follows = number > 0 and _share_a_row(lines[number - 1], line) and line.box[0] > lines[number - 1].box[2]
        words += [" " if follows else "\n", line.text] if number else [line.text]
    return "".join(words)


def boxes_in(text: str, page: int, lines: Sequence[TextLine]) -> list[list[float]]:
    """For each line `[page, start, left, top, right, bottom]`: where it begins in the finished text of its page.

    Lines are looked for in their order, by their first letters: joining words and lines has moved them a little.
    """
    rows: list[list[float]] = []
    at = 0
    for line in lines:
        begin = clean_text(line.text)[:6].rstrip("-")
        place = text.find(begin, at)
        at = place if place >= 0 else at
        rows.append([page, at, *line.box])
        at += len(begin)
    return rows

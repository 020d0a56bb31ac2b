"""Small PDFs written by hand: lines at places, fonts with any encoding, form fields, pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

HELVETICA = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>"


@dataclass(frozen=True)
class Line:
    """Words at a place, in points from the lower left corner."""

    text: str
    x: float = 72
    y: float = 700
    size: float = 11
    font: str = "F1"


@dataclass
class Page:
    """Lines in the order in which they are drawn; `fields` are annotations as PDF writes them."""

    lines: Sequence[Line] = ()
    fields: Sequence[str] = ()
    drawing: bytes = b""
    pictures: dict[str, bytes] = field(default_factory=dict)


def write_pdf(pages: Sequence[Page], *, title: str = "", fonts: dict[str, str] | None = None) -> bytes:
    """The bytes of a PDF.

    Args:
        fonts: font dictionaries by name, besides F1, which is Helvetica.
    """
    bodies: list[bytes] = [b"", b"", f"<< /Title ({title}) >>".encode("latin-1")]
    names = {}
    for name, font in {"F1": HELVETICA, **(fonts or {})}.items():
        bodies.append(font.encode("latin-1"))
        names[name] = len(bodies)
    resources = " ".join(f"/{name} {number} 0 R" for name, number in names.items())
    kids, fields = [], []
    for page in pages:
        content = b"".join(_show(line) for line in page.lines) + page.drawing
        bodies.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
        stream, annotations, pictures = len(bodies), [], []
        for annotation in page.fields:
            bodies.append(annotation.encode("latin-1"))
            annotations.append(f"{len(bodies)} 0 R")
        for name, picture in page.pictures.items():
            bodies.append(picture)
            pictures.append(f"/{name} {len(bodies)} 0 R")
        fields += annotations
        page_entries = [
            f"/Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {stream} 0 R",
            f"/Annots [{' '.join(annotations)}]",
            f"/Resources << /Font << {resources} >> /XObject << {' '.join(pictures)} >> >>",
        ]
        bodies.append(f"<< {' '.join(page_entries)} >>".encode("latin-1"))
        kids.append(f"{len(bodies)} 0 R")
    form = f"/AcroForm << /Fields [{' '.join(fields)}] /DA (/F1 12 Tf 0 g) >>" if fields else ""
    bodies[0] = f"<< /Type /Catalog /Pages 2 0 R {form} >>".encode()
    bodies[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>".encode()
    out, places = bytearray(b"%PDF-1.6\n"), []
    for number, body in enumerate(bodies, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(bodies) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    out += b"trailer << /Size %d /Root 1 0 R /Info 3 0 R >>\nstartxref\n%d\n%%%%EOF" % (len(bodies) + 1, start)
    return bytes(out)


def _show(line: Line) -> bytes:
    text = line.text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)").encode("cp1252")
    return b"BT /%s %g Tf %g %g Td (%s) Tj ET\n" % (line.font.encode(), line.size, line.x, line.y, text)

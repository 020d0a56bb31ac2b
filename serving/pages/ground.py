"""What every page stands on: templates that escape by themselves, the files beside them, and headers that let a browser
load nothing else.

A page is the same for everybody and holds no data; its script asks the API for that, with the key if there is one. So a
page needs no key, and no key is ever in a URL, in a page or in the browser's storage.
"""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from fastapi.responses import HTMLResponse, Response

from raft_version import VERSION

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_HERE = Path(__file__).parent


class Ground:
    """The templates and static files, read once.

    Attributes:
        files: name -> body and media type.
    """

    def __init__(self) -> None:
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=jinja2.StrictUndefined
        )
        self.files: Mapping[str, tuple[bytes, str]] = {
            path.name: (path.read_bytes(), _media_type(path)) for path in sorted((_HERE / "static").iterdir())
        }
        # a browser that has seen another release asks for these under another address
        self._digest = hashlib.sha256(b"\0".join(body for body, _ in self.files.values())).hexdigest()[:12]

    def page(self, template: str, **values: Any) -> HTMLResponse:
        """A page made of a template."""
        html = self._templates.get_template(template).render(version=VERSION, digest=self._digest, **values)
        return HTMLResponse(html, headers={**HEADERS, "Cache-Control": "no-store"})

    def file(self, name: str) -> Response | None:
        """A static file; None for a name that is none of ours, whatever it is made of."""
        if name not in self.files:
            return None
        body, kind = self.files[name]
        return Response(
            body, media_type=kind, headers={**HEADERS, "Cache-Control": "no-cache", "ETag": f'"{self._digest}"'}
        )


def _media_type(path: Path) -> str:
    # not what the machine's own tables say, which call scripts many names
    known = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    return known.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"

"""Zipped documents (docx, pptx, xlsx, epub, odt) may be opened only after these checks.

A zip states the size of its members before they are unpacked; XML that defines entities can grow without bound while
it is parsed. Nothing is ever unpacked to disk.
"""

from __future__ import annotations

import io
import zipfile
import zlib

from data.loading.options import LoadOptions, Refused

_MAX_MEMBERS = 20_000
_MAX_RATIO = 1000
_RATIO_FROM = 16 * 1024 * 1024
_ENTITY = (b"<!ENTITY", "<!ENTITY".encode("utf-16-le"), "<!ENTITY".encode("utf-16-be"))
_DAMAGED = (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError, zlib.error, KeyError)


def check_zip(raw: bytes, options: LoadOptions) -> None:
    """Refuses zips that are encrypted, damaged, grow too much, climb out of their folder or define XML entities.

    Raises:
        Refused: `encrypted`, `too-large` or `unreadable`.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            members = archive.infolist()
            _check_directory(members, options)
            for member in members:
                if member.filename.lower().endswith((".xml", ".rels", ".opf", ".ncx", ".xhtml", ".html", ".htm")):
                    _check_xml(archive, member)
    except _DAMAGED as error:
        raise Refused("unreadable", f"its zip container is damaged ({error}); get it again") from error


def _check_directory(members: list[zipfile.ZipInfo], options: LoadOptions) -> None:
    if any(member.flag_bits & 1 for member in members):
        raise Refused("encrypted", "its members need a password; save it without one")
    unpacked = sum(member.file_size for member in members)
    packed = sum(member.compress_size for member in members) or 1
    if len(members) > _MAX_MEMBERS or unpacked > options.max_unpacked_bytes:
        raise Refused(
            "too-large",
            f"it unpacks to {unpacked} bytes in {len(members)} members, over the limit of {options.max_unpacked_bytes} "
            f"bytes or {_MAX_MEMBERS} members; if you trust it, raise max_unpacked_bytes",
        )
    if unpacked > _RATIO_FROM and unpacked / packed > _MAX_RATIO:
        raise Refused("too-large", f"it unpacks to {unpacked // packed} times its size (a zip bomb?); leave it out")
    for member in members:
        parts = member.filename.replace("\\", "/").split("/")
        if ".." in parts or parts[0] == "" or parts[0].endswith(":"):
            raise Refused("unreadable", f"its member {member.filename!r} points outside; do not trust this file")


def _check_xml(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    tail = b""
    with archive.open(member) as stream:
        while block := stream.read(1 << 20):
            window = tail + block
            if any(mark in window for mark in _ENTITY):
                raise Refused("unreadable", "its XML defines entities (billion laughs?); do not trust this file")
            tail = block[-32:]

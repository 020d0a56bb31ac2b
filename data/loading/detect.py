"""What a file is: by its content first, by its name second.

`detect` answers with one of the kinds that `parse` knows, or refuses the file with the reason; it reads no more than
the head of the file and the directory of a zip.
"""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import PurePosixPath

from data.loading.options import ArchiveFound, Refused

_ARCHIVES = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"Rar!\x1a\x07", "rar"),
    (b"\x28\xb5\x2f\xfd", "zstandard"),
    (b"\x1f\x9d", "compress"),
)
_BINARIES = (
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"BM\x00", "a bitmap image"),
    (b"II*\x00", "a TIFF image"),
    (b"MM\x00*", "a TIFF image"),
    (b"\x7fELF", "a program"),
    (b"SQLite format 3", "a SQLite database"),
    (b"RIFF", "audio, video or an image"),
    (b"OggS", "audio or video"),
    (b"ID3", "audio"),
    (b"fLaC", "audio"),
    (b"\x00\x00\x01\xba", "video"),
    (b"wOFF", "a font"),
    (b"wOF2", "a font"),
    (b"\xca\xfe\xba\xbe", "a program"),
    (b"GGUF", "model weights"),
    (b"\x93NUMPY", "a NumPy array"),
)
_ZIP_DOCUMENTS = (("word/", "docx"), ("ppt/", "pptx"), ("xl/", "xlsx"))
_BY_NAME = {
    ".md": "markdown",
    ".markdown": "markdown",
    ".mdown": "markdown",
    ".mkd": "markdown",
    ".mkdn": "markdown",
    ".mdx": "markdown",
    ".qmd": "markdown",
    ".rmd": "markdown",
    ".rst": "rst",
    ".adoc": "asciidoc",
    ".asciidoc": "asciidoc",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".ipynb": "notebook",
    ".eml": "mail",
    ".xml": "xml",
    ".rss": "xml",
    ".atom": "xml",
    ".rdf": "xml",
    ".opml": "xml",
}
_MAIL_HEADER = re.compile(
    r"(?:(?:From|To|Cc|Subject|Date|Message-ID|MIME-Version|Received|Return-Path|Delivered-To|Reply-To|X-[\w-]+|"
    r"Content-[\w-]+|DKIM-Signature)):[ \t]",
    re.IGNORECASE,
)
_MAILBOX = re.compile(r"^From [^\n]*\d{1,2}:\d\d[^\n]*\n[!-9;-~]+:", re.MULTILINE)
_HTML = re.compile(r"(?:\s|<!--.*?-->|<\?xml[^>]*>)*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL)

_XML = re.compile(r"<\?xml\b|<(?:rss|feed|rdf:RDF)[\s>]")


def extension(name: str) -> str:
    """The lower-case extension of a file name, with its dot."""
    return PurePosixPath(name).suffix.lower()


def detect_bytes(raw: bytes, name: str) -> str:
    """The kind of a file that its first bytes tell: a binary format, or `text` where the words must decide.

    Raises:
        Refused: `empty`, `unsupported`, `encrypted` or `unreadable`.
        ArchiveFound: it is an archive of other files.
    """
    if not raw.strip(b" \t\r\n\x00\x0c"):
        raise Refused("empty", "it has no content; leave it out or write it again")
    if b"%PDF-" in raw[:1024]:
        return "pdf"
    if raw.startswith(b"PK\x03\x04") or raw.startswith(b"PK\x05\x06"):
        return _zip_kind(raw, name)
    if raw.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        return _ole_kind(raw)
    if raw.startswith(b"{\\rtf"):
        return "rtf"
    if raw.startswith(b"PAR1"):
        return "parquet"
    for magic, what in _ARCHIVES:
        if raw.startswith(magic):
            raise ArchiveFound(what)
    if raw[257:262] == b"ustar":
        raise ArchiveFound("tar")
    for magic, what in _BINARIES:
        if raw.startswith(magic):
            raise Refused("unsupported", f"it is {what}, which holds no text to read; leave it out")
    if raw[4:8] == b"ftyp":
        raise Refused("unsupported", "it is audio or video, which holds no text to read; leave it out")
    return "text"


def detect_text(text: str, name: str) -> str:
    """The kind of a text: what its beginning shows, else what the name says, else `plain`."""
    head = text[:4096].lstrip("\ufeff \t\r\n")
    by_name = _BY_NAME.get(extension(name), "plain")
    if _HTML.match(text[:20_000]):
        return "html"
    if _MAILBOX.match(head) and by_name in ("plain", "mail"):
        return "mail" if by_name == "mail" and len(_MAILBOX.findall(text)) < 2 else "mailbox"
    if by_name == "html":
        return "html" if "<" in head else "plain"
    if by_name == "notebook" or (head.startswith("{") and '"nbformat"' in text[-2000:] + head):
        return "notebook"
    if by_name in ("jsonl", "csv", "markdown", "rst", "asciidoc", "mail"):
        return by_name
    if by_name == "json":
        return "json" if head[:1] in ("{", "[", '"') else "plain"
    if by_name == "xml" or _XML.match(head):
        return "xml" if head.startswith("<") else "plain"
    lines = re.sub(r"\n[ \t]+", " ", head).split("\n", 6)  # headers go on in lines that begin with a space
    if sum(bool(_MAIL_HEADER.match(line)) for line in lines[:6]) >= 3 and _MAIL_HEADER.match(lines[0]):
        return "mail"
    return "plain"


def _zip_kind(raw: bytes, name: str) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            names = archive.namelist()
            mimetype = ""
            if "mimetype" in names[:5]:
                with archive.open("mimetype") as member:
                    mimetype = member.read(100).decode("ascii", "replace")
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError, RuntimeError, KeyError) as error:
        raise Refused("unreadable", f"its zip container is cut short or damaged ({error}); get it again") from error
    if "epub" in mimetype or "META-INF/container.xml" in names:
        return "epub"
    if "opendocument" in mimetype:
        return "odf"
    if "[Content_Types].xml" in names:
        for prefix, kind in _ZIP_DOCUMENTS:
            if any(member.startswith(prefix) for member in names):
                return kind
    raise ArchiveFound("zip")


def _ole_kind(raw: bytes) -> str:
    import olefile

    try:
        with olefile.OleFileIO(io.BytesIO(raw)) as ole:
            streams = {entry[0] for entry in ole.listdir()}
    except (OSError, ValueError, IndexError, KeyError, TypeError) as error:
        raise Refused("unreadable", f"its OLE container is damaged ({error}); get it again") from error
    if "__properties_version1.0" in streams:
        return "msg"
    if streams & {"EncryptedPackage", "EncryptionInfo"}:
        raise Refused("encrypted", "it is a password-protected Office file; save it without the password")
    raise Refused("unsupported", "it is an Office file of the old binary format; save it as docx, xlsx or pptx")

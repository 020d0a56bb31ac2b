"""E-mail to text: subject, sender, recipients and date, then all that the message says itself.

Messages are read from their bytes, because each part states its own charset. Of the same text in two forms the plain
one is preferred; forwarded messages are read, other attachments are named in the metadata and not opened.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage, MIMEPart
from typing import Any, cast

from data.loading.draft import Draft, draft_without
from data.loading.encodings import codecs_of
from data.loading.formats.html import render_html
from data.loading.options import Refused
from data.loading.text import decode

_SHOWN = ("From", "To", "Cc", "Date")
_TEXTS = {"text/plain", "text/html", "text/markdown", "text/enriched", "text/richtext"}
_ENCODED_WORD = re.compile(r"=\?([^?*\s]{1,60})(?:\*[^?\s]{0,20})?\?([bqBQ])\?")
_FOLD = re.compile(r"\r?\n[ \t]+")
_STATEFUL = ("hz", "utf-7", "utf7", "iso-2022", "csiso2022")  # their bytes are all ASCII, so nothing else tells
_SEPARATOR = re.compile(rb"^From [^\r\n]*\d{1,2}:\d\d[^\r\n]*\r?\n(?=[!-9;-~]+:)", re.MULTILINE)
_QUOTED_SEPARATOR = re.compile(rb"^>(>*From )", re.MULTILINE)
_STUB = 5  # a plain text this many times shorter than the page beside it only says that there is a page
_DEEPEST = 20


def load_mail(raw: bytes, charset: str = "") -> Draft:
    """Reads a message from its bytes.

    Args:
        charset: of all of it, whatever its parts state: for messages that were saved as text in a wide encoding.

    Raises:
        Refused: `unreadable`.
    """
    try:
        message = cast(EmailMessage, message_from_bytes(raw.lstrip(b"\xef\xbb\xbf\r\n"), policy=policy.default))
        reader = _Reader(charset)
        subject = _header(message, "Subject")
        content = "\n\n".join(reader.texts(message))
    except (ValueError, LookupError, AttributeError, TypeError, IndexError, RecursionError) as error:
        raise Refused("unreadable", f"its mail structure is damaged ({error}); save it anew") from error
    metadata: dict[str, Any] = {"loader": "email", "encoding": reader.encoding or "utf-8"}
    if reader.attachments:
        metadata["attachments"] = reader.attachments
    draft = Draft(
        [f"{_head(message, '#')}\n\n{content}"], "message/rfc822", markup="markdown", title=subject, metadata=metadata
    )
    return draft_without(draft, reader.left_out)


def messages(raw: bytes) -> list[bytes]:
    """The messages of a mailbox (mbox), each of which begins with a line `From sender date`."""
    starts = list(_SEPARATOR.finditer(raw))
    if not starts:
        return [raw]
    ends = [start.start() for start in starts[1:]] + [len(raw)]
    return [_QUOTED_SEPARATOR.sub(rb"\1", raw[start.end() : end]) for start, end in zip(starts, ends, strict=True)]


def _head(message: EmailMessage, mark: str) -> str:
    subject = _header(message, "Subject")
    lines = [f"{mark} {subject}"] if subject else []
    return "\n".join(lines + [f"{name}: {value}" for name in _SHOWN if (value := _header(message, name))])


def _header(message: EmailMessage, name: str) -> str:
    """A header as it reads: also with charsets by their web names, and with bytes that nobody encoded."""
    value = next((value for key, value in message.raw_items() if key.lower() == name.lower()), "")
    source = _FOLD.sub(" ", str(value)).strip()
    if not source.isascii():
        raw = source.encode("utf-8", "surrogateescape")
        source = decode(raw, str(message.get_param("charset") or ""))[0]
    source = _ENCODED_WORD.sub(lambda word: f"=?{(codecs_of(word[1]) or (word[1],))[0]}?{word[2]}?", source)
    try:
        return " ".join(str(policy.default.header_factory(name, source)).split())
    except (ValueError, LookupError, AttributeError, TypeError, IndexError):  # the parser's on damaged headers
        return source


class _Reader:
    """The texts of a message and of those inside it, and what is not text."""

    def __init__(self, charset: str) -> None:
        self.charset = charset
        self.encoding = ""
        self.attachments: list[str] = []
        self.left_out: dict[str, int] = {}

    def texts(self, part: MIMEPart, depth: int = 0) -> Iterator[str]:
        """All that a part says, each piece as Markdown."""
        kind = part.get_content_type()
        if depth > _DEEPEST:
            return
        if kind == "message/rfc822" and part.is_multipart():
            inner = cast(EmailMessage, part.get_payload(0))
            yield _head(inner, "##")
            yield from self.texts(inner, depth + 1)
        elif kind == "multipart/alternative":
            yield self._best([self._apart(one, depth) for one in part.iter_parts()])
        elif part.is_multipart() and kind.startswith("multipart/"):
            for one in part.iter_parts():
                yield from self.texts(cast(MIMEPart, one), depth + 1)
        elif kind in _TEXTS and part.get_content_disposition() != "attachment":
            yield self._text(part, kind)
        elif depth and not kind.startswith("message/"):
            self.attachments.append(part.get_filename() or kind)

    def _apart(self, part: Any, depth: int) -> tuple[str, str]:
        return part.get_content_type(), "\n\n".join(self.texts(part, depth + 1))

    def _best(self, forms: list[tuple[str, str]]) -> str:
        plain = next((text for kind, text in forms if kind == "text/plain" and text.strip()), "")
        other = max((text for kind, text in forms if kind != "text/plain"), key=len, default="")
        return other if len(other) > _STUB * len(plain) else plain

    def _text(self, part: MIMEPart, kind: str) -> str:
        raw = part.get_payload(decode=True)
        if not isinstance(raw, bytes) or not raw.strip():
            return ""
        declared = self.charset or str(part.get_param("charset") or "")
        text = None
        if declared.lower().startswith(_STATEFUL):
            text = _strict(raw, declared)
            self.encoding = self.encoding or declared.lower()
        if text is None:
            try:
                text, encoding = decode(raw, declared)
            except Refused:
                return ""
            self.encoding = self.encoding or encoding
        if kind == "text/html":
            page = render_html(text, whole=True)
            for what, count in page.metadata.get("left_out", {}).items():
                self.left_out[what] = self.left_out.get(what, 0) + count
            return "".join(page.parts)
        if kind in ("text/enriched", "text/richtext"):
            return re.sub(r"</?[\w-]{1,60}>", "", text)
        if str(part.get_param("format") or "").lower() == "flowed":
            return _flowed(text, joined=str(part.get_param("delsp") or "").lower() == "yes")
        return text


def _strict(raw: bytes, charset: str) -> str | None:
    try:
        return raw.decode("iso2022_jp_2" if charset.lower() == "iso-2022-jp" else charset)
    except (UnicodeDecodeError, LookupError):
        return None


def _flowed(text: str, *, joined: bool) -> str:
    """Lines that end with a space go on in the next one (RFC 3676), within one depth of quoting."""
    lines: list[str] = []
    goes_on = ""
    for line in text.replace("\r\n", "\n").split("\n"):
        quotes = re.match(r">*", line)
        depth = quotes[0] if quotes else ""
        words = line[len(depth) :].removeprefix(" ")
        if goes_on == depth and lines and lines[-1].endswith(" ") and words.strip() and words != "-- ":
            lines[-1] = (lines[-1][:-1] if joined else lines[-1]) + words
        else:
            lines.append(f"{depth} {words}" if depth else words)
        goes_on = depth if words.endswith(" ") and words != "-- " else "\0"
    return "\n".join(lines)

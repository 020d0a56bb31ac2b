"""An e-mail message (eml) to text: subject, sender, recipients and date, then the body.

The plain body is preferred to the HTML one. Attachments are named in the metadata and not opened.
"""

from __future__ import annotations

from email import message_from_string, policy
from email.message import EmailMessage, MIMEPart
from typing import cast

from data.loading.draft import Draft
from data.loading.formats.html import render_html
from data.loading.options import Refused
from data.loading.text import decode

_SHOWN = ("From", "To", "Cc", "Date")


def load_mail(text: str, encoding: str) -> Draft:
    """Reads a message from its decoded source."""
    try:
        message = cast(EmailMessage, message_from_string(text.lstrip("\ufeff"), policy=policy.default))
        subject = str(message.get("Subject", "")).strip()
        lines = [f"# {subject}"] if subject else []
        lines += [f"{name}: {value}" for name in _SHOWN if (value := str(message.get(name, "")).strip())]
        body = message.get_body(preferencelist=("plain", "html"))
        content = _content(body) if body is not None else ""
        attachments = [part.get_filename() or part.get_content_type() for part in message.iter_attachments()]
    except (ValueError, LookupError, AttributeError, TypeError, IndexError, RecursionError) as error:
        raise Refused("unreadable", f"its mail structure is damaged ({error}); save it anew") from error
    return Draft(
        ["\n".join(lines) + "\n\n" + content],
        "message/rfc822",
        markup="markdown",
        title=subject,
        metadata={"loader": "email", "encoding": encoding, **({"attachments": attachments} if attachments else {})},
    )


def _content(part: MIMEPart) -> str:
    raw = part.get_payload(decode=True)
    if not isinstance(raw, bytes):
        return str(raw or "")
    declared = part.get_content_charset()
    try:
        text = raw.decode(declared or "utf-8")
    except (LookupError, UnicodeDecodeError):
        text = decode(raw, declared)[0] if raw.strip() else ""
    if part.get_content_type() == "text/html":
        return "".join(render_html(text, whole=True).parts)
    return text

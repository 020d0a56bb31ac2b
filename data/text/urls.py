"""URLs without what may be secret in them: user and password, query and fragment.

What is opened keeps its URL; what is shown, logged or stored goes through here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_LINK = re.compile(r"::(?=(?:[A-Za-z][\w+.-]*::)*[A-Za-z][\w+.-]*://)")  # of a chain: simplecache::https://...
_SCHEME = re.compile(r"[A-Za-z][\w+.-]*://")
_IN_TEXT = re.compile(r"[A-Za-z][\w+.-]*://[^\s'\"<>]+")
_AUTHORITY = re.compile(r"[^/?#]*")
_HOST = re.compile(r"(?:\[[^\]]*\]|[^:@]*)(?::\d*)?")


def without_secrets(url: str) -> str:
    """The URL, or each URL of an fsspec chain, without user, password, query and fragment; other texts unchanged."""
    if "://" not in url:
        return url
    return "::".join(_stripped(part) for part in _LINK.split(url))


def text_without_secrets(text: str) -> str:
    """The text with every URL in it stripped: for error messages that other libraries wrote."""
    return _IN_TEXT.sub(lambda match: without_secrets(match.group()), text)


def value_without_secrets(value: Any) -> Any:
    """A JSON value with every URL in its texts stripped, in keys as well: for a configuration that is stored."""
    if isinstance(value, str):
        return text_without_secrets(value)
    if isinstance(value, Mapping):
        return {value_without_secrets(key): value_without_secrets(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [value_without_secrets(entry) for entry in value]
    return value


def _stripped(url: str) -> str:
    scheme = _SCHEME.match(url)
    if scheme is None:
        return url
    rest = url[scheme.end() :]
    authority = _AUTHORITY.match(rest)
    assert authority is not None
    if "@" in authority.group():
        rest = rest[authority.group().rfind("@") + 1 :]
    elif not _HOST.fullmatch(authority.group()) and "@" in rest:  # a password with one of / ? # in it
        rest = rest[rest.rfind("@") + 1 :]
    return scheme.group() + re.split(r"[?#]", rest, maxsplit=1)[0]

"""Where an endpoint is and how it wants the key: what people paste as its address, taken apart.

The address of a service, of a deployment, of the call itself, with or without an `api-version`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, quote, urlsplit, urlunsplit

from raft_errors import BadInput

_CALL = "/chat/completions"


@dataclass(frozen=True)
class Address:
    """`base` is what the call's path is put behind, `query` what every request carries; None = api.openai.com."""

    base: str | None
    query: dict[str, str] = field(default_factory=dict, repr=False)
    key_header: str = "authorization"

    def headers(self, key: str) -> dict[str, str]:
        """The header with the key; `Authorization` takes it as a bearer's token."""
        name = self.key_header.lower()
        return {name: f"Bearer {key}" if name == "authorization" else key} if key else {}


def web_parts(url: str) -> SplitResult | None:
    """The parts of an address that HTTP knows, with a host and a port that can be; None for another text."""
    try:
        parts = urlsplit(url.strip())
        parts.port  # noqa: B018  raises where it is none
    except ValueError:  # brackets that do not close, a port beyond 65535
        return None
    return parts if parts.scheme in ("http", "https") and parts.hostname else None


def address_of(
    url: str | None, *, model: str, api_version: str | None = None, key_header: str | None = None
) -> Address:
    """The address of an endpoint.

    Args:
        api_version: sent as the query's `api-version`, as Azure wants it; one in the address itself is kept.
        key_header: which header carries the key; None = `api-key` where there is an API version, else `Authorization`.

    Raises:
        BadInput: no address that HTTP knows.
    """
    if url is None:
        return Address(None, {"api-version": api_version} if api_version else {}, key_header or "authorization")
    parts = web_parts(url)
    if parts is None:
        raise BadInput(
            "the teacher's address is no web address",
            expected="http:// or https:// with a host, e.g. http://127.0.0.1:8000/v1",
            do="correct it",
        )
    query = dict(parse_qsl(parts.query))
    if api_version:
        query["api-version"] = api_version
    path = parts.path.rstrip("/").removesuffix(_CALL)
    if "api-version" in query and (parts.hostname or "").endswith(".openai.azure.com") and path in ("", "/openai"):
        path = f"/openai/deployments/{quote(model, safe='')}"
    base = urlunsplit((parts.scheme, parts.netloc, path, "", ""))
    return Address(base, query, key_header or ("api-key" if "api-version" in query else "authorization"))

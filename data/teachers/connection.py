"""One request to an endpoint over HTTP: the parsed answer, or an exception that says what the fault means.

The key is read from the environment when a connection is opened, and neither kept nor shown. Knows no retries.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import openai

from data.teachers.address import Address
from data.teachers.protocol import TeacherFailure
from data.teachers.refusals import Rejected, Retry, exception_of
from data.teachers.replies import Problem, one_line, problem_inside, problem_of
from data.text.urls import without_secrets
from raft_errors import BadInput

# The HTTP library's own errors for a body that stops half way. They are known by name, not by module, since the openai
# client can sit on more than one library.
_BROKEN_OFF = frozenset({"RemoteProtocolError", "ReadError", "DecodingError", "IncompleteRead"})
_NO_WAY = frozenset({"ConnectError"})


@dataclass(frozen=True)
class Connection:
    """The way to one model of one endpoint."""

    address: Address
    model: str
    key_variable: str
    timeout_seconds: float
    max_reply_bytes: int

    @property
    def where(self) -> str:
        """The address without what is secret in it."""
        return without_secrets(self.address.base or "the default OpenAI address")

    def open(self) -> openai.AsyncOpenAI:
        """A client, to be used as a context.

        Raises:
            BadInput: there is no key, and the default address wants one.
        """
        key = self._key()
        if not key and self.address.base is None:
            raise BadInput(
                f"no key in the environment variable {self.key_variable}",
                expected="the key of the teacher's endpoint",
                do=f"export {self.key_variable}=..., or name an endpoint that needs no key",
            )
        bearer = self.address.key_header.lower() == "authorization"
        return openai.AsyncOpenAI(
            api_key=key or "none",
            base_url=self.address.base,
            timeout=self.timeout_seconds,
            max_retries=0,
            organization="",
            default_headers=self.address.headers(key),
            default_query=self.address.query,
            # a header that the HTTP library does not know as a secret must not follow a redirect to another host
            http_client=None if bearer else openai.DefaultAsyncHttpxClient(follow_redirects=False),
        )

    async def post(
        self, client: openai.AsyncOpenAI, request: Mapping[str, Any], *, accepted: bool
    ) -> Mapping[str, Any] | TeacherFailure:
        """The JSON object of the answer, or the failure that its size is.

        Args:
            accepted: see `exception_of`.

        Raises:
            Retry, Rejected, BadInput, BudgetReached: the answer is a fault.
        """
        try:
            async with asyncio.timeout(self.timeout_seconds):
                body, headers = await self._send(client, request)
        except (TimeoutError, openai.APITimeoutError):
            raise Retry("timeout", f"no whole reply within {self.timeout_seconds:g} s") from None
        except openai.APIStatusError as error:
            problem = problem_of(error.status_code, error.response.content, self._key())
            raise self._exception(problem, error.response.headers, accepted) from None
        except openai.APIConnectionError as error:
            raise self._lost(error.__cause__ or error) from None
        except Exception as error:
            if type(error).__name__ in _BROKEN_OFF:
                raise self._lost(error) from None
            raise
        if body is None:
            return TeacherFailure("too_long", f"the reply is longer than {self.max_reply_bytes} bytes")
        if "html" in headers.get("content-type", "").lower() or _is_page(body):
            page = one_line(body.decode("utf-8", "replace"), self._key())
            raise Rejected("html", Problem(200, f"the endpoint answered with a web page: {page}"))
        try:
            payload = json.loads(body)
        except (ValueError, RecursionError):
            payload = None
        if inner := problem_inside(payload, self._key()):
            raise self._exception(inner, headers, accepted)
        if not isinstance(payload, dict):
            words = one_line(body[:200].decode("utf-8", "replace"), self._key())
            raise Retry("broken", f"the reply is not a chat completion in JSON: {words!r}")
        return payload

    async def _send(
        self, client: openai.AsyncOpenAI, request: Mapping[str, Any]
    ) -> tuple[bytes | None, Mapping[str, str]]:
        """The raw body (None when over-long) and the headers."""
        bearer = self.address.key_header.lower() == "authorization"
        call = client.chat.completions.with_streaming_response.create(
            model=self.model, **request, extra_headers={} if bearer else {"Authorization": openai.Omit()}
        )
        async with call as response:
            body = bytearray()
            async for piece in response.iter_bytes():
                body += piece
                if len(body) > self.max_reply_bytes:
                    return None, {}
            return bytes(body), response.headers

    def _key(self) -> str:
        return os.environ.get(self.key_variable, "").strip()

    def _lost(self, error: BaseException) -> Retry:
        words = one_line(str(error), self._key())
        reason = "unreachable" if type(error).__name__ in _NO_WAY else "connection"
        return Retry(reason, f"{type(error).__name__}{words and f': {words}'}")

    def _exception(self, problem: Problem, headers: Mapping[str, str], accepted: bool) -> Exception:
        return exception_of(
            problem,
            headers,
            where=self.where,
            model=self.model,
            key_variable=self.key_variable,
            accepted=accepted,
        )


def _is_page(body: bytes) -> bool:
    return body.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html"))

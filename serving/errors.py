"""Errors as every client of the OpenAI API reads them: one JSON object, whoever refuses."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """A request that is refused.

    Args:
        status: of HTTP.
        message: for people; never holds a prompt, a passage or a path.
        param: the field at fault.
        headers: `Retry-After`, `x-should-retry`.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """The error object."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def no_model(name: str, reason: str = "") -> ApiError:
    """The error for a model that is not served, with the reason where it is one that could be."""
    message = f"The model {name[:80]!r} " + (f"is not served: {reason}" if reason else "does not exist")
    return ApiError(404, message, code="model_not_found", param="model")


def broken_adapter(name: str) -> ApiError:
    """The error for an adapter that cannot be used; asking again helps nobody."""
    message = f"The adapter {name[:80]} cannot be used; the server's log says why"
    headers = {"x-should-retry": "false"}
    return ApiError(400, message, code="adapter_broken", param="model", headers=headers)


def not_for_this_key() -> ApiError:
    """The error for a key whose filter names fields that a domain's documents do not have."""
    return ApiError(403, "This key may not search this model", code="key_not_allowed", param="model")


def other_version(why: str) -> ApiError:
    """The error for a question that this server would answer otherwise than it is meant."""
    return ApiError(409, why, code="other_version")


def too_slow() -> ApiError:
    """The error of a request whose deadline has passed."""
    return ApiError(504, "The answer took longer than this server allows", code="timeout")


def too_late() -> ApiError:
    """The error of a request whose body has not arrived whole in time."""
    return ApiError(408, "The body did not arrive in the time that this server allows", code="timeout")


def not_ready(name: str) -> ApiError:
    """The error for an adapter that is not on the server that generates yet; asking again later may help."""
    message = f"The adapter {name[:80]} is not ready on the server that generates"
    return ApiError(503, message, code="not_ready", headers={"Retry-After": "5"})


def busy(seconds: int) -> ApiError:
    """The error for a full queue."""
    return ApiError(429, "The queue is full", code="rate_limit_exceeded", headers={"Retry-After": str(seconds)})


def failed() -> ApiError:
    """The error for what nobody has foreseen; the log says more."""
    return ApiError(500, "The server failed on this request", code="server_error")


def not_serving() -> ApiError:
    """The error while the server starts or drains."""
    return ApiError(503, "The server is not taking requests", code="not_ready", headers={"Retry-After": "2"})

"""The one family of errors that every room raises.

An error says what went wrong, where (file, field or value), what was expected and what to do. It knows nothing of
Prefect, command lines or logging: the `raft` command turns it into one message and an exit code.
"""

from __future__ import annotations


class RaftError(Exception):
    """Something failed that the user should hear about in one message.

    Args:
        what: what went wrong, naming the file, field or value.
        expected: what would have been right.
        do: what to do now.

    `str(error)` joins the given parts into one readable message.
    """

    exit_code = 1

    def __init__(self, what: str, *, expected: str = "", do: str = "") -> None:
        self.what, self.expected, self.do = what, expected, do
        parts = [what.rstrip(".") + "."]
        if expected:
            parts.append(f"Expected: {expected.rstrip('.')}.")
        if do:
            parts.append(f"Do: {do.rstrip('.')}.")
        super().__init__(" ".join(parts))

    def __reduce__(self):  # keyword-only arguments survive pickling between processes
        return (_rebuild, (type(self), self.what, self.expected, self.do))


def _rebuild(cls: type[RaftError], what: str, expected: str, do: str) -> RaftError:
    return cls(what, expected=expected, do=do)


class BadInput(RaftError):
    """The user's files, configuration or values cannot be used: never retried, exit code 2."""

    exit_code = 2


class Interrupted(RaftError):
    """Work stopped on a signal with its state saved: run again to go on, exit code 75."""

    exit_code = 75

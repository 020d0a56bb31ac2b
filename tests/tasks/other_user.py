"""What another user of the machine can do: work in a forked child that has given up root."""

import contextlib
import os
import pickle
import shutil
import tempfile
from pathlib import Path

import pytest

STRANGER, GROUP = 64321, 64320
CHECKOUT = Path(__file__).resolve().parents[2]


def as_user(work, user=STRANGER, groups=()):
    """The result of `work()` as another user; raises what it raised. Skips where the tests do not run as root,
    or where that user cannot read this project's own files, as in a folder of `mktemp -d`.

    Args:
        groups: that the user is in; the first is its own group.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can try what another user can do")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(list(groups))
            os.setgid(groups[0] if groups else user)
            os.setuid(user)
            os.umask(0o022)
            answer = (True, work())
        except BaseException as error:
            answer = (False, error)
        try:
            body = pickle.dumps(answer)
        except Exception:
            body = pickle.dumps((False, AssertionError(repr(answer))))
        with os.fdopen(writing, "wb") as file:
            file.write(body)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        body = file.read()
    os.waitpid(child, 0)
    well, value = pickle.loads(body)
    if not well:
        if isinstance(value, PermissionError) and CHECKOUT in Path(value.filename or "").parents:
            pytest.skip(f"another user cannot read this project's code: {CHECKOUT} or a folder above it is closed")
        raise value
    return value


@contextlib.contextmanager
def common_folder():
    """A folder that every user may pass through; pytest's own are closed."""
    folder = Path(tempfile.mkdtemp(prefix="raft-common-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)

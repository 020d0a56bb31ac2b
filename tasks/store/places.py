"""The folders outside the store: a home, the cache of this user's projects, and a place for temporary files.

A container may run us under any user id, without a home, with a read-only one, or with `/` as home. Then a private
folder below the temporary one stands in, for us and for every library that looks for a home; it is used only if it is
ours alone, since whoever can write there could plant models and compiled programs.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import stat
import tempfile
from pathlib import Path

from raft_errors import BadInput, RaftError
from tasks.store.access import PRIVATE, make_folder, owner


def cache_folder() -> Path:
    """`$RAFT_CACHE`, else `$XDG_CACHE_HOME/raft`, else `~/.cache/raft`; private if it is made now.

    Raises:
        BadInput: there is no home, and no private folder can stand in for it.
    """
    if own := os.environ.get("RAFT_CACHE"):
        folder = Path(own).absolute()
    elif base := os.environ.get("XDG_CACHE_HOME"):
        folder = Path(base) / "raft"
    else:
        folder = home() / ".cache" / "raft"
        if not folder.is_dir() and not _can_make(folder):
            folder = _stand_in() / ".cache" / "raft"
    try:
        return make_folder(folder, PRIVATE)
    except (OSError, RaftError):  # its users do without it, or report it
        return folder


def compile_cache() -> Path:
    """Where JAX keeps compiled programs, for all projects of this user."""
    return _writable_cache() / "jax"


def calibration_file() -> Path:
    """The file that remembers the choice of precision for an embedder on this hardware."""
    return cache_folder() / "embedding_precision.json"


def lock_folder() -> Path:
    """Where the locks between the projects of this user lie."""
    return _writable_cache() / "locks"


def _writable_cache() -> Path:
    """The cache, or what stands in for one that can only be read."""
    folder = cache_folder()
    return folder if _can_make(folder) else make_folder(_stand_in() / ".cache" / "raft")


def home() -> Path:
    """The user's home, or what stands in for it."""
    try:
        folder = Path.home()
    except RuntimeError:
        return _stand_in()
    return folder if folder.is_dir() else _stand_in()


def settle_home() -> None:
    """Gives this process and its children a usable home and cache if they have none. Call it early.

    Raises:
        BadInput: no folder can stand in for the home.
    """
    folder = home()
    try:
        present = Path.home()
    except RuntimeError:
        present = None
    if folder != present:
        os.environ["HOME"] = str(folder)
    elif "XDG_CACHE_HOME" not in os.environ and not _can_make(folder / ".cache" / "raft"):
        caches = _stand_in() / ".cache"
        for name, part in (("HF_HOME", "huggingface"), ("RAFT_CACHE", "raft")):
            if (own := folder / ".cache" / part).is_dir():
                os.environ.setdefault(name, str(own))  # models in there are still read
        os.environ["XDG_CACHE_HOME"] = str(caches)
        os.environ.setdefault("MPLCONFIGDIR", str(caches / "matplotlib"))
    try:
        getpass.getuser()
    except (KeyError, OSError):  # an id without a name makes libraries fail
        os.environ["LOGNAME"] = f"uid-{os.getuid()}"


def temporary_folder() -> Path:
    """
    Raises:
        BadInput: there is no folder for temporary files.
    """
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        place = os.environ.get("TMPDIR", "/tmp")
        raise BadInput(
            f"There is no place for temporary files ({place} and the usual folders are missing, full or read-only)",
            expected="a folder that you may write, on a disk with room",
            do="set TMPDIR to one",
        ) from error


def _stand_in() -> Path:
    """A folder that belongs to this user alone: in the cache if one is named, else below the temporary folder."""
    if own := os.environ.get("RAFT_CACHE"):
        with contextlib.suppress(OSError):
            if _can_make(folder := make_folder(Path(own).absolute() / "home", PRIVATE)):
                return folder
    folder = temporary_folder() / f"raft-home-{os.getuid()}"
    try:
        folder.mkdir(mode=PRIVATE)
    except FileExistsError:
        pass
    except OSError as error:
        raise _no_home(f"{folder} cannot be made ({error.strerror})") from error
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise _no_home(f"{folder} is not a private folder of this user (it belongs to {owner(folder)})")
    return folder


def _no_home(why: str) -> BadInput:
    return BadInput(
        f"There is no home folder that can be used, and {why}",
        expected="a home, or a folder for the cache that belongs to you alone",
        do="set HOME or RAFT_CACHE to a folder that you may write",
    )


def _can_make(folder: Path) -> bool:
    """Whether the folder can be written, or made where it is missing."""
    while not os.path.lexists(folder):
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)

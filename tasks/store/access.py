"""Who may read and write what is made here: everything in a folder of ours is as open as that folder.

A store or cache folder is made private (0700), or for its group (2770); whatever is made in it later gets the same
rights, whatever the umask says. So its owner decides with one `chmod`, and a store that a group works in stays usable
for the whole group. It knows nothing of stores.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from raft_errors import RaftError

PRIVATE = 0o700
GROUP = 0o2770  # with the set-group-id bit, so that what is made in it belongs to the group
_INHERITED = 0o2777
_AT_FDCWD, _RENAME_NOREPLACE = -100, 1  # linux/fcntl.h, linux/fs.h


def folder_mode(folder: Path) -> int:
    """The mode of folders made in `folder`: the same as its own; private in one like /tmp, where everybody writes."""
    mode = stat.S_IMODE(folder.stat().st_mode)
    return PRIVATE if mode & stat.S_ISVTX else mode & _INHERITED | PRIVATE


def file_mode(folder: Path) -> int:
    """The mode of files made in `folder`."""
    return folder_mode(folder) & 0o666


def make_folder(folder: Path, mode: int | None = None) -> Path:
    """Creates the folder and what is missing above it; one that exists stays as it is.

    Args:
        mode: of the folder; None takes the mode of the folder it stands in.
    Raises:
        RaftError: something else is in its place.
        OSError: it cannot be made.
    """
    if folder.is_dir():
        return folder
    if os.path.lexists(folder) and not folder.is_dir():  # which another may have made since the first look
        raise RaftError(f"{folder} is in the way", expected="a folder in this place", do="move it away and try again")
    if mode is None:
        parent = make_folder(folder.parent)
    else:  # the folders above belong to the user and get the user's own rights
        parent = folder.parent
        parent.mkdir(parents=True, exist_ok=True)
    # It is made under another name, so that nobody ever sees it with other rights.
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name[:40]}.", dir=parent))
    try:
        temporary.chmod(folder_mode(parent) if mode is None else mode)
        _rename_new(temporary, folder)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.rmdir()
        if not folder.is_dir():  # else another process was faster
            raise
    return folder


def _rename_new(folder: Path, name: Path) -> None:
    """Gives a folder another name that nothing has.

    A plain rename would put it in the place of an empty folder, in which another process is about to make a file.

    Raises:
        OSError: the name is taken, or cannot be given.
    """
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2  # Linux only
    except (OSError, AttributeError):
        folder.rename(name)
        return
    if renameat2(_AT_FDCWD, os.fsencode(folder), _AT_FDCWD, os.fsencode(name), _RENAME_NOREPLACE):
        if ctypes.get_errno() == errno.EEXIST:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(name))
        folder.rename(name)  # the kernel or the file system cannot do without


def make_file(path: Path) -> None:
    """Creates an empty file with the rights of its folder, where there is none."""
    mode = file_mode(path.parent)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError:
        return
    try:
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def follow_tree(folder: Path, parent: Path) -> None:
    """Gives a folder and everything below it the rights of what is made in `parent`."""
    for_folders, for_files = folder_mode(parent), file_mode(parent)
    for base, _, names in os.walk(folder):
        _set(Path(base), for_folders)
        for name in names:
            path = Path(base, name)
            if stat.S_ISREG(path.lstat().st_mode):
                _set(path, for_files)


def _set(path: Path, mode: int) -> None:
    if stat.S_IMODE(path.stat().st_mode) != mode:
        path.chmod(mode)


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """What this process and its children create during the block is as open as `folder`."""
    before = os.umask(0o777 & ~folder_mode(folder))
    try:
        yield
    finally:
        os.umask(before)


def owner(path: Path) -> str:
    """The user to whom a file or folder belongs, by name where there is one."""
    try:
        uid = path.lstat().st_uid
    except OSError:
        return "another user"
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def remove(path: Path) -> None:
    """Removes a file, a folder with everything in it, or whatever else has this name."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_whole(path: Path, body: bytes) -> None:
    """Replaces a file atomically and durably."""
    temporary = path.with_name(f".{path.name}")
    remove(temporary)
    make_file(temporary)
    with temporary.open("wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

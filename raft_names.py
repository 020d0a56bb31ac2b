"""The names of our packages are common words: this module makes sure that each of them is ours before it is used.

A `tasks.py` beside a script, or a folder on PYTHONPATH with a `data` package in it, comes before ours in Python's
search and would end an import deep inside. Each package asks here for those that it builds on; the `raft` command asks
for all.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

NAMES = ("data", "retrieval", "jora_engine", "tasks", "flows")
SAFE_PATH = "raft"
"""Our value of PYTHONSAFEPATH (Python asks only whether there is one), by which it is told from a user's own."""
_HOME = Path(__file__).resolve().parent


class HiddenPackage(ImportError):
    """Another module has the name of one of our packages."""


def require(*names: str) -> None:
    """Makes sure that the packages of these names are ours.

    Raises:
        HiddenPackage: naming the file that hides one, and what to do.
    """
    for name in names:
        place = _place(name)
        if place != _HOME / name / "__init__.py":
            raise HiddenPackage(
                f"{place or 'a module without a file'} hides the package {name!r} of jora-raft ({_HOME / name}). "
                "Do: rename it or move it out of Python's search path; where it is a folder or a file beside your "
                "script, `python -P` leaves that folder out."
            )


def _place(name: str) -> Path | None:
    """The file behind a top-level module, imported or not; the folder where it is one without `__init__.py`."""
    module = sys.modules.get(name)
    try:
        spec = importlib.util.find_spec(name) if module is None else module.__spec__
    except ValueError:  # a module that was put together by hand
        spec = None
    origin = spec.origin if spec else getattr(module, "__file__", None)
    if origin:
        return Path(origin).resolve()
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return Path(folders[0]).resolve() if folders else None


def keep_working_folder_out() -> None:
    """Every Python process started from here on searches neither the folder it is started in nor its script's.

    The folder in which somebody calls `raft` is data: an `optax.py` in it must not be imported by the trainer.
    """
    os.environ.setdefault("PYTHONSAFEPATH", SAFE_PATH)


def environment_of_the_user() -> dict[str, str]:
    """This process's environment without what `keep_working_folder_out` put there, for a user's own command."""
    return {name: value for name, value in os.environ.items() if (name, value) != ("PYTHONSAFEPATH", SAFE_PATH)}

"""The names of our packages: whether each of them is ours before it is used, and what a package offers its users.

A `tasks.py` beside a script, or a folder on PYTHONPATH with a `data` package in it, comes before ours in Python's
search and would end an import deep inside. Each package asks here for those that it builds on; the `raft` command asks
for all.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAMES = ("data", "retrieval", "jora_engine", "tasks", "serving", "flows")
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
    for name in ("raft_errors", *names):
        place = _place(name)
        if place not in (_HOME / name / "__init__.py", _HOME / f"{name}.py"):
            raise HiddenPackage(
                f"{place or 'a module without a file'} hides the package {name!r} of jora-raft (in {_HOME}). "
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


def offer(package: str, init: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package that offers names of its modules, each imported when it is asked for.

    The names stand in `__init__.pyi` beside the package's `__init__.py`, one `from module import name as name` each:
    type checkers and editors read the same lines. They are not in `__init__.py` itself because a stage's key follows
    the imports of Python files, and a face that reached into every module would make every result hang on all of them.
    For the same reason our own code imports from the modules and never from a face.

    Args:
        package, init: `__name__` and `__file__` of the package.
    """
    modules = functools.cache(lambda: _offered(Path(init).with_suffix(".pyi")))

    def get(name: str) -> Any:
        if name == "__all__":
            return sorted(modules())
        if name not in modules():
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(modules()[name]), name)

    return get, lambda: sorted({*vars(sys.modules[package]), *modules()})


def _offered(stub: Path) -> dict[str, str]:
    """Name -> the module that it comes from."""
    lines = ast.parse(stub.read_text(encoding="utf-8")).body
    return {alias.name: str(node.module) for node in lines if isinstance(node, ast.ImportFrom) for alias in node.names}


def keep_working_folder_out() -> None:
    """Every Python process started from here on searches neither the folder it is started in nor its script's.

    The folder in which somebody calls `raft` is data: an `optax.py` in it must not be imported by the trainer.
    """
    os.environ.setdefault("PYTHONSAFEPATH", SAFE_PATH)


def environment_of_the_user() -> dict[str, str]:
    """This process's environment without what `keep_working_folder_out` put there, for a user's own command."""
    return {name: value for name, value in os.environ.items() if (name, value) != ("PYTHONSAFEPATH", SAFE_PATH)}

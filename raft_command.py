"""Entry point of the `raft` command: makes sure of our packages' names before anything of them is imported."""

from __future__ import annotations

import importlib.util
import sys
from typing import NoReturn

from raft_names import NAMES, HiddenPackage, require


def main() -> NoReturn:
    """Runs `raft`; one line says what to do on another system, and where a foreign module hides one of our packages."""
    if importlib.util.find_spec("fcntl") is None:  # its locks keep two runs from building the same thing
        sys.stderr.write("Error: raft runs on Linux and macOS. Do: on Windows run it under WSL2\n")
        sys.exit(2)
    try:
        require(*NAMES)
    except HiddenPackage as error:
        sys.stderr.write(f"Error: {error}\n")
        sys.exit(2)  # bad input; our own errors may be what is hidden
    from flows.cli.app import main as command

    command()

"""Entry point of the `raft` command: makes sure of our packages' names before anything of them is imported."""

from __future__ import annotations

import sys
from typing import NoReturn

from raft_names import NAMES, HiddenPackage, require


def main() -> NoReturn:
    """Runs `raft`; where a foreign module hides one of our packages, one line says which and what to do."""
    try:
        require(*NAMES)
    except HiddenPackage as error:
        sys.stderr.write(f"Error: {error}\n")
        sys.exit(2)  # bad input; our own errors may be what is hidden
    from flows.cli.app import main as command

    command()

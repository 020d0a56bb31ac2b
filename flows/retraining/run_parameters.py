"""What a run may be told by whoever starts it: less than what the configuration says.

A schedule's runs are started through Prefect's server, also by its pages and by whatever else talks to it. So a run's
`config` can only be the configuration that was put in charge here, and its `overrides` can only turn numbers, switches
and choices; a path, an address or a command is written by whoever has the files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from raft_errors import BadInput
from tasks.build.section import closed_changes
from tasks.config import CONFIG_NAME, RunConfig, load_config

SERVED = "RAFT_SERVED"  # what `raft schedule` was started with; the processes of its runs inherit it
PROJECT = "RAFT_PROJECT"  # the folder of a worker's project, see prefect.yaml


def remember(path: Path, overrides: Sequence[str]) -> None:
    """Tells the processes of the runs that this one will start what they may be about."""
    os.environ[SERVED] = json.dumps({"config": str(path), "overrides": list(overrides)})


def config_of_run(config: str, overrides: Sequence[str]) -> RunConfig:
    """The configuration of a run that a server started.

    Raises:
        BadInput: its parameters name another configuration, or set what they may not, naming the field.
    """
    own, given = _in_charge()
    if Path(config).resolve() != own.resolve():
        raise BadInput(
            f"The run's parameter config names {config}",
            expected=f"{own}, the configuration that is served here",
            do=f"serve the other one as well: raft schedule {config}; or with a worker, set {PROJECT} to its folder",
        )
    wanted = load_config(own, [*given, *overrides])
    by_file, as_served = (closed_changes(load_config(own, texts), wanted) for texts in ((), given))
    if names := [name for name in as_served if name in by_file]:
        raise BadInput(
            f"The run's parameter overrides may not set {', '.join(names)}",
            expected="numbers, switches and choices; paths, addresses, commands and names are the configuration's",
            do=f"write it into {own}, or give it to raft schedule --set",
        )
    return wanted


def _in_charge() -> tuple[Path, list[str]]:
    """The configuration that runs of this process may be about, and what the operator overrode in it."""
    if served := os.environ.get(SERVED):
        words = json.loads(served)
        return Path(words["config"]), words["overrides"]
    return Path(os.environ.get(PROJECT, ".")).absolute() / CONFIG_NAME, []

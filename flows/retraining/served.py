"""A night in a process that Prefect started: brought to its end also where its server is lost."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from flows.retraining.log import log_event
from flows.retraining.night import retrain
from flows.retraining.pages import flow_run_now, publish
from flows.retraining.run_parameters import config_of_run
from flows.run import Run
from tasks.config import load_config
from tasks.prefect import link as prefect_link

log = logging.getLogger("raft.flows")


def served_night(config: str, overrides: Sequence[str]) -> None:
    """Retrains the domain of a configuration, if its corpus or its age asks for it; then ends the process's tie.

    Args:
        config: absolute path of the YAML file; of a deployment's run, the one that is served.
        overrides: see `flows.nightly.nightly`.
    """
    logging.getLogger("raft").setLevel(logging.INFO)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    by_server = flow_run_now().deployment_id is not None
    loaded = config_of_run(config, overrides) if by_server else load_config(Path(config), overrides)
    run = Run.of(loaded, log_event)
    with prefect_link.bounded() as tighten:
        tighten()
        try:
            night = retrain(run)
        except asyncio.CancelledError:  # Prefect ends a run whose place among the deployment's runs it cannot renew
            if prefect_link.still_there():
                raise
            prefect_link.lose(ConnectionError("the run's lease could not be renewed"))
            night = retrain(run, direct=True)
        log.info("%s: %s", night.result, night.why or night.reason)
        publish(run.config.name, night)
        if not prefect_link.still_there():
            prefect_link.lose(ConnectionError("it does not answer"))
    prefect_link.leave(0)  # the night is in the store; Prefect would wait minutes to say so

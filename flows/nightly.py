"""The flow that a schedule or a changed corpus starts: one retraining of one domain, in a process of its own.

Deployments name this file, so it stays where it is; what is done stands in `flows.retraining`.
"""

from __future__ import annotations

from prefect import flow

from flows.retraining.pages import tell_failure


@flow(name="raft-nightly", log_prints=False, flow_run_name="{because}", on_failure=[tell_failure])
def nightly(config: str, overrides: list[str] | None = None, because: str = "by hand") -> None:
    """Retrains the domain of a configuration, if its corpus or its age asks for it.

    Args:
        config: absolute path of the YAML file; of a deployment's run, the one that is served.
        overrides: `section.field=value` texts, as with `raft run --set`; of a deployment's run, no paths, addresses and
            commands but those that `raft schedule --set` was given.
        because: why now, for the history.
    """
    from flows.retraining.served import served_night

    served_night(config, overrides or [])

"""What Prefect's server is told once: limits on training, the end of runs that died silently, and notifications.

Everything is found by its name and replaced, so that it can be set up again and again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from flows.prefect.slot import training_limit
from flows.retraining.deployment import HEARTBEAT_SECONDS
from flows.retraining.pages import DECIDED, FAILED

ZOMBIES = "raft: a run that went silent is crashed"
TOLD = {FAILED, "prefect.flow-run.Crashed", f"{DECIDED}*"}  # a failed run, a dead one, a decision
ENDED = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}


def prepare_server(name: str, deployment: str, addresses: Sequence[str]) -> None:
    """Creates or renews the limit on trainings, the clean-up, and the notifications of one deployment.

    Args:
        name: of the adapter.
        deployment: the resource id of its deployment.
    """
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(training_limit(), 1)
    _replace(clean_up())
    for number, address in enumerate(addresses, 1):
        _replace(notification(name, deployment, address, number))
    number = len(addresses) + 1
    while _drop(_tells(name, number)):  # from an earlier schedule with more addresses
        number += 1


def clean_up() -> Any:
    """A run whose heart-beat stopped (its machine or its server died) is marked as crashed and frees its place."""
    from prefect.automations import Automation
    from prefect.events import EventTrigger, Posture
    from prefect.events.actions import ChangeFlowRunState

    return Automation(
        name=ZOMBIES,
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *ENDED},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=3 * HEARTBEAT_SECONDS),
        ),
        actions=[ChangeFlowRunState(state="CRASHED", message="No sign of life: its process or machine died.")],
    )


def notification(name: str, deployment: str, address: str, number: int) -> Any:
    """Failures of the deployment's runs and decisions about its adapter, sent to a webhook or an Apprise address."""
    from prefect.automations import Automation
    from prefect.events import EventTrigger, Posture
    from prefect.events.actions import CallWebhook, SendNotification

    subject = f"raft {name}: {{{{ event.event }}}}"
    body = "{{ event.event }} at {{ event.occurred }}: {{ event.payload }}"
    block = f"raft-{name}-{number}"
    action: Any
    if address.startswith(("http://", "https://")):
        from prefect.blocks.webhook import Webhook

        payload = (
            f'{{"adapter": "{name}", "event": "{{{{ event.event }}}}", "at": "{{{{ event.occurred }}}}", '
            '"payload": {{ event.payload | tojson }}}'
        )
        saved = Webhook(url=address).save(block, overwrite=True)
        action = CallWebhook(block_document_id=saved, payload=payload)
    else:
        from prefect.blocks.notifications import (
            SlackWebhook,  # hands any Apprise address to Apprise, in spite of its name
        )

        saved = SlackWebhook(url=address).save(block, overwrite=True)
        action = SendNotification(block_document_id=saved, subject=subject, body=body)
    return Automation(
        name=_tells(name, number),
        trigger=EventTrigger(
            expect=TOLD,
            match_related={"prefect.resource.role": "deployment", "prefect.resource.id": deployment},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[action],
    )


def _tells(name: str, number: int) -> str:
    return f"raft: {name} tells {number}"


def _replace(automation: Any) -> None:
    _drop(automation.name)
    automation.create()


def _drop(name: str) -> bool:
    """Deletes the automations of that name; whether there were any."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        namesakes = client.read_automations_by_name(name)
        for old in namesakes:
            client.delete_automation(old.id)
    return bool(namesakes)

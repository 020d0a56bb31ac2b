"""The verbs that build up to a stage and do nothing else."""

from __future__ import annotations

from collections.abc import Callable

from flows.calls import CALLS
from flows.cli.options import ConfigArgument, ForceOption, JsonOption, KeepOption, NoPrefectOption, SetOption
from flows.cli.run import build_to

OWN_FILES = ("ingest", "questions", "records")


def stage_verbs() -> dict[str, Callable[..., None]]:
    """Name -> verb; the name is that of its call in the pipeline."""
    return {call.name: _stage_verb(call.name, call.stage.help) for call in CALLS if call.name not in OWN_FILES}


def _stage_verb(name: str, text: str) -> Callable[..., None]:
    def verb(
        config: ConfigArgument = None,
        set_: SetOption = None,
        keep: KeepOption = None,
        force: ForceOption = False,
        no_prefect: NoPrefectOption = False,
        json: JsonOption = False,
    ) -> None:
        build_to(config, set_, name, force, no_prefect, json, keep)

    verb.__doc__ = f"{text} Builds what it needs first."
    return verb

"""The verbs that build up to one stage and have nothing of their own beside it."""

from __future__ import annotations

from collections.abc import Callable

from flows.cli.options import ConfigArgument, ForceOption, JsonOption, KeepOption, NoPrefectOption, SetOption
from flows.cli.run import build

STAGE_HELP = {
    "chunk": "Cut the documents into chunks.",
    "embed": "Embed the chunks.",
    "index": "Build the search index.",
    "questions": "Import questions or ask the teacher for them.",
    "train": "Train the LoRA adapter.",
    "evaluate": "Compare base and adapter on held-out documents.",
}


def stage_verbs() -> dict[str, Callable[..., None]]:
    """Each verb by its name, which is its stage's."""
    return {name: _stage_verb(name, text) for name, text in STAGE_HELP.items()}


def _stage_verb(name: str, text: str) -> Callable[..., None]:
    def verb(
        config: ConfigArgument = None,
        set_: SetOption = None,
        keep: KeepOption = None,
        force: ForceOption = False,
        no_prefect: NoPrefectOption = False,
        json: JsonOption = False,
    ) -> None:
        build(config, set_, name, force, no_prefect, json, keep)

    verb.__doc__ = f"{text} Builds what it needs before."
    return verb

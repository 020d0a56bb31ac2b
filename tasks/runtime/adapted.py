"""What the stage `adapt` chose and kept, as those who search, embed and export read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.runtime.folders import StageFiles, read_json


def choice_of(adapt: StageFiles | None) -> dict[str, Any]:
    """What the stage `adapt` chose, `retriever.json`; empty where it did not run."""
    return {} if adapt is None else read_json(adapt.path("retriever.json"))


@dataclass(frozen=True)
class AdaptedModel:
    """A model that the stage `adapt` kept, as a `ModelFolder`."""

    name: str
    folder: Path
    digest: str
    source: str = "adapt"
    chat: Mapping[str, Any] = field(default_factory=dict)


def adapted(adapt: StageFiles | None, role: str) -> AdaptedModel | None:
    """The fitted `embedder` or `reranker`, None where the one of the configuration is used as it is."""
    entry = choice_of(adapt).get(role)
    if adapt is None or entry is None:
        return None
    return AdaptedModel(f"{entry['name']}, adapted", adapt.path(role), entry["digest"])

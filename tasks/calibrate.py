"""Stage `calibrate`: the threshold below which an adapter's answers are withheld, so that few of those given cite
wrongly. Part of a run that sets `ask.citation_error`; it stands before `export`, whose contract carries it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tasks.build.section import Section, setting
from tasks.build.stage import Stage
from tasks.work.calibrate import build

if TYPE_CHECKING:
    from pydantic import BaseModel


class CalibrateConfig(Section):
    """On what the threshold of `ask.citation_error` is chosen."""

    questions: int = setting(400, "Validation questions at most, in the order of the records", unit="questions", ge=1)
    batch_size: int = setting(16, "Prompts answered side by side", unit="prompts", ge=1, le=512, result=False)


def wanted(section: Any, shared: Mapping[str, BaseModel]) -> bool:
    """Whether the configuration promises anything of the citations."""
    ask: Any = shared["ask"]
    return ask.citation_error is not None


STAGE = Stage(
    "calibrate",
    CalibrateConfig,
    build,
    help="Choose the threshold that keeps wrong citations rare.",
    models=("embedder", "base"),
    models_if_set=("reranker",),
    shared=("retrieval", "ask"),
    seeded=True,
    cache="evaluate",
    wanted=wanted,
)

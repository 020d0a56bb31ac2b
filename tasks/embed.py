"""Stage `embed`: chunks into unit vectors, the durable artefact that any index can be rebuilt from."""

from __future__ import annotations

from typing import Literal

from tasks.build.section import Section, setting
from tasks.build.stage import Stage
from tasks.work.embed import build


class EmbedConfig(Section):
    """How chunks become vectors."""

    device: str = setting("auto", "auto, cpu, cuda or cuda:N", result=False)
    precision: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "Precision of the transformer; auto measures once what is faster and equal in rank on this machine"
    )
    workers: int = setting(
        1, "Processes that embed; they share the cores, or take the GPUs in turn", ge=1, le=256, result=False
    )
    cluster: str | None = setting(
        None, "Scheduler of a Dask cluster whose workers embed, e.g. tcp://host:8786; null = this machine", result=False
    )


STAGE = Stage(
    "embed",
    EmbedConfig,
    build,
    help="Embed the chunks.",
    models=("embedder",),
)

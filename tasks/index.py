"""Stage `index`: vectors into a FAISS index whose manifest is checked before it is ever loaded."""

from __future__ import annotations

from typing import Literal

from tasks.build.section import Section, setting
from tasks.build.stage import Stage
from tasks.work.index import build


class IndexConfig(Section):
    """How vectors are indexed."""

    kind: Literal["auto", "flat", "ivf_flat", "ivf_sq8"] = setting(
        "auto", "flat is exact; the others approximate; auto takes flat up to 300,000 vectors"
    )
    target_recall: float = setting(0.97, "Recall@10 against exact search that the ivf kinds must reach", gt=0, le=1)


STAGE = Stage("index", IndexConfig, build, help="Build the search index.")

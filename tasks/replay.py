"""Stage `replay`: the records of a warm start: all that the earlier version never saw, and a share of those it did."""

from __future__ import annotations

from tasks.build.section import Section, setting
from tasks.build.stage import Stage
from tasks.work.replay import build


class ReplayConfig(Section):
    """What a warm start is trained on."""

    share: float = setting(
        0.5, "Share of the records known from the earlier version that a warm start sees again", ge=0, le=1
    )


STAGE = Stage("replay", ReplayConfig, build, help="Choose the records of a warm start.", seeded=True)

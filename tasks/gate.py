"""Stage `gate`: the candidate against the promoted version and the base model, on the fresh and the frozen test set.

Everybody answers the same questions over the same passages; `data.evaluation.promotion` decides, and its reasons are
written down. It promotes nothing: that is the registry's business.
"""

from __future__ import annotations

from data.evaluation.promotion import Rule
from tasks.build.section import Section, setting
from tasks.build.stage import Stage
from tasks.work.gate import build


class GateConfig(Section):
    """When a candidate takes the place of the promoted version; an evaluation's verdict goes by the same rule."""

    margin: float = setting(
        Rule.margin,
        "A mean (0 to 1) may be lower than the promoted version's or the base's by at most this",
        ge=0,
        le=1,
    )
    gain: float = setting(
        Rule.gain, "Token F1 on the fresh test set must be above the promoted version's by at least this", ge=-1, le=1
    )
    least_questions: int = setting(
        Rule.least_questions, "Fresh test questions below which nothing is promoted", unit="questions", ge=1
    )
    general_loss: float = setting(
        Rule.general_loss,
        "Loss on instructions outside the domain may be above the base's by at most this",
        unit="nats a token",
        ge=0,
    )

    @property
    def rule(self) -> Rule:
        """The section as the rule that decides."""
        return Rule(self.margin, self.gain, self.least_questions, self.general_loss)


STAGE = Stage(
    "gate",
    GateConfig,
    build,
    help="Judge a candidate against the version in use.",
    models=("embedder", "base"),
    models_if_set=("reranker",),
    shared=("retrieval",),
    seeded=True,
    cache="evaluate",
)

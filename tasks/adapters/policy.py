"""The policy of a nightly run: do nothing, refresh index and records, or train again; and where training starts from.

Pure: facts in, a choice with its reason out. `flows.retraining.night` acts on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tasks.build.section import Section, setting

Action = Literal["nothing", "refresh", "retrain"]


class RetrainConfig(Section):
    """When a changed corpus is trained on, and from where."""

    min_change: float = setting(
        0.05, "Retrain when this share of the passages is new or gone since the last training", ge=0, le=1
    )
    max_age_days: float | None = setting(
        30.0, "Retrain when the last training is older than this; null = never for its age", unit="days", ge=0
    )
    recall_drop: float = setting(
        0.05,
        "Retrain when the share of the last test questions with an oracle among their passages (any-hit) has fallen by "
        "this",
        ge=0,
        le=1,
    )
    start: Literal["promoted", "base"] = setting(
        "promoted", "Training goes on from the promoted version (warm start), or starts from the base model"
    )
    base_every: int = setting(
        5, "Warm starts in a row after which training starts from the base model again", ge=1, le=1000
    )
    smoke_questions: int = setting(3, "Test questions that the promoted adapter must answer", unit="questions", ge=1)
    smoke_command: str | None = setting(
        None, "Your own test after a promotion (RAFT_ADAPTER, RAFT_MERGED, RAFT_VERSION tell what); must exit with 0"
    )
    smoke_minutes: float = setting(10.0, "Longest time for it", unit="minutes", gt=0)


@dataclass(frozen=True)
class Change:
    """The difference between two corpora. Documents go by their source; shares are of passages.

    Attributes:
        passages: those new or gone, as a share of all passages in either corpus.
    """

    added: tuple[str, ...] = ()
    edited: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    passages: float = 0.0

    def __str__(self) -> str:
        parts = [
            f"{len(names)} {word}"
            for names, word in ((self.added, "added"), (self.edited, "edited"), (self.removed, "removed"))
            if names
        ]
        return f"documents {', '.join(parts) or 'unchanged'}; {self.passages:.1%} of the passages are new or gone"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    before: Mapping[str, str], after: Mapping[str, str], old_passages: Sequence[str], new_passages: Sequence[str]
) -> Change:
    """The change from documents `{source: sha256}` and passages (content ids) before to those after."""
    either, both = {*old_passages, *new_passages}, {*old_passages} & {*new_passages}
    return Change(
        tuple(sorted(after.keys() - before.keys())),
        tuple(sorted(name for name in after.keys() & before.keys() if after[name] != before[name])),
        tuple(sorted(before.keys() - after.keys())),
        1 - len(both) / len(either) if either else 0.0,
    )


@dataclass(frozen=True)
class Choice:
    """What to do, and why."""

    action: Action
    reason: str


def choose(
    config: RetrainConfig,
    *,
    change: Change | None,
    age_days: float | None,
    any_hit: tuple[float, float] | None = None,
    settings: Sequence[str] = (),
    forced: bool = False,
) -> Choice:
    """Whether to train, by the first reason that holds.

    Args:
        change: since the last training; None = there was none, or its files are gone.
        age_days: of the last training.
        any_hit: share of the last test questions with an oracle among their passages, in the index of then and in
            that of now; None = not measured.
        settings: names of the sections that were changed since the last training.
    """
    if forced:
        return Choice("retrain", "asked for (--force)")
    if change is None:
        return Choice("retrain", "there is no earlier training to compare with")
    if settings:
        return Choice("retrain", f"settings were changed: {', '.join(settings)}")
    if change.passages >= config.min_change and change.passages > 0:
        return Choice("retrain", f"{change}, the limit is {config.min_change:.1%}")
    if config.max_age_days is not None and age_days is not None and age_days >= config.max_age_days:
        return Choice("retrain", f"the last training is {age_days:.1f} days old, the limit is {config.max_age_days:g}")
    if any_hit is not None and any_hit[0] - any_hit[1] >= config.recall_drop and any_hit[0] > any_hit[1]:
        words = "the share of the test questions with an oracle among their passages fell"
        return Choice("retrain", f"{words} from {any_hit[0]:.3f} to {any_hit[1]:.3f}")
    if change.passages > 0 or change.added or change.edited or change.removed:
        return Choice("refresh", f"{change}, below {config.min_change:.1%}: index and records only")
    return Choice("nothing", str(change))


def choose_start(
    config: RetrainConfig, promoted: int | None, warm_starts: int, obstacle: str = ""
) -> tuple[int | None, str]:
    """The version that training continues from (None = the base model), and why.

    Args:
        warm_starts: number of them in a row, up to the promoted version.
        obstacle: why training cannot continue from the promoted version ("" = nothing stands in the way).
    """
    if promoted is None:
        return None, "no version is promoted: from the base model"
    if config.start == "base":
        return None, "from the base model, as set (retrain.start)"
    if obstacle:
        return None, f"from the base model: {obstacle}"
    if warm_starts >= config.base_every:
        return None, f"from the base model after {warm_starts} warm starts in a row"
    return promoted, f"continuing from version {promoted}"

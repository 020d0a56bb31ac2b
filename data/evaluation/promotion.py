"""The rule by which a candidate adapter is promoted, held or rejected, from paired comparisons; every check says why.

Promote: not worse anywhere by more than a margin, better where it matters, citations not worse, enough questions.
Hold: a check failed that a person may overrule. Reject: clearly worse than no adapter at all. An evaluation, which has
the base as its only rival, is judged by the same checks as a night's gate. Knows no models or files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from data.evaluation.scoring import METRICS
from data.statistics import with_interval

Verdict = Literal["promote", "hold", "reject"]
Rival = Literal["promoted", "base"]

ANSWERS = ("f1", "contains", "accuracy")
CITATIONS = ("citation_precision", "citation_recall", "verbatim")
MATTERS = "f1"
NAMES = {"promoted": "the promoted version", "base": "the base model"}


@dataclass(frozen=True)
class Rule:
    """Attributes:
    margin: how far a mean may fall below a rival's (metrics run from 0 to 1).
    gain: how far the mean of `f1` on the fresh test set must rise above the promoted version's.
    least_questions: with fewer fresh questions nothing is decided.
    general_loss: how far the loss on instructions outside the domain may rise above the base's, in nats a token.
    """

    margin: float = 0.05
    gain: float = 0.0
    least_questions: int = 20
    general_loss: float = 0.5


@dataclass(frozen=True)
class Check:
    """One condition: its name, whether it holds, what follows if it does not (`hold` or `reject`), and the figures."""

    name: str
    passed: bool
    otherwise: Verdict
    why: str


@dataclass(frozen=True)
class Decision:
    """The verdict with every check behind it."""

    verdict: Verdict
    checks: tuple[Check, ...]

    @property
    def reason(self) -> str:
        """One line: what spoke against promotion, or what spoke for it."""
        failures = [c for c in self.checks if not c.passed and c.otherwise == self.verdict]
        if failures:
            return "; ".join(c.why for c in failures)
        return "; ".join(c.why for c in self.checks if c.name.startswith("better")) or "every check passed"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Decision:
        """What `to_dict` wrote."""
        return cls(values["verdict"], tuple(Check(**check) for check in values["checks"]))

    def to_dict(self) -> dict[str, Any]:
        return {"verdict": self.verdict, "reason": self.reason, "checks": [asdict(c) for c in self.checks]}


GENERAL = "general skills"
"""The name of the check on what was forgotten."""


def decide_evaluation(
    summary: Mapping[str, Any], general: Mapping[str, Any] | None, rule: Rule, *, notes: Sequence[Check] = ()
) -> Decision | None:
    """The verdict on an evaluation's adapter against its base: what a gate says while no version is in use.

    Args:
        summary: what `data.evaluation.comparison.summarise` returned; its headline's setting is judged.
        general: what `data.evaluation.general_skills.compare_general_skills` returned.

    None where nothing was answered by both, so that there is nothing to judge.
    """
    part = summary["settings"].get(summary["headline_setting"], {})
    if not part.get("differences"):
        return None
    return decide({"base": {"fresh": part}}, rule, notes=[*notes, general_check(general or {}, rule)])


def verdict_in_markdown(decision: Mapping[str, Any]) -> str:
    """The verdict of an evaluation in one line; `decision` is `Decision.to_dict`."""
    about = "Verdict against the base model, by the rule of the promotion gate"
    return f"{about}: **{decision['verdict']}**. {decision['reason']}"


def general_check(general: Mapping[str, Any], rule: Rule) -> Check:
    """What the adapter has forgotten outside the domain, against what the rule allows."""
    if "loss" not in general:
        return Check(GENERAL, True, "hold", "general skills were not measured (evaluate.general)")
    rise = general["loss"]["difference"]
    words = f"loss on general instructions {rise:+.3f} nats per token against the base model"
    return Check(GENERAL, rise <= rule.general_loss, "hold", f"{words}, at most {rule.general_loss:+g} is allowed")


def decide(
    comparisons: Mapping[Rival, Mapping[str, Mapping[str, Any]]],
    rule: Rule,
    *,
    notes: Sequence[Check] = (),
) -> Decision:
    """Applies the rule.

    Args:
        comparisons: rival -> set of test questions (`fresh`, `frozen`) -> that setting's part of
            `data.evaluation.comparison.summarise` with the rival as its base and the candidate as its other.
        notes: checks that were made elsewhere (files, parity, another base model).
    """
    checks = list(notes)
    fresh = comparisons["base"].get("fresh", {}).get("differences", {}).get(MATTERS)
    count = fresh["n"] if fresh else 0
    enough = count >= rule.least_questions
    checks.append(
        Check(
            "enough questions",
            enough,
            "hold",
            f"{count} fresh test questions, {rule.least_questions} are needed",
        )
    )
    for rival, sets in comparisons.items():
        for name, setting in sets.items():
            checks += _not_worse(rival, name, setting, rule.margin)
    if fresh:
        checks.append(
            Check(
                "better than the base model",
                fresh["verdict"] == "better",
                "hold",
                _in_words("fresh", MATTERS, "base", fresh),
            )
        )
    ahead = comparisons.get("promoted", {}).get("fresh", {}).get("differences", {}).get(MATTERS)
    if ahead:
        passed = ahead["difference"] >= rule.gain
        demand = f", at least {rule.gain:+.3f} is required" if rule.gain or not passed else ""
        why = _in_words("fresh", MATTERS, "promoted", ahead) + demand
        checks.append(Check("better than the promoted version", passed, "hold", why))
    consequences = {c.otherwise for c in checks if not c.passed}
    verdict: Verdict = "reject" if "reject" in consequences else "hold" if consequences else "promote"
    return Decision(verdict, tuple(checks))


def _not_worse(rival: Rival, name: str, setting: Mapping[str, Any], margin: float) -> list[Check]:
    """One check per metric: a mean that falls below the rival's by more than the margin means hold, or reject where the
    rival is the base and the interval lies wholly below zero. The slices, many and small, share one check: only clear
    losses count.
    """
    checks = []
    differences = setting.get("differences", {})
    for metric in (*ANSWERS, *CITATIONS):
        if metric in differences:
            d = differences[metric]
            passed = d["difference"] >= -margin
            clear = rival == "base" and metric == MATTERS and d["verdict"] == "worse"
            kind = "citations" if metric in CITATIONS else "answers"
            checks.append(
                Check(
                    f"{kind} not worse: {name}, {metric}, {rival}",
                    passed,
                    "reject" if clear else "hold",
                    _in_words(name, metric, rival, d) + ("" if passed else f", more than {margin} below"),
                )
            )
    losses = [
        f"{part} {value!r} {entry['difference']['difference']:+.3f}"
        for part, table in setting.get("slices", {}).items()
        for value, entry in table.items()
        if "difference" in entry
        and entry["difference"]["difference"] < -margin
        and entry["difference"]["verdict"] == "worse"
    ]
    words = f"clearly worse than {NAMES[rival]} on {', '.join(losses)}" if losses else "no slice clearly worse"
    return [*checks, Check(f"slices not worse: {name}, {rival}", not losses, "hold", f"{name}: {words}")]


def _in_words(name: str, metric: str, rival: Rival, d: Mapping[str, Any]) -> str:
    return (
        f"{name} set, {METRICS[metric]}: {d['other']:.3f} against {d['base']:.3f} of {NAMES[rival]}, "
        f"{with_interval(d['difference'], d)}"
    )

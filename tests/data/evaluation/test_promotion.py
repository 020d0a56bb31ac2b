"""A candidate is promoted, held or rejected by a rule that anyone can read off its checks."""

import pytest

from data.evaluation.promotion import Check, Rule, decide

RULE = Rule(margin=0.05, least_questions=20)


def difference(base, other, spread=0.02, n=40):
    d = other - base
    verdict = "better" if d > spread else "worse" if d < -spread else "no clear difference"
    interval = {"low": d - spread, "high": d + spread, "n": n, "verdict": verdict}
    return {"base": base, "other": other, "difference": d, **interval}


def setting(f1, slices=None, **metrics):
    return {"differences": {"f1": f1, **metrics}, "slices": slices or {}}


GOOD = setting(difference(0.30, 0.50), citation_precision=difference(0.4, 0.6))
EQUAL = setting(difference(0.50, 0.50), citation_precision=difference(0.6, 0.6))


def judged(*, promoted=None, base=None, notes=()):
    comparisons = {"base": base or {"fresh": GOOD, "frozen": GOOD}}
    if promoted:
        comparisons["promoted"] = {"fresh": EQUAL, "frozen": EQUAL, **promoted}
    return decide(comparisons, RULE, notes=notes)


def test_the_first_version_is_promoted_when_it_clearly_beats_the_base_model():
    decision = judged()
    assert decision.verdict == "promote"
    assert "0.500 against 0.300 of the base model, +0.200 [+0.180, +0.220]" in decision.reason


def test_a_first_version_that_may_be_no_better_than_the_base_model_is_held():
    unclear = setting(difference(0.30, 0.31, spread=0.05))
    decision = judged(base={"fresh": unclear})
    assert (decision.verdict, [c.name for c in decision.checks if not c.passed]) == (
        "hold",
        ["better than the base model"],
    )


def test_a_later_version_as_good_as_the_promoted_one_replaces_it():
    assert judged(promoted={"fresh": EQUAL}).verdict == "promote"


@pytest.mark.parametrize(
    ("part", "worse", "name"),
    [
        ("frozen", setting(difference(0.50, 0.40)), "answers not worse: frozen, f1, promoted"),
        ("frozen", setting(difference(0.5, 0.5), accuracy=difference(0.9, 0.8)), "answers not worse: frozen, accuracy"),
        (
            "fresh",
            setting(difference(0.5, 0.5), citation_recall=difference(0.9, 0.8)),
            "citations not worse: fresh, citation_recall, promoted",
        ),
        ("fresh", setting(difference(0.50, 0.49)), "better than the promoted version"),
        (
            "fresh",
            setting(difference(0.5, 0.5), slices={"question kind": {"yes_no": {"difference": difference(0.9, 0.6)}}}),
            "slices not worse: fresh, promoted",
        ),
    ],
)
def test_a_loss_against_the_promoted_version_holds_and_is_named(part, worse, name):
    decision = judged(promoted={part: worse})
    assert decision.verdict == "hold"
    assert any(not c.passed and c.name.startswith(name) for c in decision.checks)


def test_a_loss_within_the_margin_does_not_hold():
    assert judged(promoted={"frozen": setting(difference(0.50, 0.46))}).verdict == "promote"


def test_what_is_clearly_worse_than_no_adapter_is_rejected():
    decision = judged(base={"fresh": setting(difference(0.50, 0.30))})
    assert decision.verdict == "reject"
    assert decision.reason.startswith("fresh set, Token F1: 0.300 against 0.500 of the base model")


def test_too_few_questions_decide_nothing():
    few = setting(difference(0.30, 0.50, n=19))
    decision = judged(base={"fresh": few})
    assert (decision.verdict, decision.reason) == ("hold", "19 fresh test questions, 20 are needed")
    assert judged(base={"fresh": setting({}) | {"differences": {}}}).verdict == "hold"


def test_checks_made_elsewhere_count():
    broken = Check("parity", False, "reject", "the export does not load")
    assert judged(notes=[broken]).verdict == "reject"

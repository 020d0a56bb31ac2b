"""Which base is worth adapting: the metric of the task, what counts as a gain, and how one tuned base beats another."""

import pytest

from data.evaluation.comparison import summarise
from data.evaluation.lift import hit_rate, lift_between, lift_of
from data.evaluation.scoring import METRICS


def row(question: int, condition: str, f1: float, accuracy: float | None = None) -> dict:
    """A scored answer with as much of a row as the comparison reads."""
    metrics = dict.fromkeys(METRICS) | {"f1": f1, "accuracy": accuracy}
    answered = {"final_answer": "yes", "answers": ["yes"], "refused": False, "should_refuse": False, "quotes": []}
    return {
        **answered,
        "record_id": f"r{question}",
        "question_id": f"q{question}",
        "setting": "retrieved",
        "condition": condition,
        "group": f"d{question}",
        "metrics": metrics,
        "failed": "",
        "flags": [],
        "seconds": None,
        "oracle_position": 1,
        "slices": {"documents": "unseen"},
    }


def rows(base: list[float], adapter: list[float], accuracy: bool = False) -> list[dict]:
    sides = (("base", base), ("adapter", adapter))
    return [row(i, name, f1, f1 if accuracy else None) for name, side in sides for i, f1 in enumerate(side)]


def test_it_is_token_f1_with_the_evaluations_own_interval():
    summary = summarise(rows([0.1] * 20, [0.1, 0.9] * 10), samples=200)
    lift = lift_of(summary)
    assert lift.metric == "f1"
    assert (lift.zero_shot, lift.tuned) == pytest.approx((0.1, 0.5))
    assert lift.figures == summary["headline"]
    assert (lift.gained, lift.flag) == (True, "")


def test_where_most_questions_are_closed_it_is_accuracy():
    closed = rows([0.0] * 20, [1.0] * 20, accuracy=True)
    assert lift_of(summarise(closed, samples=200)).metric == "accuracy"
    few = [one for one in closed if int(one["record_id"][1:]) < 4]
    open_ = [row(i, name, f1) for name, f1 in (("base", 0.1), ("adapter", 0.2)) for i in range(20, 60)]
    assert lift_of(summarise(few + open_, samples=200)).metric == "f1"


def test_a_tuned_base_that_is_worse_than_before_is_flagged_by_its_interval():
    worse = lift_of(summarise(rows([0.9] * 20, [0.1] * 20), samples=200))
    assert (worse.flag, worse.gained) == ("worse", False)
    lower = lift_of(summarise(rows([0.5, 0.5] * 10, [0.0, 0.98] * 10), samples=200))
    assert (lower.flag, lower.gained) == ("lower", False)
    few = lift_of(summarise(rows([0.9] * 3, [0.1] * 3), samples=200))
    assert (few.flag, few.gained) == ("lower", None), "three questions prove nothing"


def test_nothing_was_answered():
    assert lift_of(summarise([], samples=200)) is None
    assert lift_between([], []) is None


def test_two_tuned_bases_are_compared_by_question_though_their_records_differ():
    one, other = rows([0.9] * 20, [0.2] * 20), rows([0.9] * 20, [0.6] * 20)
    other = [{**r, "record_id": f"of another tokenizer {r['record_id']}"} for r in other]
    lift = lift_between(one, other, samples=200)
    assert (lift.zero_shot, lift.tuned, lift.figures["n"]) == (pytest.approx(0.2), pytest.approx(0.6), 20)
    assert lift.figures["verdict"] == "better"
    assert lift_between(one, one, samples=200).figures["difference"] == 0


def test_the_hit_rate_leaves_out_what_is_not_known_and_says_what_optimism_would_hit():
    cells = [(True, True), (True, False), (False, False), (None, True), (True, None)]
    assert hit_rate(cells) == {"decided": 3, "hits": 2, "gained": 1}
    assert hit_rate([]) == {"decided": 0, "hits": 0, "gained": 0}

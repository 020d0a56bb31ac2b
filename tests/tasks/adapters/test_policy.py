"""A night's choice follows from the facts, and says which one decided."""

import pytest

from tasks.adapters.policy import Change, RetrainConfig, choose, choose_start, compare

CONFIG = RetrainConfig(min_change=0.05, max_age_days=30, recall_drop=0.05, base_every=3)
SMALL = Change(edited=("a.md",), passages=0.02)


def test_the_change_counts_documents_and_passages():
    change = compare({"a": "1", "b": "1", "c": "1"}, {"a": "1", "b": "2", "d": "1"}, ["p", "q", "r"], ["p", "q", "s"])
    assert change == Change(("d",), ("b",), ("c",), 0.5)
    assert str(change) == "documents 1 added, 1 edited, 1 removed; 50.0% of the passages are new or gone"
    assert compare({}, {}, [], []).passages == 0


@pytest.mark.parametrize(
    ("facts", "action", "words"),
    [
        ({"change": None, "age_days": None}, "retrain", "no earlier training"),
        ({"change": Change(), "age_days": 1}, "nothing", "unchanged"),
        ({"change": Change(), "age_days": 1, "forced": True}, "retrain", "--force"),
        ({"change": SMALL, "age_days": 1}, "refresh", "2.0% of the passages are new or gone, below 5.0%"),
        ({"change": Change(added=("b",), passages=0.05), "age_days": 1}, "retrain", "1 added; 5.0%"),
        ({"change": Change(), "age_days": 30}, "retrain", "30.0 days old"),
        ({"change": SMALL, "age_days": 1, "any_hit": (0.9, 0.8)}, "retrain", "fell from 0.900 to 0.800"),
        ({"change": SMALL, "age_days": 1, "any_hit": (0.9, 0.89)}, "refresh", "below"),
        ({"change": Change(), "age_days": 1, "settings": ("train",)}, "retrain", "settings were changed: train"),
        # a document renamed or a blank line added: no passage differs, the index still has to follow
        ({"change": Change(edited=("a.md",)), "age_days": 1}, "refresh", "1 edited; 0.0%"),
    ],
)
def test_the_first_reason_that_holds_decides(facts, action, words):
    choice = choose(CONFIG, **facts)
    assert choice.action == action
    assert words in choice.reason


def test_age_can_be_left_out():
    assert choose(CONFIG.model_copy(update={"max_age_days": None}), change=Change(), age_days=999).action == "nothing"


@pytest.mark.parametrize(
    ("promoted", "warm", "obstacle", "start", "words"),
    [
        (None, 0, "", None, "no version is promoted"),
        (4, 1, "", 4, "continuing from version 4"),
        (4, 3, "", None, "after 3 warm starts in a row"),
        (4, 0, "train.rank was changed", None, "train.rank was changed"),
    ],
)
def test_where_training_starts(promoted, warm, obstacle, start, words):
    version, why = choose_start(CONFIG, promoted, warm, obstacle)
    assert version == start
    assert words in why
    from_base = CONFIG.model_copy(update={"start": "base"})
    assert choose_start(from_base, promoted, warm, obstacle)[0] is None

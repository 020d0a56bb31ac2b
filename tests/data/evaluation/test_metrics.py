"""Answer metrics agree with the official scripts, and are undefined rather than zero where they mean nothing."""

import collections
import re
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.evaluation.metrics import (
    check_quotes,
    citation_scores,
    classification_scores,
    closed_label,
    contains_answer,
    exact_match,
    groundedness,
    mean_defined,
    normalise,
    refusal_scores,
    rouge_l,
    supporting_fact_scores,
    token_f1,
)
from data.prompting.contract import CitedQuote

text = st.text(st.sampled_from("ab the,. éAN-'\"\n12"), max_size=25)


def official_normalise(s):
    """The published steps of the SQuAD 1.1 evaluation: lower, punctuation, articles, white space; in that order."""
    s = "".join(ch for ch in s.lower() if ch not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", s).split())


def official_f1(prediction, truth):
    got, wanted = official_normalise(prediction).split(), official_normalise(truth).split()
    common = collections.Counter(got) & collections.Counter(wanted)
    same = sum(common.values())
    if same == 0:
        return 0
    precision, recall = same / len(got), same / len(wanted)
    return 2 * precision * recall / (precision + recall)


@settings(deadline=None)
@given(text, st.lists(text, min_size=1, max_size=3))
def test_exact_match_and_f1_are_those_of_squad(prediction, answers):
    assert normalise(prediction) == official_normalise(prediction)
    assert exact_match(prediction, answers) == max(
        official_normalise(prediction) == official_normalise(a) for a in answers
    )
    assert token_f1(prediction, answers) == pytest.approx(max(official_f1(prediction, a) for a in answers))


def official_hotpot_f1(prediction, truth):
    """The published change of HotpotQA: where either is yes, no or noanswer, only the very same counts."""
    got, wanted = official_normalise(prediction), official_normalise(truth)
    if got != wanted and {got, wanted} & {"yes", "no", "noanswer"}:
        return 0
    return official_f1(prediction, truth)


answer = st.one_of(text, st.sampled_from(["yes", "No.", "the yes", "noanswer", "yes no", "maybe"]))


@settings(deadline=None)
@given(answer, answer)
def test_f1_of_closed_answers_is_that_of_hotpotqa(prediction, truth):
    assert token_f1(prediction, [truth], closed=True) == pytest.approx(official_hotpot_f1(prediction, truth))


facts = st.lists(st.tuples(st.sampled_from("ABC"), st.integers(0, 2)), max_size=5)


@given(facts, facts)
def test_supporting_fact_scores_are_those_of_hotpotqa(predicted, gold):
    """The published counting: true and false positives over the distinct predicted facts, misses over the gold ones."""
    cur, wanted = set(predicted), set(gold)
    tp, fp, fn = len(cur & wanted), len(cur - wanted), len(wanted - cur)
    precision = tp / (tp + fp) if tp + fp else 0
    recall = tp / (tp + fn) if tp + fn else 0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0
    expected = {"em": float(fp + fn == 0), "precision": precision, "recall": recall, "f1": f1}
    assert supporting_fact_scores(predicted, gold) == pytest.approx(expected)


def test_known_cases():
    assert exact_match("The Denver Broncos!", ["Denver Broncos", "Broncos"]) == 1
    assert token_f1("the cat sat", ["a cat sat down"]) == pytest.approx(0.8)
    assert token_f1("yes it is", ["yes"]) > 0
    assert token_f1("yes it is", ["yes"], closed=True) == 0  # HotpotQA
    assert token_f1("yes", ["Yes."], closed=True) == 1
    assert token_f1("anything", []) == 0
    assert contains_answer("I think it was Denver Broncos, 2016", ["denver broncos"]) == 1
    assert contains_answer("Denverites", ["denver"]) == 0
    assert contains_answer("anything", ["the"]) == 0  # nothing is left of it


@settings(deadline=None)
@given(text, text)
def test_rouge_l_is_that_of_rouge_score(prediction, answer):
    from rouge_score.rouge_scorer import RougeScorer

    assert rouge_l(prediction, [answer]) == RougeScorer(["rougeL"]).score(answer, prediction)["rougeL"].fmeasure


def test_closed_answers_are_read_leniently_and_unclear_ones_counted():
    labels = ("yes", "no", "maybe")
    assert closed_label("Yes, because it is.", labels) == "yes"
    assert closed_label("The answer is no", labels) == "no"
    assert closed_label("yes and no", labels) == "yes"
    assert closed_label("either yes or no", labels) is None
    scores = classification_scores(["yes", "no", None, "yes"], ["yes", "yes", "no", "no"])
    assert scores["accuracy"] == 0.25
    assert scores["unclear"] == 1
    assert scores["macro_f1"] == pytest.approx((2 / 4 + 0) / 2)
    assert scores["majority"] == 0.5


def test_macro_f1_agrees_with_scikit_learn():
    from sklearn.metrics import f1_score

    gold = ["yes", "no", "maybe", "yes", "no", "yes"]
    predicted = ["yes", "yes", "maybe", "no", "no", "yes"]
    expected = f1_score(gold, predicted, average="macro")
    assert classification_scores(predicted, gold)["macro_f1"] == pytest.approx(expected)


def test_supporting_facts_as_in_hotpotqa():
    got = supporting_fact_scores([("A", 0), ("B", 1)], [("A", 0), ("C", 2), ("D", 1)])
    assert got == pytest.approx({"em": 0, "precision": 0.5, "recall": 1 / 3, "f1": 0.4})
    assert supporting_fact_scores([], [])["em"] == 1


PASSAGES = ["The Rhine is long.\nIt flows north.", "Hills are high.", "Cats sleep."]


def test_a_quote_must_be_verbatim_in_the_passage_it_cites_and_that_must_be_an_oracle():
    quotes = [
        CitedQuote(1, "long. It flows"),  # white space may differ
        CitedQuote(2, "Cats sleep"),  # in another passage
        CitedQuote(2, "Hills are high"),  # a distractor
        CitedQuote(9, "Cats sleep"),  # no such passage
        CitedQuote(None, "Cats sleep"),  # looked up
    ]
    rows = check_quotes(quotes, PASSAGES, [1, 3])
    assert [r["verbatim"] for r in rows] == [True, False, True, False, True]
    assert [r["oracle"] for r in rows] == [True, False, False, False, True]
    assert [r["stands_in"] for r in rows] == [1, 3, 2, 3, 3]
    assert check_quotes([CitedQuote(1, "It flows south")], PASSAGES, [1])[0]["stands_in"] is None
    scores = citation_scores(quotes, PASSAGES, [1, 3])
    assert scores["precision"] == pytest.approx(2 / 5)
    assert scores["recall"] == 1
    assert scores["verbatim"] == pytest.approx(3 / 5)


def test_citations_are_undefined_without_quotes_or_without_oracle():
    assert citation_scores([], PASSAGES, [1]) == {
        "precision": None,
        "recall": 0,
        "verbatim": None,
        "supporting_f1": 0,
    }
    without = citation_scores([CitedQuote(2, "Hills are high.")], PASSAGES, [])
    assert without == {"precision": 0, "recall": None, "verbatim": 1, "supporting_f1": None}
    assert citation_scores([CitedQuote(1, "")], PASSAGES, [1])["verbatim"] == 0


def test_an_answer_is_grounded_where_its_quotes_hold_it():
    assert groundedness("flows north", ["It flows north."]) == 1
    assert groundedness("flows south", ["It flows north."]) == 0.5
    assert groundedness("north", []) == 0
    assert groundedness("yes", ["It flows"]) is None
    assert groundedness("", ["It flows"]) is None


def test_refusals():
    got = refusal_scores([True, True, False, False], [True, False, True, False])
    assert (got["precision"], got["recall"], got["f1"]) == (0.5, 0.5, 0.5)
    never = refusal_scores([False, False], [False, False])
    assert (never["precision"], never["recall"], never["f1"]) == (None, None, None)


def test_undefined_values_are_left_out_of_means():
    assert mean_defined([1.0, None, 0.0]) == (0.5, 2)
    assert mean_defined([None]) == (None, 0)


def cmrc_f1(prediction, truth):
    """The published steps of CMRC 2018: punctuation out, a Chinese character a token, the longest common stretch."""

    def tokens(s):
        s = "".join(c for c in s.lower() if c not in "，。：？！；、-")
        return re.findall(r"[\u4e00-\u9fa5]|[^\s\u4e00-\u9fa5]+", s)

    got, wanted = tokens(prediction), tokens(truth)
    longest = max(
        (n for n in range(len(wanted) + 1) for i in range(len(wanted) - n + 1) for j in range(len(got) - n + 1)
         if wanted[i : i + n] == got[j : j + n]), default=0)  # fmt: skip
    if not longest:
        return 0
    precision, recall = longest / len(got), longest / len(wanted)
    return 2 * precision * recall / (precision + recall)


chinese = st.text(st.sampled_from("十五天年假，。 7x"), max_size=12)


@settings(deadline=None)
@given(chinese, chinese.map(lambda s: s + "天"))
def test_chinese_answers_are_scored_as_in_cmrc(prediction, answer):
    assert token_f1(prediction, [answer]) == pytest.approx(cmrc_f1(prediction, answer))


def test_answers_without_spaces_are_scored_by_characters():
    assert token_f1("十五天带薪年假了", ["十五天带薪年假"]) == pytest.approx(14 / 15)
    assert token_f1("サーバー室", ["サーバー"]) == pytest.approx(8 / 9)
    assert token_f1("서울에서", ["서울"]) == pytest.approx(4 / 6)
    assert 0 < token_f1("ลาพักร้อนสิบวัน", ["สิบวัน"]) < 1
    assert exact_match("「十五天」。", ["十五天"]) == contains_answer("一共十五天。", ["十五天"]) == 1
    assert contains_answer("一共十四天。", ["十五天"]) == 0
    assert groundedness("十五天", ["员工享有十五天年假。"]) == 1
    assert rouge_l("十五天了", ["十五天"]) == pytest.approx(6 / 7)
    assert rouge_l("клапан закрыт", ["закрыт"]) == pytest.approx(2 / 3)


def test_answers_and_quotes_that_look_the_same_are_the_same():
    assert exact_match("Cafe\u0301 Zu\u0308rich", ["Café Zürich"]) == 1
    assert exact_match("the “Rock ’n’ Roll” years 1955–59", ["\"Rock 'n' Roll\" years 1955-59"]) == 1
    assert exact_match("10⁵", ["105"]) == 0
    rows = check_quotes([CitedQuote(1, 'the "Cafe\u0301"')], ["In the “Café” of the town."], [1])
    assert rows[0]["verbatim"]

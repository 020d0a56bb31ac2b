"""The threshold below which no answer is given keeps wrong citations to the level that was asked for."""

import numpy as np
import pytest

from data.evaluation.citing import calibrate, cites_rightly, citing_score, least_documents, outcome
from raft_errors import BadInput


def quote(passage, *, verbatim=True, oracle=False):
    return {"passage": passage, "verbatim": verbatim, "oracle": oracle, "text": "…"}


def made_up(rng, documents, slope=5.0):
    """Questions of documents of very different sizes, whose answers share how well their document is understood."""
    scores, right, groups = [], [], []
    for document in range(documents):
        ease = rng.normal(0.5, 1.0)
        for _ in range(1 + rng.geometric(0.2)):
            score = rng.normal()
            scores.append(None if rng.random() < 0.1 else float(score))
            right.append(bool(rng.random() < 1 / (1 + np.exp(-(ease + slope * score)))))
            groups.append(document)
    return scores, right, groups


def split(rng, scores, right, groups):
    """Two halves of the documents."""
    names = sorted(set(groups))
    chosen = {*rng.permutation(names)[: len(names) // 2].tolist()}
    for side in (True, False):
        places = [n for n, group in enumerate(groups) if (group in chosen) is side]
        yield tuple([values[n] for n in places] for values in (scores, right, groups))


@pytest.mark.parametrize("level", [0.1, 0.2])
def test_the_level_holds_over_200_random_splits_by_document(level):
    rng = np.random.default_rng(0)
    data = made_up(rng, 240)
    answered, mistaken, coverages, kept = 0.0, 0.0, [], 0
    for _ in range(200):
        first, second = split(rng, *data)
        limit = calibrate(*first, level)
        check = outcome(*second, limit.threshold)
        coverages.append(check["coverage"])
        answered += check["coverage"]
        mistaken += check["coverage"] * (check["error"] or 0.0)
        kept += (check["error"] or 0.0) <= level
    assert kept >= 180, "nine times in ten, not on average alone"
    assert mistaken / answered > level / 2, "it does not refuse more than it has to"
    assert np.mean(coverages) > 0.2
    everything = outcome(*data, float("-inf"))
    assert everything["error"] > 1.5 * level, "without a threshold it would not hold"


def test_with_fresh_documents_each_time_the_level_holds_too_however_few_there_are():
    rng = np.random.default_rng(1)
    answered = mistaken = refused = 0.0
    for _ in range(200):
        try:
            limit = calibrate(*made_up(rng, 40), 0.2)
        except BadInput:  # answers nothing
            refused += 1
            continue
        check = outcome(*made_up(rng, 40), limit.threshold)
        answered += check["coverage"]
        mistaken += check["coverage"] * (check["error"] or 0.0)
    assert refused < 60
    assert mistaken / answered <= 0.2


def test_the_finite_sample_term_counts_one_more_document_as_wrong():
    limit = calibrate([1.0] * 9, [True] * 9, range(9), 0.1)
    assert (limit.coverage, limit.error, limit.expected_error) == (1.0, 0.0, 0.1)
    assert limit.to_dict()["documents"] == 9
    with pytest.raises(BadInput, match="about 8 documents") as caught:
        calibrate([1.0] * 8, [True] * 8, range(8), 0.1)
    assert "at least 9 documents" in caught.value.expected
    assert [least_documents(level) for level in (0.05, 0.1, 0.2, 0.5)] == [19, 9, 4, 1]


def test_documents_count_and_not_questions():
    one_document = [*range(8), *[8] * 100]  # a hundred wrong answers about one document
    right = [True] * 8 + [False] * 100
    scores = [1.0] * 8 + [2.0] * 100
    limit = calibrate(scores, right, one_document, 0.5)
    assert limit.threshold == 1.0
    assert limit.error == round(1 / 9, 4)
    with pytest.raises(BadInput, match=r"about 1 document\."):
        calibrate([1.0] * 100, [True] * 100, [0] * 100, 0.1)


def test_where_no_threshold_holds_it_says_how_many_documents_would_do():
    scores = [float(n % 2) for n in range(40)]
    right = [n % 2 == 1 or n % 8 == 0 for n in range(40)]  # the surer half is right, of the others few are
    with pytest.raises(BadInput, match="at best 50% are answered, 0% of them cited wrongly") as caught:
        calibrate(scores, right, range(40), 0.04)
    assert caught.value.expected == "about 48 documents, if all are like these"
    assert (
        calibrate([float(n % 2) for n in range(48)], [n % 2 == 1 for n in range(48)], range(48), 0.04).coverage == 0.5
    )
    with pytest.raises(BadInput, match="at every threshold more than that are wrong"):
        calibrate(scores, [False] * 40, range(40), 0.1)
    with pytest.raises(BadInput, match="at every threshold"):
        calibrate([None] * 40, [True] * 40, range(40), 0.1)
    with pytest.raises(BadInput, match=r"the level is 1\.5"):
        calibrate(scores, right, range(40), 1.5)


@pytest.mark.parametrize("seed", range(40))
def test_a_stricter_level_never_gives_more_answers(seed):
    rng = np.random.default_rng(seed)
    answers = rng.integers(20, 60)
    scores = rng.integers(0, 20, answers).astype(float).tolist()
    right = (rng.random(answers) < rng.random()).tolist()
    thresholds = []
    for level in (0.1, 0.2, 0.4, 0.6):
        try:
            thresholds.append(calibrate(scores, right, range(answers), level).threshold)
        except BadInput:
            thresholds.append(float("inf"))
    assert thresholds == sorted(thresholds, reverse=True)


def test_a_threshold_lets_through_what_it_was_chosen_on():
    rng = np.random.default_rng(2)
    data = made_up(rng, 120)
    limit = calibrate(*data, 0.2)
    check = outcome(*data, limit.threshold)
    assert (check["coverage"], check["error"]) == (limit.coverage, limit.error)
    assert outcome(*data, float("inf")) == {**check, "coverage": 0.0, "error": None}


def test_the_score_is_how_far_the_cited_passage_is_ahead():
    scores = [0.9, 0.6, 0.2]
    assert citing_score([quote(1)], scores) == pytest.approx(0.3)
    assert citing_score([quote(2)], scores) == pytest.approx(-0.3)
    assert citing_score([quote(1), quote(2)], scores) == pytest.approx(0.4)  # both are ahead of the third
    assert citing_score([quote(1), quote(3)], scores) == pytest.approx(-0.4)
    assert citing_score([quote(1), quote(2), quote(3)], scores) == 0.0
    assert citing_score([quote(1)], [0.7]) == 0.7
    assert citing_score([], scores) is None
    assert citing_score([quote(1), quote(None, verbatim=False)], scores) is None


def test_a_citation_is_right_if_every_quote_is():
    assert cites_rightly([quote(1, oracle=True)])
    assert not cites_rightly([quote(1, oracle=True), quote(2)])
    assert not cites_rightly([quote(1, oracle=True, verbatim=False)])
    assert not cites_rightly([])

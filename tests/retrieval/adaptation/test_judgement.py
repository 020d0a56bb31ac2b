"""A change of the retriever is kept only where validation questions tell it from chance."""

import pytest
from retrieval_samples import make_chunk, make_question

from data.nouns import Hit
from retrieval.adaptation.judgement import EQUAL, LEAST_QUESTIONS, SHARES, choose_share, compare, reciprocal_ranks

CHUNKS = [make_chunk(f"passage {n}", document=f"doc{n}") for n in range(60)]
QUESTIONS = [make_question(f"question {n}?", "x", chunk) for n, chunk in enumerate(CHUNKS)]


class Fused:
    """A hybrid search whose right passage stands where the share of BM25 puts it."""

    def __init__(self, place, share=EQUAL):
        self.place, self.share = place, share

    def in_mode(self, mode, *, reranked=True, lexical_share=None):
        assert (mode, reranked) == ("hybrid", False)
        return Fused(self.place, lexical_share)

    def search(self, queries, k):
        rankings = []
        for query in queries:
            number = int(query.strip("question ?"))
            rank = self.place(number, self.share)
            others = [c.id for c in CHUNKS if c is not CHUNKS[number]]
            order = [*others[: rank - 1], CHUNKS[number].id, *others[rank - 1 :]]
            rankings.append([Hit(name, 0.0, at) for at, name in enumerate(order[:k], 1)])
        return rankings


def test_reciprocal_ranks_are_of_the_first_right_passage_within_the_depth():
    search = Fused(lambda number, share: number + 1).search
    assert reciprocal_ranks(QUESTIONS[:4], search, 3) == [1.0, 0.5, pytest.approx(1 / 3), 0.0]


def test_a_clear_gain_helps_and_a_gain_on_one_document_does_not():
    worse, better = [0.5] * 40, [1.0] * 40
    judgement = compare(QUESTIONS[:40], worse, better)
    assert judgement.helps
    assert (judgement.before, judgement.after, judgement.after_first) == (0.5, 1.0, 1.0)
    assert not compare(QUESTIONS[:40], better, worse).helps
    assert not compare(QUESTIONS[:40], worse, [1.0, *worse[1:]]).helps


def test_too_few_questions_never_help():
    few = LEAST_QUESTIONS - 1
    assert not compare(QUESTIONS[:few], [0.1] * few, [1.0] * few).helps
    assert choose_share(QUESTIONS[:few], Fused(lambda n, share: 1)) == (
        EQUAL,
        {"questions": few, "needed": LEAST_QUESTIONS},
    )


def test_the_weights_follow_clear_evidence_alone():
    share, figures = choose_share(QUESTIONS, Fused(lambda number, share: 1 if share > 0.8 else 3))
    assert share == 0.9
    assert figures["helps"]
    assert figures["grid"] == {str(s): pytest.approx(1.0 if s > 0.8 else 1 / 3, abs=1e-3) for s in SHARES}
    share, figures = choose_share(QUESTIONS, Fused(lambda number, share: 1 if share > 0.8 and number == 7 else 3))
    assert (share, figures["best"]) == (EQUAL, 0.9), "one question decides nothing"
    assert choose_share(QUESTIONS, Fused(lambda number, share: 1))[0] == EQUAL

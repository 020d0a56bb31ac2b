"""What is printed as coverage and citation error: answers are withheld by a threshold from other documents."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))  # last: it holds a `serving.py`
from literature.withholding import withheld_figures

from data.nouns import Record


def answered(documents, each, wrong=lambda document, place: False, quoted=True):
    """Answers about some documents: those that cite wrongly have lower scores."""
    pairs = []
    for document in range(documents):
        for place in range(each):
            right = not wrong(document, place)
            passages = [{"score": 2.0 if right else 1.0}, {"score": 0.0}]
            quotes = [{"passage": 1, "verbatim": True, "oracle": right}] if quoted else []
            row = {"group": f"d{document}", "quotes": quotes, "refused": False}
            pairs.append((Record("", "", "", {"passages": passages}), row))
    return pairs


def test_a_document_is_judged_by_the_others_and_wrong_citations_are_withheld():
    figures = withheld_figures(answered(40, 4, wrong=lambda document, place: place == 3))
    assert figures == {"coverage": 0.75, "citation_error": 0.0, "level": 0.1, "documents": 40}


def test_on_the_test_part_the_threshold_is_of_development():
    sure = answered(40, 4)
    assert withheld_figures(answered(3, 4), sure)["coverage"] == 1.0, "few documents are no matter there"
    assert withheld_figures(answered(3, 4), answered(40, 4))["citation_error"] == 0.0
    wrong = withheld_figures(answered(3, 4, wrong=lambda *_: True), answered(40, 4, wrong=lambda d, p: p == 3))
    assert (wrong["coverage"], wrong["citation_error"]) == (0.0, None), "they score below its threshold"


@pytest.mark.parametrize(("documents", "words"), [(4, "about 3 documents"), (9, "about 8 documents")])
def test_too_few_documents_give_no_answer_and_say_so(documents, words):
    figures = withheld_figures(answered(documents, 2))
    assert (figures["coverage"], figures["citation_error"]) == (0.0, None)
    assert words in figures["why"]


def test_without_quotes_nothing_can_be_said():
    assert withheld_figures(answered(20, 2, quoted=False)) == {
        **{"coverage": None, "citation_error": None, "why": "no answer quotes"}
    }

"""An answer whose citation is less sure than its adapter was calibrated for is withheld, for whoever asks."""

import dataclasses
import json
import math

import pytest

from data.prompting.contract import (
    CitedQuote,
    load_template,
    prompt_contract,
    quote_weight_of,
    render_output,
    with_quote_weight,
)
from data.prompting.copying import TokenBytes
from raft_errors import BadInput
from retrieval.search import Citation
from serving.content.citations import Content, finished
from tasks.runtime.asking import Asked, put

TEMPLATE = load_template("numbered")
CITING = {"level": 0.1, "threshold": 0.2, "documents": 20, "questions": 90, "coverage": 0.7, "error": 0.05}
TEXTS = ("The mill stands in Alder.", "The bridge stands in Birch.")


def citation(number, score):
    place = ("docs/a.md", "a", None, 0, 9, ())
    return Citation(f"c{number}", *place, score, number, TEXTS[number - 1])


def asked(ahead, citing=CITING):
    return Asked("What?", (citation(1, 0.5 + ahead), citation(2, 0.5)), TEMPLATE, True, citing)


def reply(passage=1, text="The mill"):
    return render_output("a mill", [CitedQuote(passage, text)], template=TEMPLATE)


def test_an_answer_below_the_threshold_is_withheld_and_the_refusal_takes_its_place():
    sure, unsure = asked(0.3).read(reply()), asked(0.1).read(reply())
    assert (sure["answer"], sure["refused"], sure["withheld"]) == ("a mill", False, False)
    assert (unsure["answer"], unsure["refused"], unsure["withheld"]) == (TEMPLATE.refusal, True, True)
    assert unsure["text"] == reply()
    assert unsure["quotes"] == sure["quotes"]


@pytest.mark.parametrize("text", [reply(1, "The bridge"), render_output("a mill", template=TEMPLATE), "a mill"])
def test_an_answer_that_quotes_nothing_it_was_shown_is_withheld(text):
    assert asked(0.9).read(text)["withheld"]


def test_citing_the_second_passage_is_less_sure_the_further_it_is_behind():
    assert asked(0.3).read(reply(2, "The bridge"))["withheld"]
    assert asked(-0.3).read(reply(2, "The bridge"))["withheld"] is False


def test_a_refusal_is_not_withheld():
    read = asked(0.0).read(f"{TEMPLATE.answer_marker} {TEMPLATE.refusal}")
    assert (read["refused"], read["withheld"]) == (True, False)


def test_without_a_calibration_every_answer_is_given_as_before():
    read = asked(0.0, {}).read(reply())
    assert read["answer"] == "a mill"
    assert "withheld" not in read


def test_the_server_gives_the_refusal_and_no_citation():
    assert finished(reply(), asked(0.1), "/v1/passages/x") == Content(TEMPLATE.refusal)
    content = finished(reply(), asked(0.3), "/v1/passages/x")
    assert content.text.startswith("a mill")
    assert len(content.annotations) == 1


class Search:
    """A retriever with two passages."""

    reranker = None

    def search(self, queries, k, where=None):
        return [[1, 2][:k] for _ in queries]

    def cite(self, hit):
        return citation(hit, 0.5)


def test_the_contract_carries_the_calibration_to_whoever_asks():
    contract = prompt_contract(TEMPLATE, passages=2, may_refuse=True)
    assert put("What?", Search(), TEMPLATE, contract).citing == {}
    assert put("What?", Search(), TEMPLATE, {**contract, "citing": CITING}).citing == CITING


def test_the_contract_carries_the_weight_of_the_search_in_what_is_quoted():
    contract = prompt_contract(TEMPLATE, passages=2, may_refuse=True)
    vocabulary = TokenBytes([bytes([b]) for b in range(128)])
    begins = dataclasses.replace(TEMPLATE, begin_quote="<")
    plain = put("What?", Search(), begins, contract)
    assert isinstance(plain.copier(vocabulary).allowed([*b"<The "]), list)
    weighed = put("What?", Search(), begins, with_quote_weight(contract, 2.0))
    added = weighed.copier(vocabulary).allowed([*b"<The "])
    assert {chr(i): pytest.approx(math.exp(x)) for i, x in added.items()} == {"m": 1.0, "b": 1 / 4}, "rank 1, rank 2"
    fewer = dataclasses.replace(weighed, citations=weighed.citations[:1])
    assert isinstance(fewer.copier(vocabulary).allowed([*b"<The "]), list), "passages that did not fit were left out"


def test_a_weight_of_nothing_stands_in_no_contract():
    contract = prompt_contract(TEMPLATE, passages=2, may_refuse=True)
    assert with_quote_weight(contract, 0.0) == contract
    assert quote_weight_of(contract) == 0.0
    assert quote_weight_of(json.loads(json.dumps(with_quote_weight(contract, 0.5)))) == 0.5


@pytest.mark.parametrize("weight", [-1, 101, math.nan, math.inf, True, "2", None])
def test_what_is_no_weight_is_refused_in_the_contract_of_somebody_s_adapter(weight):
    contract = {**prompt_contract(TEMPLATE, passages=2, may_refuse=True), "quote_weight": weight}
    with pytest.raises(BadInput, match="quote_weight is"):
        put("What?", Search(), TEMPLATE, contract)

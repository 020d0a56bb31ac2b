"""What the stage `calibrate` refuses before any model is loaded, and what it takes from the answers."""

import json
from types import SimpleNamespace

import pytest

from data.nouns import Record, write_jsonl
from data.prompting.contract import load_template, prompt_contract
from raft_errors import BadInput
from tasks.ask import AskConfig
from tasks.calibrate import STAGE, CalibrateConfig
from tasks.retrieval import RetrievalConfig
from tasks.runtime.exam import citation_score_of
from tasks.work.calibrate import build


def records(folder, documents, template="quoted"):
    contract = prompt_contract(load_template(template), passages=2, may_refuse=True)
    (folder / "contract.json").write_text(json.dumps(contract))
    rows = [Record("", "", "", {"document_ids": [f"d{n % documents}"], "question_id": str(n)}) for n in range(60)]
    write_jsonl(folder / "validation.jsonl", rows)
    return SimpleNamespace(path=lambda name: folder / name)


def calibrated(folder, level=0.1, **more):
    nothing = SimpleNamespace()
    sections = {"retrieval": RetrievalConfig(), "ask": AskConfig(citation_error=level)}
    return build(nothing, CalibrateConfig(), nothing, records(folder, **more), nothing, nothing,
                 embedder=nothing, base=nothing, **sections)  # fmt: skip


def test_too_few_documents_say_how_many_are_needed_before_anything_is_asked(tmp_path):
    with pytest.raises(BadInput, match="held to 10% wrong with validation questions about 8 documents") as caught:
        calibrated(tmp_path, documents=8)
    assert "at least 9 documents" in caught.value.expected
    assert "records.validation" in caught.value.do


def test_a_template_without_quotes_has_no_citations_to_promise(tmp_path):
    with pytest.raises(BadInput, match="'direct' asks for no quotes"):
        calibrated(tmp_path, documents=30, template="direct")


@pytest.mark.parametrize(("level", "asked_for"), [(None, False), (0.1, True)])
def test_it_is_part_of_a_run_that_promises_something(level, asked_for):
    assert STAGE.wanted(CalibrateConfig(), {"ask": AskConfig(citation_error=level)}) is asked_for


def test_the_score_of_an_answer_is_that_of_its_citation_by_the_search():
    record = Record("", "", "", {"passages": [{"score": 0.5}, {"score": 0.2}]})
    quotes = [{"passage": 1, "verbatim": True}]
    assert citation_score_of(record, {"refused": False, "quotes": quotes}) == pytest.approx(0.3)
    assert citation_score_of(record, {"refused": True, "quotes": quotes}) is None

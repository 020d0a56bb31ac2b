"""What `auto` costs in answers: who is asked what, over which passages, and how the scores are compared."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))  # last: it holds a `serving.py`
from literature.parts import parts_of, unit_of
from literature.protocols import Protocol
from serving_arms import routing_f1
from serving_arms.routing_f1 import Expert, answered, difference, means, question_of, sides_of

from data.nouns import Chunk, Record
from data.prompting.contract import load_template
from retrieval.search import Retriever
from serving.domain import ServedVersion
from tasks.runtime.answers import Answer


def expert(name, template, texts, folder):
    chunks = [
        Chunk(f"{name}{n}", f"d{n}", 0, text, 0, len(text), 0, "", f"{name}.md#{n}", name)
        for n, text in enumerate(texts)
    ]
    asked = [
        Record("", "", "", {
            **{"record_id": f"{name}{n}", "question_id": f"{name}{n}", "question": text.replace("is", "was") + "?"},
            **{"answers": [text.split()[-1]], "oracle_ids": [f"{name}{n}"], "document_ids": [f"d{n}"], "documents": ""},
            **{"document_type": "", "kind": "", "difficulty": 1},
        })
        for n, text in enumerate(texts)
    ]  # fmt: skip
    version = ServedVersion(name, folder / f"train-{name}" / "out" / "adapter", None)
    protocol = Protocol(name, "corpus.jsonl", 1, 1, passages=1, max_tokens=1, row_tokens=1)
    retriever = Retriever(None, None, chunks, mode="lexical")
    return Expert(name, protocol, retriever, load_template(template), True, version, asked, {})


@pytest.fixture
def experts(tmp_path):
    return {
        "towns": expert("towns", "direct", ["The mill of Alder is red", "The bridge of Birch is blue"], tmp_path),
        "boats": expert("boats", "numbered", ["The sail of Alder is white", "The mast of Birch is black"], tmp_path),
    }


def routed(experts, *destinations):
    asked = [(own, record) for own in experts.values() for record in own.asked]
    return [question_of(record, own, experts, to) for (own, record), to in zip(asked, destinations, strict=True)]


def test_a_question_that_goes_to_its_own_domain_is_asked_once(experts):
    (question, *_) = routed(experts, "towns", "towns", "boats", "boats")
    assert question.auto is question.oracle is question.same_passages
    assert question.oracle.reader == "towns"
    assert "The mill of Alder is red" in question.oracle.prompt.input
    assert question.group == "towns towns.md", "an article is resampled whole"


def test_another_domain_answers_over_its_own_passages_in_its_own_form(experts):
    (question, *_) = routed(experts, "boats", "towns", "boats", "boats")
    assert question.auto.reader == question.same_passages.reader == "boats"
    assert "The sail of Alder is white" in question.auto.prompt.input
    assert "The mill of Alder is red" not in question.auto.prompt.input
    assert "The mill of Alder is red" in question.same_passages.prompt.input
    assert question.auto.template.id == "numbered"
    assert (
        question.auto.prompt.instruction
        == question.same_passages.prompt.instruction
        != question.oracle.prompt.instruction
    )
    assert question.auto.prompt.metadata["oracle_positions"] == []


def test_the_base_gets_the_messages_as_they_are(experts):
    (question, *_) = routed(experts, "base", "towns", "boats", "boats")
    assert question.auto.prompt.prompt == [{"role": "user", "content": "The mill of Alder was red?"}]
    assert question.same_passages.reader == "base"
    assert question.same_passages.prompt.prompt == question.oracle.prompt.prompt


def test_f1_is_over_all_questions_and_nothing_is_answered_twice(experts, monkeypatch):
    said = {
        "towns": {"mill": "red", "bridge": "blue"},
        "boats": {"sail": "white", "mast": "black", "bridge": "grey"},
        "base": {"mill": "perhaps it is red", "mast": "nobody knows"},
    }
    load = []

    def answer(who, prompts, cache, progress, reader):
        load.append((reader, len(prompts), who.adapter, who.digest))
        words = [next(w for k, w in said[reader].items() if k in p.metadata["question"]) for p in prompts]
        marker = experts[reader].template.answer_marker + " " if reader in experts else ""
        return [Answer(marker + text, "stop") for text in words]

    monkeypatch.setattr(routing_f1, "answer", answer)
    questions = routed(experts, "base", "boats", "boats", "base")
    base = SimpleNamespace(folder=Path("base"), digest="b")
    sides = answered(questions, experts, base, None)
    assert sides["oracle"] == [1.0, 1.0, 1.0, 1.0]
    assert sides["auto"] == [pytest.approx(2 * 0.25 / 1.25), 0.0, 1.0, 0.0]
    assert [(reader, count) for reader, count, *_ in load] == [("towns", 2), ("base", 4), ("boats", 4)]
    assert {reader: key for reader, _, _, key in load} == {
        "towns": "b+train-towns",
        "base": "b",
        "boats": "b+train-boats",
    }
    assert [adapter for reader, _, adapter, _ in load if reader == "base"] == [None]
    change = difference(questions, sides["auto"], sides["oracle"])
    assert change["value"] == pytest.approx(-(0.6 + 1 + 0 + 1) / 4)
    assert change["low"] <= change["value"] <= change["high"]
    assert change["n"] == 4
    towns = means([question.domain == "towns" for question in questions], questions, sides)
    assert [towns[side]["value"] for side in ("oracle", "auto")] == [1.0, pytest.approx(0.2)]
    assert towns["auto"]["n"] == 2


def test_thresholds_and_questions_are_of_articles_that_nobody_trained_on():
    rows = [
        {"id": f"{a}-{n}", "question": f"{n} of {a}?", "answers": ["x"], "gold_doc_ids": [f"Article_{a}#{n}"]}
        for a in range(48)
        for n in range(3)
    ]
    sides, parts = sides_of("squad", rows), parts_of("squad", rows)
    by_article = {}
    for row in rows:
        by_article.setdefault(unit_of(row["gold_doc_ids"][0]), set()).add(sides[row["id"]])
    assert all(len(side) == 1 for side in by_article.values())
    counts = {side: sum(side in one for one in by_article.values()) for side in ("train", "threshold", "asked", "left")}
    assert counts == {"train": 15, "threshold": 5, "asked": 14, "left": 14}
    assert all((sides[key] == "asked") == (part == "development") for key, part in parts.items())

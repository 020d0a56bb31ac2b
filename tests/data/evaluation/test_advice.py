"""The adviser names what stands in the way first, and keeps quiet about what was not measured."""

import dataclasses

from made_up import ask_all, compose, corpus

from data.evaluation.advice import Probe, advise, probe_from
from data.evaluation.comparison import summarise
from data.evaluation.conditions import conditions
from data.evaluation.scoring import score_row
from data.nouns import Hit
from data.prompting.contract import load_template


def test_nothing_measured_means_nothing_said():
    assert advise(Probe()) == []


def test_a_retriever_that_misses_comes_first():
    first = advise(Probe(recall=0.4, oracle_only=0.3, training_records=100))[0]
    assert first.about == "retrieval"
    assert "40%" in first.why


def test_a_base_model_that_reads_well_needs_no_training_and_one_that_does_not_does():
    assert "expect little" in advise(Probe(oracle_only=0.9))[0].do
    assert "likely to pay" in advise(Probe(oracle_only=0.2))[0].do


def test_each_figure_out_of_range_is_named_once():
    probe = Probe(
        retrieved=0.2,
        oracle_only=0.5,
        closed_book=0.45,
        contained=0.6,
        recall=0.95,
        refused=0.6,
        answer_words=80,
        training_records=40,
        test_questions=20,
        tokens_p90=1000,
        max_tokens=1024,
        oracle_without_quote=0.5,
        verdicts=0.9,
    )
    advice = advise(probe)
    assert len(advice) == 11
    assert len({a.do for a in advice}) == 11
    assert [a.weight for a in advice] == sorted((a.weight for a in advice), reverse=True)


def test_the_probe_is_read_off_an_evaluation_of_the_base_model():
    chunks = corpus(30)
    record_set = compose(chunks, ask_all(chunks))
    by_id = {c.id: c for c in chunks}
    rows = []
    for record in [*record_set.test, *record_set.validation]:
        hits = [Hit(i, 1.0, r) for r, i in enumerate([*record.metadata["oracle_ids"], *list(by_id)[:5]], 1)]
        shown = conditions(record, hits, by_id, passages=4, may_refuse=True)
        for setting, text in (("oracle_only", record.metadata["answers"][0]), ("closed_book", "no idea")):
            rows.append(score_row(shown[setting], text, condition="base", setting=setting))
    probe = probe_from(summarise(rows, samples=100), record_set.report, recall=0.9)
    assert (probe.oracle_only, probe.closed_book, probe.retrieved) == (1.0, 0.0, None)
    assert probe.training_records == len(record_set.train)
    assert any("expect little" in a.do for a in advise(probe))


def test_quotes_are_advised_on_only_where_the_template_asks_for_them():
    chunks = corpus(30)
    bare = [dataclasses.replace(q, quotes=()) for q in ask_all(chunks)]
    probes = {}
    for name in ("raft", "direct"):
        record_set = compose(chunks, bare, template=load_template(name))
        summary = {"settings": {}, "base": "base"}
        probes[name] = probe_from(summary, record_set.report, answers=[["Yes."], ["no"], ["the boiler"]])
    assert (probes["raft"].oracle_without_quote, probes["direct"].oracle_without_quote) == (1.0, None)
    assert abs(probes["raft"].verdicts - 2 / 3) < 1e-9
    assert any("direct" in a.do for a in advise(probes["raft"]))
    assert not any("quote" in a.do + a.why for a in advise(probes["direct"]))

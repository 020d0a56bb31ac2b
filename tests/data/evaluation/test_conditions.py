"""The contexts of an evaluation: each shows what its name says, and is scored like any record."""

import pytest
from made_up import ask_all, compose, corpus, everything

from data.evaluation.conditions import conditions, with_passages
from data.nouns import Hit
from data.records.figures import passage_texts
from data.reports.report import score_row, summarise, write_report


@pytest.fixture(scope="module")
def case():
    chunks = corpus(30)
    records = everything(compose(chunks, ask_all(chunks)))
    return {c.id: c for c in chunks}, records


def hits_for(record, chunks, *, found=True):
    ids = [*record.metadata["oracle_ids"], *chunks] if found else list(chunks)
    ids = [i for i in dict.fromkeys(ids) if found or i not in record.metadata["oracle_ids"]]
    return [Hit(i, 1.0 / r, r) for r, i in enumerate(ids[:14], 1)]


def test_each_setting_shows_what_its_name_says(case):
    chunks, records = case
    for record in records[:20]:
        contexts = conditions(record, hits_for(record, chunks), chunks, passages=4, may_refuse=True)
        assert list(contexts) == [
            "retrieved",
            "oracle_only",
            "oracle_with_2",
            "oracle_with_4",
            "oracle_with_8",
            "distractors_only",
            "closed_book",
        ]
        roles = {name: [row["role"] for row, _ in passage_texts(r)] for name, r in contexts.items()}
        assert roles["oracle_only"] == ["oracle"]
        assert sorted(roles["oracle_with_4"]) == ["distractor"] * 4 + ["oracle"]
        assert roles["distractors_only"] == ["distractor"] * 4
        assert roles["retrieved"] == ["oracle"] + ["distractor"] * 3
        assert contexts["closed_book"].input == ""
        for changed in contexts.values():
            assert changed.output == ""
            assert all(text == chunks[row["chunk_id"]].text for row, text in passage_texts(changed))


def test_the_oracle_moves_about_among_its_distractors(case):
    chunks, records = case
    places = {
        conditions(r, hits_for(r, chunks), chunks, passages=4, may_refuse=True)["oracle_with_4"].metadata[
            "oracle_positions"
        ][0]
        for r in records
    }
    assert places == {1, 2, 3, 4, 5}


def test_what_the_retriever_misses_is_a_refusal_due_and_still_counts_against_the_answer(case):
    chunks, records = case
    record = records[0]
    missed = conditions(record, hits_for(record, chunks, found=False), chunks, passages=4, may_refuse=True)["retrieved"]
    row = score_row(
        missed, "<ANSWER>: The passages do not contain the answer.", condition="adapter", setting="retrieved"
    )
    assert row["should_refuse"]
    assert row["refused"]
    assert row["metrics"]["f1"] == 0


def test_settings_that_a_question_cannot_have_are_left_out(case):
    chunks, records = case
    contexts = conditions(records[0], [], chunks, passages=4, may_refuse=True)
    assert list(contexts) == ["oracle_only", "closed_book"]


def test_the_prompt_is_the_trained_one(case):
    chunks, records = case
    for record in records:
        shown = [chunks[row["chunk_id"]] for row in record.metadata["passages"]]
        again = with_passages(record, shown, may_refuse=True)
        assert (again.instruction, again.input) == (record.instruction, record.input)


def test_the_report_draws_the_robustness_curve(case, tmp_path):
    chunks, records = case
    rows = []
    for record in records[:12]:
        for setting, context in conditions(
            record, hits_for(record, chunks), chunks, passages=4, may_refuse=True
        ).items():
            rows.append(score_row(context, "no", condition="base", setting=setting))
            rows.append(score_row(context, record.metadata["answers"][0], condition="adapter", setting=setting))
    write_report(tmp_path / "r.html", title="T", summary=summarise(rows, samples=100), rows=rows)
    assert "by number of distractors" in (tmp_path / "r.html").read_text(encoding="utf-8")

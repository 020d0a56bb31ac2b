"""The judge is one metric among others: its verdicts are read strictly, counted, and never replace a score."""

import pytest
from faulty_endpoint import Endpoint, completion
from made_up import ask_all, compose, corpus

from data.evaluation.comparison import summarise
from data.evaluation.teacher_judge import judge_rows, read_verdict
from data.nouns import MemoryCache
from data.records.compose import RecordOptions
from data.reports.report import score_row, write_report
from data.teachers import CeilingReached, OpenAITeacher, ReplayTeacher


@pytest.fixture(scope="module")
def rows():
    chunks = corpus(30)
    record_set = compose(chunks, ask_all(chunks), options=RecordOptions(max_tokens=400, p_oracle=1.0))
    scored = []
    for record in record_set.train:
        scored.append(score_row(record, "<ANSWER>: nothing of the kind", condition="base"))
        scored.append(score_row(record, record.output, condition="adapter"))
    return scored


def by_reply(messages):
    return "No." if "nothing of the kind" in messages[-1]["content"] else "Yes, it does."


def test_verdicts_are_read_by_their_first_yes_or_no():
    assert read_verdict("Yes.") == 1
    assert read_verdict("**No** - yes would be wrong") == 0
    assert read_verdict("I cannot tell") is None
    assert read_verdict("nothing, yesterday") is None


def test_a_verdict_is_a_metric_beside_the_others(rows, tmp_path):
    judged, about = judge_rows(rows, ReplayTeacher(default=by_reply), cache=MemoryCache())
    assert about == {"teacher": "replay", "judged": len(rows), "unreadable": 0, "failed": 0, "agreement": 1.0}
    for before, after in zip(rows, judged, strict=True):
        rest = {k: v for k, v in after["metrics"].items() if k != "judged"}
        assert rest == {k: v for k, v in before["metrics"].items() if k != "judged"}
    summary = summarise(judged, samples=200)
    assert summary["settings"]["records"]["differences"]["judged"]["difference"] == 1
    assert summary["headline_metric"] == "f1"
    write_report(tmp_path / "r.html", title="T", summary=summary, rows=judged, judge=about)
    assert "Judged right" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_what_is_no_verdict_is_counted_and_left_out(rows):
    judged, about = judge_rows(rows, ReplayTeacher(default="perhaps"), cache=MemoryCache())
    assert (about["unreadable"], about["judged"], about["agreement"]) == (len(rows), 0, None)
    assert "judged" not in summarise(judged, samples=200)["settings"]["records"]["differences"]
    _, about = judge_rows(rows, ReplayTeacher(default=None), cache=MemoryCache())
    assert about["failed"] == len(rows)


def test_refusals_and_empty_replies_are_wrong_without_asking(rows):
    teacher = ReplayTeacher(default="yes")
    silent = [dict(r, final_answer="", refused=False) for r in rows]
    judged, _ = judge_rows(silent, teacher, cache=MemoryCache())
    assert teacher.calls == []
    assert {r["metrics"]["judged"] for r in judged} == {0.0}


def test_a_verdict_is_asked_for_once(rows):
    cache = MemoryCache()
    first, second = ReplayTeacher(default=by_reply), ReplayTeacher(default=by_reply)
    assert judge_rows(rows, first, cache=cache)[0] == judge_rows(rows, second, cache=cache)[0]
    assert second.calls == []


@pytest.mark.slow
def test_a_judge_that_thinks_says_which_ceiling_is_too_low_and_is_heard_below_a_higher_one(rows):
    def answer(body):
        if body["max_tokens"] < 400:
            return 200, completion("<think>Let me compare", "length")
        return 200, completion(f"<think>No, wait: yes or no?</think>{by_reply(body['messages'])}")

    endpoint = Endpoint()
    endpoint.script = answer
    judge = OpenAITeacher("tiny", base_url=endpoint.url)
    with pytest.raises(CeilingReached, match="8 tokens went into thinking") as error:
        judge_rows(rows, judge, cache=MemoryCache())
    assert "evaluate.judge_tokens" in error.value.do
    _, about = judge_rows(rows, judge, cache=MemoryCache(), max_tokens=400)
    assert (about["judged"], about["agreement"]) == (len(rows), 1.0)
    endpoint.close()

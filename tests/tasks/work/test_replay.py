"""A warm start sees everything new, and the same share of what is known on every night."""

import pytest

from data.nouns import MemoryCache, Record, read_jsonl, write_jsonl
from tasks.build.supervisor import run_child
from tasks.replay import ReplayConfig
from tasks.store.store import Store
from tasks.work.bench import Bench
from tasks.work.replay import build


def record(number, text="x"):
    return Record(f"ask {number}", text, "answer", {"question_id": f"q{number}", "record_id": f"{number}{text}"})


@pytest.fixture
def world(tmp_path):
    store = Store(tmp_path / "raft")
    store.prepare()

    def records(key, rows):
        with store.publish("records", key) as (out, manifest):
            write_jsonl(out / "train.jsonl", rows)
            write_jsonl(out / "validation.jsonl", [record(999)])
        return manifest

    def replay(share, now, then):
        out = tmp_path / f"out-{share}-{len(now)}"
        out.mkdir()
        bench = Bench(
            out, out, MemoryCache(), lambda *_: None, 0, {}, run_child=run_child, calibration=out, compiled=out
        )
        outcome = build(bench, ReplayConfig(share=share), records(f"now{len(now)}", now), then)
        return list(read_jsonl(out / "train.jsonl", Record)), outcome

    return records, replay


def test_new_records_are_all_there_and_known_ones_in_part(world):
    records, replay = world
    then = records("then", [record(i) for i in range(100)])
    now = [record(i, "with other distractors") for i in range(50, 120)]
    rows, outcome = replay(0.5, now, then)
    assert {f"q{i}" for i in range(100, 120)} <= {r.metadata["question_id"] for r in rows}
    counts = outcome.metrics
    assert counts["new"] == 20
    assert 10 <= counts["repeated"] <= 40
    assert counts["repeated"] + counts["left_out"] == 50
    assert [r for r in now if r in rows] == rows, "in their order"
    assert replay(0.0, now, then)[1].metrics["repeated"] == 0
    assert replay(1.0, now, then)[1].metrics["left_out"] == 0


def test_the_same_known_records_are_repeated_when_others_come_and_go(world):
    records, replay = world
    then = records("then", [record(i) for i in range(100)])
    one = {r.metadata["question_id"] for r in replay(0.5, [record(i) for i in range(60)], then)[0]}
    two = {r.metadata["question_id"] for r in replay(0.5, [record(i) for i in range(80)], then)[0]}
    assert one == {q for q in two if int(q[1:]) < 60}

"""What the base says to plain instructions is asked once, kept, and trained on beside the records."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from data.nouns import MemoryCache, Record, write_jsonl
from data.records.rehearsal import instructions
from tasks.build.supervisor import run_child
from tasks.runtime.rehearsal import replies
from tasks.store.store import Store
from tasks.train import TrainSection
from tasks.work.bench import Bench
from tasks.work.train import build, in_words

sys.path.append(str(Path(__file__).resolve().parents[2] / "flows"))
NOWHERE = SimpleNamespace(name="base", folder=Path("/nowhere"), digest="digest-of-the-base", chat={})


def test_a_reply_is_asked_for_once_for_each_base_and_precision():
    cache, asked = MemoryCache(), []

    def ask(job):
        asked.append(job["asks"])
        return [f"{prompt}{draw}" for draw, prompt in job["asks"]]

    def said(asks, base=NOWHERE, precision="bfloat16"):
        return replies(asks, base, dtype="float32", precision=precision, cache=cache, ask=ask)

    assert said([(1, "a"), (0, "b"), (0, "b")]) == ["a1", "b0", "b0"]
    assert said([(0, "b"), (1, "c"), (1, "a")]) == ["b0", "c1", "a1"]
    assert asked == [[(0, "b"), (1, "a")], [(1, "c")]]
    said([(0, "b")], precision="nf4")
    said([(0, "b")], SimpleNamespace(**{**vars(NOWHERE), "digest": "another"}))
    assert asked[2:] == [[(0, "b")]] * 2


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    import tiny

    folder = tiny.make_base(tmp_path_factory.mktemp("rehearsed") / "base")
    return SimpleNamespace(name="base", folder=folder, digest="tiny", chat={})


@pytest.fixture
def trained(tmp_path, base):
    """Trains a step on four records and the given share of rehearsals; the chats, the outcome, the prompts asked."""
    store = Store(tmp_path / "raft")
    store.prepare()
    with store.publish("records", "now") as (out, records):
        write_jsonl(out / "train.jsonl", [Record(f"ask {n}", "passages", "answer") for n in range(4)])
        write_jsonl(out / "validation.jsonl", [])

    def run(share, answer):
        cache, asked = MemoryCache(), []

        def child(module, arguments, **settings):
            if module != "tasks.runtime.rehearsal":
                return run_child(module, arguments, **settings)
            job = json.loads(Path(arguments[0]).read_text())
            asked.extend(prompt for _, prompt in job["asks"])
            Path(job["out"]).write_text(json.dumps([answer(prompt) for _, prompt in job["asks"]]))

        for name in ("out", "scratch"):
            (tmp_path / name).mkdir()
        scratch = tmp_path / "scratch"
        bench = Bench(
            tmp_path / "out",
            scratch,
            cache,
            lambda *_: None,
            0,
            {},
            run_child=child,
            calibration=scratch,
            compiled=scratch,
        )
        config = TrainSection(rehearsal=share, rank=2, max_steps=1, sequence_length=128, dtype="float32")
        outcome = build(bench, config, records, base=base)
        lines = [json.loads(line) for line in (scratch / "train.chat.jsonl").read_text().splitlines()]
        return lines, outcome, asked

    return run


@pytest.mark.slow
@pytest.mark.wide
def test_the_records_and_beginnings_of_the_base_s_answers_are_trained_on(trained):
    lines, outcome, asked = trained(0.5, lambda p: f"On {p} ")
    assert (len(asked), set(asked) <= set(instructions())) == (4, True)
    assert [line["messages"][0]["content"] for line in lines[:4]] == [f"ask {n}\npassages" for n in range(4)]
    assert not any(line.get("rehearsed") for line in lines[:4])
    assert len(lines) == 8
    for line in lines[4:]:
        question, answer = line["messages"]
        assert question["content"] in asked
        assert line["rehearsed"] is True
        assert answer == {"role": "assistant", "content": f"On {question['content']}"}
    assert outcome.metrics["rehearsals"] == 4
    assert outcome.metrics["records"] == 8
    assert "8 records (0 too long, 4 of general skills)" in outcome.summary


@pytest.mark.slow
@pytest.mark.wide
def test_where_the_base_says_nothing_nothing_is_rehearsed(trained, caplog):
    lines, outcome, asked = trained(0.2, lambda p: " ")
    assert len(asked) == 1
    assert "nothing of its general skills is rehearsed" in caplog.text
    assert (len(lines), outcome.metrics["rehearsals"]) == (4, 0)


@pytest.mark.slow
def test_the_base_answers_in_a_process_of_its_own(base, tmp_path):
    job = {
        "base": str(base.folder),
        "chat": {},
        "dtype": "float32",
        "precision": "bfloat16",
        "asks": [(0, "Hi"), (0, "Name it"), (1, "Hi")],
    }
    out, shown = tmp_path / "out.json", []
    (tmp_path / "job.json").write_text(json.dumps({**job, "out": str(out)}))
    run_child("tasks.runtime.rehearsal", [str(tmp_path / "job.json")], log_file=tmp_path / "log", on_event=shown.append)
    from jora_engine.generation.generator import Generator

    generator = Generator(base.folder, dtype="float32")
    prompts = [
        generator.tokenizer.apply_chat_template([{"role": "user", "content": one}], add_generation_prompt=True)
        for one in ("Hi", "Name it")
    ]
    own = generator.generate(prompts, max_new_tokens=32, temperature=1.0)
    own += generator.generate(prompts[:1], max_new_tokens=32, temperature=1.0, seed=1)
    assert own[0].text != own[2].text
    assert json.loads(out.read_text()) == [one.text for one in own]
    assert shown == [{"event": "answered", "done": done, "total": 3} for done in (2, 3)]


def test_a_training_without_rehearsals_is_told_as_before():
    facts = {"records": 2, "records_too_long": 0, "rows": 1, "steps": 1, "first_loss": 2.0, "final_loss": 1.5}
    assert in_words(facts) == "2 records (0 too long) in 1 row, 1 step: loss 2.000 → 1.500"

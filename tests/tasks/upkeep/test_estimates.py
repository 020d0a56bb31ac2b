"""What a run will take is told before anything was built, and by this machine's own rates as soon as there are some."""

import json
import struct
from types import SimpleNamespace

import pytest

from flows.calls import NAMES
from tasks.config import RunConfig
from tasks.inputs.corpus import Corpus
from tasks.upkeep.estimates import RULES, estimate, workload


def corpus(**sizes):
    stamps = {name.replace("_", "."): f"1:2:{size}:3:4" for name, size in sizes.items()}
    return Corpus(("docs",), dict.fromkeys(stamps, "sha"), stamps=stamps)


def result(seconds, **metrics):
    return SimpleNamespace(seconds=seconds, metrics=metrics)


def test_readmes_run_is_told_within_a_factor_of_two_before_anything_was_built():
    """Seconds as README prints them, on two cores."""
    config = RunConfig()
    work = workload(config, Corpus(("pydoc:topics",), {"pydoc:topics": "sha"}), {}, None)
    took = {"chunk": 1.2, "embed": 17.8, "questions": 82.7, "train": 318.8, "export": 36.8, "evaluate": 96.8}
    for stage, seconds in took.items():
        told = estimate(stage, config, work, None)
        assert seconds / 2 < told.seconds < 2 * seconds, stage
        assert told.basis.startswith("rough")
    assert 542e6 / 1.2 < estimate("export", config, work, None).bytes < 1.2 * 542e6
    assert 1371 / 1.5 < work.chunks < 1371 * 1.5


def test_a_bigger_corpus_more_questions_and_a_bigger_base_take_more():
    small, large = corpus(a_md=10_000), corpus(a_md=10_000, b_md=990_000)
    config = RunConfig()
    first, second = (workload(config, one, {}, None) for one in (small, large))
    bigger = workload(RunConfig(models={"base": "meta-llama/Llama-3.1-8B-Instruct"}), large, {}, None)
    assert (second.chunks / first.chunks, bigger.parameters) == (pytest.approx(100), 8e9)
    for stage in ("embed", "questions", "train", "evaluate"):
        told = [estimate(stage, config, work, None).seconds for work in (first, second)]
        assert told[0] < told[1], stage
    for stage in ("train", "export", "evaluate"):
        assert estimate(stage, config, bigger, None).seconds > 10 * estimate(stage, config, second, None).seconds
    capped = RunConfig(train={"max_steps": 2})
    assert workload(capped, large, {}, None).train_tokens == 2 * 2 * 2048


def test_a_users_own_questions_are_counted_and_a_pdf_is_not_all_text(tmp_path):
    (tmp_path / "qa.jsonl").write_text('{"question": "?"}\n\n' * 30)
    config = RunConfig(questions={"file": str(tmp_path / "qa.jsonl")}, records={"test": 0.2, "validation": 0.1})
    work = workload(config, corpus(a_pdf=1_000_000), {}, None)
    assert (work.asked, work.kept, work.characters) == (30, 30, 50_000)


def test_what_is_built_is_counted_and_its_rate_is_used():
    config = RunConfig()
    built = {"chunk": result(2, chunks=500, tokens=40_000), "questions": result(9, asked=90, kept=80)}
    work = workload(config, corpus(a_md=10), built, None)
    assert (work.chunks, work.asked, work.kept) == (500, 90, 80)
    told = estimate("embed", config, work, result(50, computed=100))
    assert (told.seconds, told.basis.split(":")[0]) == (250, "measured")
    cached = estimate("embed", config, work, result(5, computed=2))
    assert cached.basis.startswith("rough"), "what came from a cache says nothing of the time of the rest"
    assert estimate("export", config, work, result(40)).seconds == 40
    assert estimate("no such stage", config, work, None) is None
    assert {*NAMES} == set(RULES)


def test_the_size_of_a_base_is_read_from_the_headers_of_its_weights(tmp_path):
    header = {"__metadata__": {}, "a": {"shape": [3, 5]}, "b": {"shape": [7]}}
    raw = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw)
    assert workload(RunConfig(), corpus(a_md=10), {}, SimpleNamespace(folder=tmp_path)).parameters == 22

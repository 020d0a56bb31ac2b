"""However requests end and adapters come and go, rows, slots and memory are given back, and nobody waits for ever."""

import dataclasses
import math
import random

import numpy as np
import pytest
from engines import answers, make_adapter, make_engine, make_requests

from jora_engine.config.lora import LoraConfig
from jora_engine.generation import decode as programs
from jora_engine.generation.batching import Engine
from jora_engine.generation.compiles import count_compiles, watch_compiles
from jora_engine.generation.requests import Request
from raft_errors import BadInput

LONG = Request((5, 6, 7), 60, ignore_eos=True)


def idle(engine: Engine) -> bool:
    return sum(engine.slots.users.values()) == engine.running() == engine.pending() == 0


@pytest.mark.slow
def test_two_hundred_requests_of_every_kind_compile_nothing(model, memory):
    rng = random.Random(5)
    engine = make_engine(model, memory, prefix_bytes=1 << 20)
    steps = []
    engine.warm(80, lambda *step: steps.append(step))
    assert [done for done, _, _ in steps] == [0, *range(steps[0][1] + 1)], "from nothing to all, one after the other"
    assert all(what for _, _, what in steps)
    watch_compiles()
    before = count_compiles()
    requests = [
        dataclasses.replace(
            request,
            temperature=rng.choice([0.0, rng.random() * 2]),
            top_p=rng.choice([1.0, 0.1 + 0.9 * rng.random()]),
            top_k=rng.choice([0, rng.randrange(1, 50)]),
            seed=rng.randrange(1 << 40),
            stop=tuple(rng.sample(["a", "the", "é", " "], rng.randrange(3))),
            logprobs=rng.choice([None, rng.randrange(21)]),
            ignore_eos=rng.random() < 0.5,
            allowed=rng.choice(
                [None, lambda made: {3, 4, 5 + len(made)}, lambda made: {3: -1.0, 4: 0.0, 5 + len(made): 2.5}]
            ),
        )
        for request in make_requests([None, *memory.names()], 200, seed=4)
    ]
    assert all(answers(engine, requests))
    assert count_compiles() == before
    assert idle(engine)


def test_every_end_gives_back_the_row_and_the_slot_once(model, memory, monkeypatch):
    engine, ended = make_engine(model, memory), []

    def submit(**options):
        return engine.submit(dataclasses.replace(LONG, adapter="eight", **options), on_done=ended.append)

    def raises(made):
        raise LookupError

    whole = submit()
    engine.run()
    jobs = {
        "length": submit(),
        "stop": submit(stop=(whole.completion.text[4:6],)),
        "abort": submit(),
        "error": submit(allowed=raises),
    }
    waiting = [submit() for _ in range(6)]
    with pytest.raises(BadInput):
        submit(prompt=())
    with pytest.raises(BadInput):
        engine.submit(dataclasses.replace(LONG, adapter="nobody"))
    engine.step()
    for job in (jobs["abort"], waiting[-1]):
        engine.cancel(job)
    engine.run()
    reasons = {name: job.completion and job.completion.finish_reason for name, job in jobs.items()}
    assert reasons == {"length": "length", "stop": "stop", "abort": "abort", "error": None}
    assert isinstance(jobs["error"].error, LookupError)
    assert len(ended) == 1 + len(jobs) + len(waiting) == len({id(job) for job in ended})
    assert idle(engine)

    last = [submit() for _ in range(10)]
    engine.step()

    def failing(*args, **options):
        raise RuntimeError("the device is gone")

    with monkeypatch.context() as patch:
        patch.setattr(programs, "decode", failing)
        with pytest.raises(RuntimeError) as error:
            engine.step()
    engine.fail(error.value)
    assert all(job.error is error.value for job in last)
    assert len({id(job) for job in ended}) == len(ended)
    assert idle(engine)
    assert answers(engine, [dataclasses.replace(LONG, adapter="eight")]) == [whole.completion], "it still works"
    for job in ended:
        times = job.times
        assert times.submitted <= times.ended
        assert not times.ready or times.submitted <= times.admitted <= times.ready <= times.ended


def test_nobody_waits_behind_a_stream_of_another_adapter(model, memory):
    engine, order = make_engine(model, memory), []

    def submit(name):
        job = engine.submit(Request((5, len(order) % 300 + 3), 9, adapter=name, ignore_eos=True))
        order.append(job)
        return job

    for _ in range(20):
        submit("eight")
    late = [submit("two"), submit(None)]
    while not all(job.ended for job in late):
        engine.step()
        submit("eight")
    assert len(order) < 30, "a few calls"
    engine.run()
    numbers = [job.number for job in order]
    assert numbers == sorted(numbers), "whoever came first got a row first"


def test_a_seed_is_a_text_alone_and_in_company(model, memory):
    engine = make_engine(model, memory)
    drawn = Request((5, 6, 7), 12, temperature=1.0, top_p=0.95, seed=3, adapter="eight", ignore_eos=True)
    (alone,) = answers(engine, [drawn])
    others = make_requests([None, *memory.names()], 12, seed=8, temperature=1.5)
    assert answers(engine, [*others, drawn])[-1] == alone
    assert answers(engine, [dataclasses.replace(drawn, seed=4)]) != [alone]
    for value in (math.nan, math.inf, -1.0):
        for name in ("temperature", "top_p"):
            with pytest.raises(BadInput, match="temperature"):
                engine.submit(dataclasses.replace(drawn, **{name: value}))
    with pytest.raises(BadInput, match="top_p"):
        engine.submit(dataclasses.replace(drawn, top_p=1e9))
    assert idle(engine)


@pytest.mark.slow
def test_rows_are_not_kept_waiting_for_their_prompts(model, monkeypatch):
    """With one chunk between two decode calls most rows would wait: prompts of three chunks then leave two of eight
    rows to decode."""
    counts = {"steps": 0, "tokens": 0}
    decode = programs.decode

    def counted(*args, **options):
        cache, made = decode(*args, **options)
        counts["steps"] += int((np.asarray(made.token) >= 0).any(axis=0).sum())
        counts["tokens"] += int((np.asarray(made.token) >= 0).sum())
        return cache, made

    monkeypatch.setattr(programs, "decode", counted)
    monkeypatch.setattr("jora_engine.generation.batching.CHUNKS", (16,))
    engine = Engine(model, 8, chunks_between=1)
    requests = [Request(tuple(range(3 + n, 50 + n)), 30, ignore_eos=True) for n in range(24)]
    assert all(answers(engine, requests))
    assert counts["tokens"] == 24 * 30
    assert counts["tokens"] / counts["steps"] > 3


# ---- adapters that come and go


def test_an_unloaded_adapter_leaves_memory_slot_and_prefixes_with_its_last_row(model, memory, adapter_folders):
    engine = make_engine(model, memory, prefix_bytes=1 << 20)
    running = engine.submit(dataclasses.replace(LONG, prompt=tuple(range(3, 60)), adapter="eight"))
    base = engine.submit(dataclasses.replace(LONG, prompt=tuple(range(3, 60))))
    engine.step()
    digest = memory.get("eight").digest
    waiting = [engine.submit(dataclasses.replace(LONG, adapter="eight")) for _ in range(9)]
    engine.unload("eight")
    assert memory.figures()["in_memory"] == 0
    with pytest.raises(BadInput, match="no adapter 'eight'"):
        engine.submit(dataclasses.replace(LONG, adapter="eight"))
    engine.step()
    assert digest in engine.slots.digests().values(), "rows still use it"
    kept = len(engine.prefixes)
    engine.run()
    assert {job.completion.finish_reason for job in (running, base, *waiting)} == {"length"}
    assert digest not in engine.slots.digests().values(), "it leaves by itself, whether or not others come"
    assert 0 < len(engine.prefixes) < kept
    memory.register("eight", adapter_folders["eight"])
    again = engine.submit(dataclasses.replace(LONG, prompt=tuple(range(3, 60)), adapter="eight"))
    engine.run()
    assert (again.cached_tokens, again.completion) == (0, running.completion)


def test_a_request_that_holds_its_adapter_runs_after_an_unload_and_leaves_nothing(model, memory):
    engine = make_engine(model, memory, prefix_bytes=1 << 20)
    request = dataclasses.replace(LONG, prompt=tuple(range(3, 60)))
    named = engine.submit(dataclasses.replace(request, adapter="eight"))
    held = memory.get("eight")
    engine.run()
    engine.unload("eight")
    job = engine.submit(dataclasses.replace(request, adapter=held))
    engine.step()
    assert held.digest in engine.slots.digests().values()
    engine.run()
    assert job.completion == named.completion
    assert engine.slots.digests() == {}
    assert len(engine.prefixes) == 0
    assert idle(engine)


def test_an_adapter_that_is_loaded_again_before_its_last_row_ends_stays(model, memory, adapter_folders):
    engine = make_engine(model, memory, prefix_bytes=1 << 20)
    request = dataclasses.replace(LONG, prompt=tuple(range(3, 60)), adapter="eight")
    engine.submit(request)
    engine.step()
    engine.unload("eight")
    memory.register("again", adapter_folders["eight"])
    digest = memory.get("again").digest
    engine.run()
    assert list(engine.slots.digests().values()) == [digest]
    assert len(engine.prefixes) > 0


def test_prompts_that_are_forgotten_do_not_come_back_with_a_request_under_way(model, memory):
    engine = make_engine(model, memory, prefix_bytes=1 << 20)
    request = dataclasses.replace(LONG, prompt=tuple(range(3, 73)), max_new_tokens=4)
    answers(engine, [request])
    assert len(engine.prefixes) > 0
    engine.submit(dataclasses.replace(request, prompt=tuple(range(4, 74))))
    engine.forget_prompts()
    engine.run()
    assert len(engine.prefixes) == engine.prefixes.bytes == 0
    answers(engine, [request])
    assert len(engine.prefixes) > 0


def test_an_adapter_that_is_unloaded_while_it_is_read_is_not_brought_back(model, memory, monkeypatch):
    engine = make_engine(model, memory)
    read = type(memory)._read

    def slow_read(self, name, folder):
        adapter = read(self, name, folder)
        engine.unload(name)
        return adapter

    monkeypatch.setattr(type(memory), "_read", slow_read)
    with pytest.raises(BadInput, match="no adapter 'eight'"):
        engine.submit(dataclasses.replace(LONG, adapter="eight"))
    assert engine.pending() == memory.figures()["in_memory"] == 0


@pytest.mark.slow
def test_many_cycles_of_load_and_unload_leave_nothing_behind(model, memory, adapter_folders):
    engine = make_engine(model, memory, prefix_bytes=1 << 19)
    rng, ends = random.Random(0), []
    folders = list(adapter_folders.values())
    for cycle in range(50):
        name = f"cycle {cycle}"
        memory.register(name, folders[cycle % len(folders)])
        for request in make_requests([name, None], 4, seed=cycle):
            job = engine.submit(request, on_done=ends.append)
            if rng.random() < 0.2:
                engine.cancel(job)
        engine.step()
        engine.unload(name)
        assert engine.prefixes.bytes <= 1 << 19
    engine.run()
    answers(engine, [Request((9, 9), 1)])
    assert len(ends) == 200
    assert all(job.completion for job in ends)
    assert idle(engine)
    assert engine.slots.digests() == {}
    figures = memory.figures()
    assert (figures["registered"], figures["in_memory"]) == (len(folders), 0)
    assert not memory._digests
    assert not engine._leaving


def test_a_probe_refuses_an_adapter_that_changes_nothing(model, memory, base_folder, tmp_path, monkeypatch):
    engine = make_engine(model, memory)
    for name in memory.names():
        engine.probe(name)
    zero = LoraConfig(rank=2, alpha=2.0)
    memory.register("zero", make_adapter(base_folder, tmp_path / "zero", zero, 0, size=0.0))
    engine.probe("zero")  # B = 0 means the base, and is nothing wrong
    assert np.array_equal(engine.logits(range(3, 20), "zero"), engine.logits(range(3, 20)))
    memory.register("huge", make_adapter(base_folder, tmp_path / "huge", zero, 0, size=1e15))
    with pytest.raises(BadInput, match="'huge' gives numbers that are not finite"):
        engine.probe("huge")
    engine = make_engine(model, memory)  # one that has not seen it pass
    original = type(engine.slots).acquire
    monkeypatch.setattr(type(engine.slots), "acquire", lambda self, adapter: original(self, None))
    with pytest.raises(BadInput, match="'eight' changes nothing"):
        engine.probe("eight")
    for name in ("huge", "eight"):
        with pytest.raises(BadInput, match=f"adapter '{name}'"):
            engine.submit(dataclasses.replace(LONG, adapter=name))
    assert idle(engine)


def test_who_gets_no_slot_is_told_and_the_slot_is_not_taken_for_written(model, memory, monkeypatch):
    engine, ended = make_engine(model, memory), []
    wanted = dataclasses.replace(LONG, adapter="eight", max_new_tokens=5)
    (want,) = answers(make_engine(model, memory), [wanted])
    job = engine.submit(wanted, on_done=ended.append)
    with monkeypatch.context() as patch:
        patch.setattr(engine.slots, "_packed", lambda adapter: (_ for _ in ()).throw(MemoryError()))
        with pytest.raises(MemoryError) as error:
            engine.step()
    engine.fail(error.value)
    assert ended == [job]
    assert isinstance(job.error, MemoryError)
    assert idle(engine)
    assert answers(engine, [wanted]) == [want]


def test_more_alternatives_than_any_vocabulary_has_are_all(model, memory):
    requests = [dataclasses.replace(LONG, temperature=1.0, top_k=k) for k in (0, 2**31, 2**63, 10**30)]
    first, *others = answers(make_engine(model, memory), requests)
    assert first.finish_reason == "length"
    assert others == [first] * 3

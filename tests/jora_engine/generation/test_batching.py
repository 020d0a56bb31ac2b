"""Whoever else is served, a request gets what it gets alone, and compiles nothing."""

import dataclasses
import itertools
import json
import random
from pathlib import Path

import jax
import numpy as np
import peft
import pytest
import torch
from engines import ADAPTERS, ROWS, answers, make_adapter, make_engine, make_requests
from golden_tokens import MODEL, PROMPTS, TOKENIZER, weights
from transformers import AutoModelForCausalLM

from jora_engine.generation import batching
from jora_engine.generation.adapter_memory import AdapterMemory
from jora_engine.generation.batching import Engine
from jora_engine.generation.compiles import count_compiles, watch_compiles
from jora_engine.generation.generator import Generator
from jora_engine.generation.loaded import load_model
from jora_engine.generation.prefix_cache import PrefixCache, chunk_key
from jora_engine.generation.requests import Request
from raft_errors import BadInput


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 8 and 16 tokens, so that tiny prompts have several and a tail."""
    monkeypatch.setattr(batching, "CHUNKS", (8, 16))


@pytest.mark.slow
def test_mixed_requests_get_the_tokens_that_each_gets_alone_and_compile_nothing(model, memory, small_chunks):
    requests = make_requests([None, *memory.names()], 32)
    engine = make_engine(model, memory, prefix_bytes=1 << 20)
    engine.warm(80)
    answers(engine, requests[:1])
    watch_compiles()
    compiled = count_compiles()
    together = answers(engine, requests)
    assert count_compiles() == compiled
    again = answers(engine, [dataclasses.replace(r, temperature=0.7, top_p=0.9, top_k=9, seed=1) for r in requests])
    assert count_compiles() == compiled
    assert again != together
    hits = engine.prefixes.hits
    assert answers(engine, requests) == together, "warm as cold"
    assert engine.prefixes.hits > hits
    for request, want in zip(requests, together, strict=True):
        alone = make_engine(model, memory)
        assert answers(alone, [request]) == [want]
    assert sum(engine.slots.users.values()) == 0
    different = {answers(engine, [dataclasses.replace(requests[0], adapter=n)])[0] for n in [None, *memory.names()]}
    assert len(different) > 3


@pytest.mark.slow
def test_in_bfloat16_too_a_request_gets_the_tokens_and_scores_that_it_gets_alone(
    base_folder, adapter_folders, small_chunks
):
    model = load_model(base_folder, dtype="bfloat16")
    memory = AdapterMemory(model.config, "bfloat16")
    for name in ("two", "eight"):
        memory.register(name, adapter_folders[name])
    requests = make_requests([None, "two", "eight"], 10, seed=3, logprobs=1, ignore_eos=True)
    engine = Engine(model, ROWS, adapters=memory, adapter_rank=8, prefix_bytes=1 << 20, chunks_between=1)
    together = answers(engine, requests)
    assert answers(engine, requests) == together, "warm as cold"
    assert engine.prefixes.hits > 0
    for request, want in zip(requests[:4], together, strict=False):
        alone = Engine(model, ROWS, adapters=memory, adapter_rank=8, chunks_between=1)
        assert answers(alone, [request]) == [want]
    exact = load_model(base_folder, dtype="float32")
    exact_memory = AdapterMemory(exact.config, "float32")
    exact_memory.register("eight", adapter_folders["eight"])
    near = Engine(exact, ROWS, adapters=exact_memory).logits(range(5, 40), "eight")
    assert np.abs(engine.logits(range(5, 40), "eight") - near).max() < 0.1 * np.abs(near).max()


@pytest.mark.slow
def test_each_adapter_has_the_logits_that_peft_gives_it(model, memory, base_folder, adapter_folders):
    engine = make_engine(model, memory)
    prompt = list(range(5, 50))
    base = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32)
    with torch.no_grad():
        plain = base(torch.tensor([prompt])).logits[0].numpy()
    np.testing.assert_allclose(engine.logits(prompt), plain, atol=2e-4, rtol=2e-4)
    for name, folder in adapter_folders.items():
        theirs = peft.PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32), str(folder)
        )
        with torch.no_grad():
            want = theirs(torch.tensor([prompt])).logits[0].numpy()
        np.testing.assert_allclose(engine.logits(prompt, name), want, atol=2e-4, rtol=2e-4)
        assert np.abs(want - plain).max() > 0.05
        assert np.array_equal(engine.logits(prompt), Engine(model, ROWS).logits(prompt)), "slot 0 adds nothing"


@pytest.mark.slow
def test_a_slot_in_use_is_nobody_else_s(model, memory, base_folder, tmp_path):
    """Four rows run while twenty adapters come and go through the other four slots."""
    engine = Engine(model, 8, adapters=memory, adapter_rank=16)
    long = [
        Request(tuple(range(n, 40)), 60, adapter=n_of, ignore_eos=True) for n, n_of in enumerate(memory.names()[:4])
    ]
    want = answers(engine, long)
    jobs = [engine.submit(request) for request in long]
    engine.step()
    slots = [job.slot for job in jobs]
    others = []
    for number, name in enumerate(itertools.islice(itertools.cycle(ADAPTERS), 20)):
        memory.register(
            f"copy {number}", make_adapter(base_folder, tmp_path / str(number), ADAPTERS[name], 100 + number)
        )
        others.append(engine.submit(Request((7, 8, number + 3), 3, adapter=f"copy {number}")))
        if number % 4 == 3:
            engine.step()
            assert [job.slot for job in jobs] == slots
    engine.run()
    assert [job.completion for job in jobs] == want
    assert {other.slot for other in others}.isdisjoint(slots)
    assert sum(engine.slots.users.values()) == 0
    with pytest.raises(AssertionError, match="more often"):
        engine.slots.release(1)


@pytest.mark.slow
def test_a_long_prompt_holds_nobody_up(model, memory, small_chunks):
    engine = make_engine(model, memory)
    short = engine.submit(Request((5, 6, 7), 40, ignore_eos=True))
    engine.step()
    long = engine.submit(Request(tuple(range(3, 103)), 4))
    growth = []
    while not long.ready:
        before = len(short.made)
        engine.step()
        growth.append(len(short.made) - before)
    assert len(growth) >= 4
    assert all(growth[:4]), "a decode call between any two chunks"


def test_a_listener_hears_the_first_token_alone_and_text_that_only_grows(model, memory):
    engine, heard = make_engine(model, memory), []
    job = engine.submit(Request((5, 6, 7), 20, ignore_eos=True), on_text=heard.append)
    engine.step()
    assert len(job.made) == 1
    engine.run()
    assert heard[-1] == job.completion.text
    assert all(later.startswith(sooner) for sooner, later in itertools.pairwise(heard))


def test_a_row_is_free_within_one_call_of_its_cancellation_and_given_back_once(model, memory):
    engine, ended = make_engine(model, memory), []
    jobs = [
        engine.submit(Request((3, n), 60, adapter="eight", ignore_eos=True), on_done=ended.append) for n in range(3, 15)
    ]
    engine.step()
    for job in (jobs[0], jobs[-1]):  # one that runs, one that waits
        engine.cancel(job)
        engine.cancel(job)
    engine.step()
    assert [job.completion.finish_reason for job in (jobs[0], jobs[-1])] == ["abort", "abort"]
    engine.cancel(jobs[0])
    engine.run()
    assert len(ended) == len(jobs)
    assert {job.completion.finish_reason for job in jobs[1:-1]} == {"length"}
    assert sum(engine.slots.users.values()) == engine.running() == engine.pending() == 0


def test_a_constraint_that_raises_ends_its_own_request_alone(model, memory):
    engine = make_engine(model, memory)

    def bad(made):
        if len(made) >= 3:
            raise LookupError("no such passage")

    (want,) = answers(engine, [Request((5, 6), 9, ignore_eos=True)])
    jobs = [engine.submit(Request((5, 6), 9, ignore_eos=True, allowed=f)) for f in (None, bad, lambda made: None)]
    engine.run()
    assert isinstance(jobs[1].error, LookupError)
    assert [jobs[0].completion, jobs[2].completion] == [want, want]
    assert sum(engine.slots.users.values()) == 0


@pytest.mark.slow
def test_log_probabilities_are_those_of_the_logits(model, memory):
    engine = make_engine(model, memory)
    prompt = (5, 6, 7)
    plain, (scored,) = answers(engine, [Request(prompt, 5)])[0], answers(engine, [Request(prompt, 5, logprobs=2)])
    assert scored.token_ids == plain.token_ids
    assert plain.scores is None
    for count, score in enumerate(scored.scores):
        logits = engine.logits([*prompt, *scored.token_ids[:count]])[-1].astype(np.float64)
        want = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
        assert score.token == scored.token_ids[count]
        assert score.logprob == pytest.approx(want[score.token], abs=1e-4)
        assert [i for i, _ in score.best] == np.argsort(-want)[:2].tolist()
    (own,) = answers(engine, [Request(prompt, 2, logprobs=0)])
    assert own.scores[0].best == ()


# ---- adapters in memory


def test_a_broken_adapter_is_refused_by_name_while_the_others_answer(model, memory, adapter_folders, tmp_path):
    def copy(name, change):
        folder = tmp_path / name
        folder.mkdir()
        for file in adapter_folders["eight"].iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        change(folder)
        memory.register(name, folder)

    def edit(folder, **values):
        file = folder / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    copy("missing file", lambda f: (f / "adapter_model.safetensors").unlink())
    copy("cut off", lambda f: (f / "adapter_model.safetensors").write_bytes(b"\x10"))
    copy("wrong rank", lambda f: edit(f, r=4))
    copy("unknown tensor", lambda f: edit(f, target_modules=["q_proj"]))
    copy("dora", lambda f: edit(f, use_dora=True))
    memory.register("nowhere", tmp_path / "nowhere")
    memory.max_rank = 8
    engine = make_engine(model, memory)
    names = ["missing file", "cut off", "wrong rank", "unknown tensor", "dora", "nowhere", "wide"]
    for name in names:
        for _ in range(2):
            with pytest.raises(BadInput, match=f"adapter '{name}'"):
                engine.submit(Request((5,), 2, adapter=name))
    assert sorted(memory.figures()["broken"]) == sorted(names)
    with pytest.raises(BadInput, match=r"rank 16.*limit of 8"):
        memory.get("wide")
    with pytest.raises(BadInput, match="no adapter 'unheard of'"):
        engine.submit(Request((5,), 2, adapter="unheard of"))
    assert answers(engine, [Request((5,), 2, adapter="eight")])[0].finish_reason
    memory.max_rank = 16
    memory.register("wide", adapter_folders["wide"])
    assert memory.get("wide").rank == 16


def test_memory_holds_so_many_bytes_and_reads_the_rest_again(model, memory, monkeypatch):
    size = memory.get("eight").bytes
    memory.max_bytes = size + memory.get("three").bytes
    read = []
    original = AdapterMemory._read
    monkeypatch.setattr(
        AdapterMemory, "_read", lambda self, name, folder: read.append(name) or original(self, name, folder)
    )
    for name in ("eight", "three", "eight", "one", "eight", "three"):
        memory.get(name)
        assert memory.figures()["bytes"] <= memory.max_bytes
    assert read == ["one", "three"], "what was used last stays"
    memory.remove("eight")
    with pytest.raises(BadInput, match="no adapter 'eight'"):
        memory.get("eight")


@pytest.mark.slow
def test_a_larger_adapter_makes_the_stack_anew_and_rows_under_way_do_not_notice(model, memory):
    alone = Engine(model, ROWS, adapters=memory)
    long = Request(tuple(range(9, 40)), 30, adapter="two", ignore_eos=True)
    (want,) = answers(alone, [long])
    engine = Engine(model, ROWS, adapters=memory)
    job = engine.submit(long)
    engine.step()
    assert engine.slots.rank == 8
    engine.submit(Request((5, 6), 3, adapter="wide"))
    engine.run()
    assert engine.slots.rank == 16
    assert job.completion == want


# ---- prefixes


def test_a_repeated_prompt_is_not_computed_twice_nor_for_another_adapter_or_tenant(model, memory, small_chunks):
    engine = make_engine(model, memory, prefix_bytes=1 << 22)
    prompt = tuple(range(3, 48))

    def cached(**options):
        job = engine.submit(Request(prompt, 6, **options))
        engine.run()
        return job.cached_tokens, job.completion

    first = cached()
    assert first[0] == 0
    assert cached() == (44, first[1]), "whole chunks and the tail"
    assert cached(adapter="eight")[0] == 0
    assert cached(adapter="three")[0] == 0
    assert cached(adapter="eight")[0] == 44
    assert cached(tenant="b") == (0, first[1])
    assert cached(logprobs=1)[0] == 44
    longer = engine.submit(Request((*prompt, 4, 4, 4), 3))
    engine.run()
    assert longer.cached_tokens == 32, "what was padded otherwise is computed anew"


def test_the_prefix_cache_stays_within_its_bytes_and_a_half_evicted_prompt_has_the_same_scores(
    model, memory, small_chunks
):
    request = Request(tuple(range(3, 80)), 6, logprobs=3)
    cold = answers(make_engine(model, memory), [request])
    engine = make_engine(model, memory, prefix_bytes=1 << 22)
    assert answers(engine, [request]) == cold
    whole = engine.prefixes.bytes
    engine.prefixes.max_bytes = whole
    for other in make_requests([None], 3, seed=2):
        answers(engine, [other])
        assert engine.prefixes.bytes <= whole
        assert answers(engine, [request]) == cold, "tokens and scores to the last bit"
    engine.prefixes.forget()
    assert engine.prefixes.bytes == len(engine.prefixes) == 0


def test_no_two_different_chunks_have_one_key():
    rng = random.Random(0)
    words = ["", "X", "base", "a", "a@1", "null", "None", '","', "a\0b"]

    def fields():
        return {
            "parent": rng.choice(words),
            "tokens": tuple(rng.randrange(3) for _ in range(rng.randint(1, 4))),
            "padded": rng.choice([8, 16]),
            "weights": rng.choice(words),
            "adapter": rng.choice([None, *words]),
            "tenant": rng.choice(words),
            "length": rng.choice([None, 1, 2]),
        }

    keys: dict[str, dict] = {}
    for _ in range(10_000):
        one = fields()
        key = chunk_key(one["parent"], one["tokens"], **{k: v for k, v in one.items() if k not in ("parent", "tokens")})
        assert keys.setdefault(key, one) == one
    assert len(keys) > 5_000


def test_a_chunk_larger_than_the_cache_is_not_kept():
    cache = PrefixCache(10)
    cache.put("a", [np.zeros(3, np.float32)], None)
    assert len(cache) == cache.bytes == 0
    cache.put("b", [np.zeros(2, np.float32)], "x")
    cache.put("c", [np.zeros(2, np.float32)], "y")
    assert (cache.get("b", 1), len(cache), cache.bytes) == (None, 1, 8)
    cache.forget("x")
    assert len(cache) == 1
    cache.forget("y")
    assert len(cache) == 0


# ---- one engine


@pytest.mark.slow
@pytest.mark.wide
def test_tokens_are_those_of_the_generator_before_it():
    generator = Generator.from_params(jax.tree.map(jax.numpy.asarray, weights()), MODEL, TOKENIZER, max_rows=4)
    expected = json.loads((Path(__file__).parent / "golden_tokens.json").read_text())
    for name, options in {
        "greedy": {},
        "drawn": {"temperature": 0.8, "top_p": 0.9, "seed": 3},
        "warm": {"temperature": 1.0, "seed": 5},
    }.items():
        made = generator.generate(PROMPTS, max_new_tokens=20, **options)
        assert [list(one.token_ids) for one in made] == expected[name]

"""Generation gives what transformers gives, whatever else is in the batch."""

import itertools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from jora_engine.adapters.merged_model import write_merged
from jora_engine.adapters.peft_folder import write_adapter
from jora_engine.config.lora import LoraConfig
from jora_engine.config.parameters import linear_layers
from jora_engine.files.weights import load_params, read_model_config
from jora_engine.generation import batching, decode
from jora_engine.generation import generator as generate
from jora_engine.generation.generator import Generator
from jora_engine.generation.sampling import Sampling, pick
from jora_engine.model import attention_backends, kv_cache
from jora_engine.model.native import library as native
from raft_errors import BadInput

pytestmark = pytest.mark.usefixtures("light_compilation")

PROMPTS = [[5], [7, 8, 9], list(range(3, 40)), [60, 61], [90] * 11, list(range(20, 60)), [4, 4, 4], [33, 2, 1]]


def reference(model, prompt, count):
    """Greedy tokens of transformers, without a stop token at the end, and whether there was one."""
    ids = torch.tensor([prompt])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False)
    made = out[0, len(prompt) :].tolist()
    return (made[:-1], "stop") if made and made[-1] == 2 else (made, "length")


@pytest.mark.slow
def test_greedy_tokens_and_logits_equal_transformers(any_layer, with_tokenizer):
    folder = with_tokenizer(any_layer)
    generator = Generator(folder, dtype="float32", max_rows=4)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompts = [prompt[:31] for prompt in PROMPTS]  # one size of chunks: another would compile every program again
    for prompt, made in zip(prompts, generator.generate(prompts, max_new_tokens=12), strict=True):
        assert (list(made.token_ids), made.finish_reason) == reference(model, prompt, 12)
        assert made.text == generator.tokenizer.decode(made.token_ids, skip_special_tokens=True)
    for prompt, ours in zip(prompts, generator.logits(prompts), strict=True):
        with torch.no_grad():
            theirs = model(torch.tensor([prompt])).logits[0].numpy()
        np.testing.assert_allclose(ours, theirs, atol=2e-4, rtol=2e-4)


@pytest.mark.slow
def test_chunks_segments_refilled_rows_and_a_growing_cache_change_nothing(with_tokenizer, monkeypatch):
    folder = with_tokenizer("qwen3")
    want = Generator(folder, dtype="float32").generate(PROMPTS, max_new_tokens=40)
    monkeypatch.setattr(batching, "CHUNKS", (4, 8))
    monkeypatch.setattr(batching, "AHEAD", 0)
    monkeypatch.setattr(generate, "ROW_COUNTS", (4,))
    monkeypatch.setattr(kv_cache, "SEGMENT", 16)
    monkeypatch.setattr(kv_cache, "FIRST", 8)
    jax.clear_caches()
    small = Generator(folder, dtype="float32", max_rows=4)
    assert small.generate(PROMPTS, max_new_tokens=40) == want
    jax.clear_caches()


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_row_does_not_depend_on_its_neighbours(temperature, with_tokenizer, monkeypatch):
    monkeypatch.setattr(generate, "ROW_COUNTS", (4,))
    folder = with_tokenizer("smollm2")
    options = {"max_new_tokens": 12, "temperature": temperature, "top_p": 0.9, "seed": 3}
    generator = Generator(folder, dtype="float32", max_rows=4)
    together = generator.generate(PROMPTS, **options)
    for prompt, made in zip(PROMPTS, together, strict=True):
        assert generator.generate([prompt], **options) == [made]
    order = [5, 2, 7, 0, 1, 3, 6, 4]
    assert generator.generate([PROMPTS[i] for i in order], **options) == [together[i] for i in order]


@pytest.mark.slow
def test_samples_follow_the_seed_and_repeats_of_a_prompt_differ(with_tokenizer):
    generator = Generator(with_tokenizer("smollm2"), dtype="float32")
    run = lambda seed: generator.generate([[5, 6, 7]] * 3, max_new_tokens=16, temperature=1.0, seed=seed)  # noqa: E731
    assert run(1) == run(1)
    assert run(1) != run(2)
    assert len(set(run(1))) == 3


def drawn(rows, keys, temperature=1.0, top_p=1.0, top_k=0):
    count = len(rows)
    sampling = Sampling(*(np.full(count, x, t) for x, t in ((temperature, "f4"), (top_p, "f4"), (top_k, "i4"))), keys)
    return np.asarray(pick(rows, sampling, jnp.zeros(count, jnp.int32)))


@pytest.mark.slow
def test_a_draw_has_the_distribution_it_should():
    logits = jnp.log(jnp.asarray([0.4, 0.3, 0.15, 0.1, 0.05]))
    rows = jnp.tile(logits, (20000, 1))
    keys = np.random.default_rng(0).integers(0, 2**32, (20000, 2), dtype=np.uint32)
    draws = drawn(rows, keys)
    np.testing.assert_allclose(np.bincount(draws, minlength=5) / 20000, [0.4, 0.3, 0.15, 0.1, 0.05], atol=0.015)
    nucleus = drawn(rows, keys, top_p=0.8)
    want = np.asarray([0.4, 0.3, 0.15, 0, 0]) / 0.85
    np.testing.assert_allclose(np.bincount(nucleus, minlength=5) / 20000, want, atol=0.015)
    cold = drawn(rows, keys, 0.5)
    sharp = np.square([0.4, 0.3, 0.15, 0.1, 0.05])
    np.testing.assert_allclose(np.bincount(cold, minlength=5) / 20000, sharp / sharp.sum(), atol=0.015)
    three = drawn(rows, keys, top_k=3)
    want = np.asarray([0.4, 0.3, 0.15, 0, 0]) / 0.85
    np.testing.assert_allclose(np.bincount(three, minlength=5) / 20000, want, atol=0.015)
    both = drawn(rows, keys, top_k=3, top_p=0.8)  # 0.4 and 0.3 are 0.82 of the three
    want = np.asarray([4, 3, 0, 0, 0]) / 7
    np.testing.assert_allclose(np.bincount(both, minlength=5) / 20000, want, atol=0.015)


@pytest.mark.parametrize(
    "options", [{"temperature": 1e-40}, {"temperature": 2e-38}, {"top_p": 1e-46}, {"top_p": 1e-40}]
)
def test_the_smallest_numbers_leave_the_most_likely_token(options):
    rows = jnp.asarray([[1.0, 2.0, 30.0, 29.0]] * 8, jnp.float32)
    keys = np.random.default_rng(2).integers(0, 2**32, (8, 2), dtype=np.uint32)
    assert drawn(rows, keys, **options).tolist() == [2] * 8


@pytest.mark.slow
def test_each_row_is_drawn_by_its_own_parameters():
    rng = np.random.default_rng(1)
    rows = jnp.asarray(rng.normal(0, 2, (6, 50)).astype("f4"))
    keys = rng.integers(0, 2**32, (6, 2), dtype=np.uint32)
    options = [(0.0, 1.0, 0), (1.0, 1.0, 0), (1.0, 0.5, 0), (1.0, 1.0, 3), (0.7, 0.9, 5), (0.0, 0.5, 2)]
    together = Sampling(*(np.asarray(x, t) for x, t in zip(zip(*options), ("f4", "f4", "i4"))), keys)
    mixed = np.asarray(pick(rows, together, jnp.zeros(6, jnp.int32)))
    alone = [int(drawn(rows[i : i + 1], keys[i : i + 1], *options[i])[0]) for i in range(6)]
    assert mixed.tolist() == alone


@pytest.mark.slow
def test_the_lowest_of_equal_tokens_is_taken():
    logits = jnp.asarray([[1.0, 3.0, 3.0, 2.0]])
    assert drawn(logits, np.zeros((1, 2), np.uint32), 0.0)[0] == 1


@pytest.mark.slow
def test_stop_strings_end_a_completion_before_them(with_tokenizer):
    generator = Generator(with_tokenizer("llama"), dtype="float32")
    whole = generator.generate([[5, 6, 7]], max_new_tokens=30)[0]
    word = whole.text[5:8]
    cut = generator.generate([[5, 6, 7]], max_new_tokens=30, stop=["never there", word])[0]
    assert cut.finish_reason == "stop"
    assert cut.text == whole.text[: whole.text.index(word)]
    assert whole.token_ids[: len(cut.token_ids)] == cut.token_ids
    text = generator.tokenizer.decode(cut.token_ids, skip_special_tokens=True)
    assert word in text
    assert word not in generator.tokenizer.decode(cut.token_ids[:-1], skip_special_tokens=True)


@pytest.mark.slow
def test_an_adapter_gives_what_the_merged_model_gives(with_tokenizer, tmp_path):
    folder = with_tokenizer("qwen2")
    config, model = LoraConfig(rank=3, alpha=5, use_rslora=True), read_model_config(folder)
    rng = np.random.default_rng(0)
    shapes = {n: linear_layers(model)[n].shape for n in config.targets(model)}
    lora = {
        n: {"a": rng.normal(0, 0.3, (3, 3, i)).astype("f4"), "b": rng.normal(0, 0.3, (3, o, 3)).astype("f4")}
        for n, (o, i) in shapes.items()
    }
    write_adapter(tmp_path / "adapter", lora, config, model, "base", {"base_digest": "x"})
    write_merged(folder, lora, config, model, tmp_path / "merged")
    adapted = Generator(folder, tmp_path / "adapter", "float32")
    merged = Generator(tmp_path / "merged", dtype="float32")
    assert adapted.generate(PROMPTS, max_new_tokens=12) == merged.generate(PROMPTS, max_new_tokens=12)
    assert adapted.generate(PROMPTS, max_new_tokens=12) != Generator(folder, dtype="float32").generate(
        PROMPTS, max_new_tokens=12
    )
    with pytest.raises(BadInput, match="another base"):
        Generator(folder, tmp_path / "adapter", base_digest="y" * 64)


@pytest.mark.slow
def test_parameters_in_memory_generate_as_the_folder_does(with_tokenizer):
    folder = with_tokenizer("mistral")
    loaded = Generator(folder, dtype="bfloat16")
    params = load_params(folder, loaded.config, "bfloat16")
    memory = Generator.from_params(params, loaded.config, loaded.tokenizer)
    assert memory.generate(PROMPTS, max_new_tokens=9) == loaded.generate(PROMPTS, max_new_tokens=9)


@pytest.mark.slow
def test_every_completion_is_told_once_as_it_is_done_and_no_prompts_give_none(with_tokenizer):
    generator = Generator(with_tokenizer("llama"), max_rows=4)
    seen: list[tuple] = []
    done = generator.generate(PROMPTS, max_new_tokens=3, on_done=lambda *args: seen.append(args))
    assert sorted(seen, key=lambda item: item[0]) == list(enumerate(done))
    assert generator.generate([], max_new_tokens=3) == []
    assert generator.generate([[3]], max_new_tokens=0)[0].finish_reason == "length"


@pytest.mark.slow
def test_few_programs_serve_many_lengths(with_tokenizer):
    generator = Generator(with_tokenizer("smollm2"), dtype="float32")
    generator.generate([[3] * n for n in (1, 30, 60)], max_new_tokens=5)
    before = decode.decode._cache_size()
    generator.generate([[4] * n for n in (2, 17, 41, 59)], max_new_tokens=5)
    assert decode.decode._cache_size() == before


@pytest.mark.parametrize(
    ("prompts", "options", "named"),
    [
        ([[3], []], {}, "prompt 1 is empty"),
        ("How do closures work?", {}, "A prompt is a text"),
        (["How do closures work?"], {}, "A prompt is a text"),
        ([[416]], {}, "outside the vocabulary"),
        ([[3] * 120], {"max_new_tokens": 20}, "too long"),
        ([[3]], {"temperature": -1.0}, "temperature"),
        ([[3]], {"top_p": 0.0}, "top_p"),
    ],
)
def test_prompts_and_options_that_cannot_work_are_refused(prompts, options, named, with_tokenizer):
    generator = Generator(with_tokenizer("llama"))
    with pytest.raises(BadInput, match=named):
        generator.generate(prompts, **{"max_new_tokens": 4, **options})


@pytest.mark.slow
def test_a_token_that_the_model_has_no_row_for_is_in_nobody_s_way_until_it_is_used(with_tokenizer):
    folder = with_tokenizer("llama")
    generator = Generator(folder)
    plain = generator.generate([[3, 4]], max_new_tokens=4)
    size = generator.config.vocab_size
    generator.tokenizer.backend.add_special_tokens([f"<|spare {i}|>" for i in range(size)])
    spare = generator.tokenizer.vocab_size - 1
    assert spare > size
    larger = Generator.from_params(load_params(folder, generator.config), generator.config, generator.tokenizer)
    assert larger.generate([[3, 4]], max_new_tokens=4) == plain
    freely = larger.generate([[3, 4]], max_new_tokens=1, constrain=lambda row, made: {5, spare})
    assert freely[0].token_ids == (5,)
    with pytest.raises(BadInput, match="outside the vocabulary"):
        larger.generate([[3, spare]], max_new_tokens=4)


@pytest.mark.slow
def test_the_default_base_model_answers_as_in_transformers():
    folder = Path(os.environ.get("RAFT_TEST_MODEL", ""))
    if not (folder / "config.json").is_file():
        pytest.skip("set RAFT_TEST_MODEL to the converted SmolLM2-135M-Instruct folder")
    generator = Generator(folder, dtype="float32")
    questions = ["What is 2 + 2?", "Name three colours.", "Explain what a list comprehension is in Python."]
    prompts = [
        generator.tokenizer.apply_chat_template([{"role": "user", "content": q}], add_generation_prompt=True)
        for q in questions
    ]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for prompt, made in zip(prompts, generator.generate(prompts, max_new_tokens=40), strict=True):
        assert (list(made.token_ids), made.finish_reason) == reference(model, prompt, 40)


@pytest.mark.slow
def test_text_is_told_as_it_grows_and_ends_as_the_completion(with_tokenizer):
    generator = Generator(with_tokenizer("qwen3"), dtype="float32")
    whole = generator.generate([[5, 6, 7]], max_new_tokens=30)[0]
    for stop in ((), (whole.text[len(whole.text) // 2 :][:2],)):
        heard: list[tuple[int, str]] = []
        done = generator.generate(
            [[5, 6, 7]], max_new_tokens=30, stop=stop, on_text=lambda *said, to=heard: to.append(said)
        )
        texts = [text for _, text in heard]
        assert texts[-1] == done[0].text
        assert len(texts) > 1
        assert all(later.startswith(sooner) for sooner, later in itertools.pairwise(texts))


@pytest.mark.slow
def test_a_constraint_decides_what_may_come_next(with_tokenizer):
    folder = with_tokenizer("smollm2")
    generator = Generator(folder, dtype="float32", max_rows=4)
    free = generator.generate(PROMPTS, max_new_tokens=6)
    asked = []

    def odd_ids_after_two(number, made):
        asked.append((number, tuple(made)))
        return range(101, 400, 2) if len(made) >= 2 and number % 2 else None

    held = generator.generate(PROMPTS, max_new_tokens=6, constrain=odd_ids_after_two)
    for number, (before, after) in enumerate(zip(free, held, strict=True)):
        if number % 2:
            assert after.token_ids[:2] == before.token_ids[:2]
            made = list(after.token_ids)
            for count in range(2, len(made)):
                logits = generator.logits([PROMPTS[number] + made[:count]])[0][-1]
                assert made[count] == 101 + 2 * int(np.argmax(logits[101:400:2]))
        else:
            assert after == before
    assert {(n, c.token_ids[:k]) for n, c in enumerate(held) for k in range(len(c.token_ids))} <= set(asked)


RAISED = {int(i): float(x) for i, x in enumerate(np.random.default_rng(0).normal(0, 2, 400))}
"""What is added to the logits of nearly all ids; the last few may not come."""


@pytest.fixture(scope="module")
def small(base_folder):
    return Generator(base_folder, dtype="float32", max_rows=32)


def raised_logits(generator, ids, added):
    """The logits of the ids that may follow, in the mapping's order, with what is added to them."""
    logits = generator.logits([ids])[0][-1]
    return np.array([logits[i] + np.float32(value) for i, value in added.items()])


@pytest.mark.slow
def test_what_a_constraint_adds_to_the_logits_decides_at_every_place_where_it_does(small):
    """Also amid tokens that are made freely, and beside rows that are held to nothing or to less."""

    def constraint(number, made):
        if number % 3 == 1:
            return RAISED if len(made) in (0, 3, 4) else None
        return [*RAISED] if number % 3 == 2 and len(made) == 3 else None

    prompts = [*PROMPTS, *([p[0], *p] for p in PROMPTS)]
    free = small.generate(prompts, max_new_tokens=7, ignore_eos=True)
    held = small.generate(prompts, max_new_tokens=7, ignore_eos=True, constrain=constraint)
    differ = 0
    for number, (before, after) in enumerate(zip(free, held, strict=True)):
        made = list(after.token_ids)
        if number % 3 != 1:
            assert after == before or number % 3 == 2
            continue
        for count in range(7):
            plain = int(small.logits([[*prompts[number], *made[:count]]])[0][-1].argmax())
            raised = int(raised_logits(small, [*prompts[number], *made[:count]], RAISED).argmax())
            assert made[count] == (raised if count in (0, 3, 4) else plain)
            differ += count in (3, 4) and plain in RAISED and raised != plain
    assert differ > 1, "what was made freely was permitted, and had to go all the same"


@pytest.mark.slow
def test_adding_nothing_is_allowing(small):
    def added(number, made):
        return dict.fromkeys(RAISED, 0.0) if len(made) % 2 else None

    def allowed(number, made):
        return [*RAISED] if len(made) % 2 else None

    for options in ({}, {"temperature": 0.8, "seed": 3}):
        both = [small.generate(PROMPTS, max_new_tokens=6, constrain=c, **options) for c in (added, allowed)]
        assert both[0] == both[1]


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, 2])
def test_draws_follow_the_logits_with_what_is_added(small, place):
    """At the first token of a decode call, and where tokens that were drawn freely are taken back."""
    prompt, temperature, count, ids = [5, 6, 7], 1.3, 300, (120, 7, 301)
    first = small.generate([prompt], max_new_tokens=place, ignore_eos=True)[0].token_ids if place else ()
    plain = small.logits([[*prompt, *first]])[0][-1]
    top = float(plain.max()) + 3.0
    added = dict.fromkeys(range(400), 0.0)
    added |= {i: top + extra - float(plain[i]) for i, extra in zip(ids, (0.0, 1.0, 2.0), strict=True)}

    def constraint(number, made):
        return added if len(made) == place else [first[len(made)]] if len(made) < place else None

    done = small.generate(
        [prompt] * count, max_new_tokens=place + 1, temperature=temperature, ignore_eos=True, constrain=constraint
    )
    logits = raised_logits(small, [*prompt, *first], added) / temperature
    share = np.exp(logits - logits.max())
    share /= share.sum()
    want = [share[list(added).index(i)] for i in ids]
    want = count * np.array([*want, 1 - sum(want)])
    seen = [sum(c.token_ids[place] == i for c in done) for i in ids]
    seen = np.array([*seen, count - sum(seen)])
    assert want.min() > 5
    assert ((seen - want) ** 2 / want).sum() < 16.3  # chi-square with three degrees of freedom: one in a thousand


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", pytest.param("gemma2", marks=pytest.mark.wide)])  # with a window and a cap
def test_the_native_kernels_choose_the_tokens_that_xla_chooses(family, with_tokenizer, monkeypatch):
    folder = with_tokenizer(family)
    prompts = [list(range(3, 40)), [7, 8, 9], [*range(20, 60), *range(3, 63)]]

    def forget():
        attention_backends.choose.cache_clear()
        native.library.cache_clear()

    def tokens(form):
        monkeypatch.setenv("RAFT_NATIVE", form)
        forget()
        generator = Generator(folder, dtype="float32", max_rows=4)
        made = [made.token_ids for made in generator.generate(prompts, max_new_tokens=12)]
        return generator._model.native, made

    (used, ours), (_, theirs) = tokens("on"), tokens("off")
    forget()
    if not used:
        pytest.skip("no native kernels here")
    assert ours == theirs

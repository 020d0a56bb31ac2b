"""Answers are kept one by one: what an interruption leaves undone is asked again, and nothing else."""

import dataclasses
import sys
from pathlib import Path

import pytest

from data.nouns import Record
from data.prompting.contract import load_template, to_messages
from data.prompting.copying import QuoteCopier, TokenBytes
from tasks.runtime.answers import Answerer, Clock, answer
from tasks.store.itemcache import SqliteCache

sys.path.insert(0, str(Path(__file__).parents[2] / "flows"))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    import tiny

    return tiny.make_base(tmp_path_factory.mktemp("answers") / "base")


@pytest.mark.slow
def test_an_interrupted_round_of_answers_goes_on_where_it_was(base, tmp_path):
    cache = SqliteCache(tmp_path / "items.sqlite")
    who = Answerer(base, None, "a" * 64, "float32", 8, 2)
    records = [Record(f"Question {i}?", "One passage. " * i, "", {}) for i in range(5)]
    seen = []

    def stop_after_two(done, total, what):
        seen.append((done, total, what))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer(who, records, cache, stop_after_two, "test")
    assert seen == [(0, 5, "test"), (1, 5, "test"), (2, 5, "test")]
    clock = Clock()
    resumed = answer(who, records, cache, lambda *event: seen.append(event), "test", clock=clock)
    assert seen[3:] == [(n, 5, "test") for n in (2, 3, 4, 5)]
    assert clock.answers == 3
    assert clock.mean > 0
    fresh = SqliteCache(tmp_path / "other.sqlite")
    assert answer(who, records, fresh, lambda *event: None, "test") == resumed


@pytest.mark.slow
def test_copied_quotes_are_words_of_the_passage_and_those_that_transformers_would_write(base, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    from jora_engine.files.tokenizer import Tokenizer

    passage = "The gates of Alder are opened by the baker. The walls are old."
    record = Record("Who opens the gates?", passage, "", {"passages": [{"start": 0, "end": len(passage)}]})
    cache, tokenizer = SqliteCache(tmp_path / "items.sqlite"), Tokenizer.load(base)
    who = Answerer(base, None, "a" * 64, "float32", 24, 2)
    (free,) = answer(who, [record], cache, lambda *event: None, "test")
    # whatever this random model writes first is the mark that begins a quote
    template = dataclasses.replace(load_template("raft"), begin_quote=free.text[:1], end_quote="##")
    held_by = dataclasses.replace(who, copying=template)
    (held,) = answer(held_by, [record], cache, lambda *event: None, "test")
    assert held.text != free.text
    quote = held.text.split(template.begin_quote, 1)[1].split("##")[0]
    assert len(quote) > 3
    assert quote in passage
    assert answer(who, [record], cache, lambda *event: None, "test") == [free]  # kept apart

    prompt = tokenizer.apply_chat_template(to_messages(record), add_generation_prompt=True)
    copier = QuoteCopier(TokenBytes(tokenizer.token_bytes()), template, [passage])
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    everything = list(range(model.config.vocab_size))
    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=24,
        do_sample=False,
        eos_token_id=list(tokenizer.eos_ids),
        prefix_allowed_tokens_fn=lambda _, ids: copier.allowed(ids[len(prompt) :].tolist()) or everything,
    )
    assert tokenizer.decode(out[0, len(prompt) :].tolist(), skip_special_tokens=True) == held.text

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


def searched(first, second, scores=(0.5, 0.4)):
    """A record over two passages that a search gave in this order."""
    rows, text = [], ""
    for rank, (passage, score) in enumerate(zip((first, second), scores, strict=True), 1):
        rows.append({"start": len(text), "end": len(text) + len(passage), "mined_by": "retrieved"})
        rows[-1] |= {"rank": rank, "score": score}
        text += passage + "\n"
    return Record("Who opens the gates?", text, "", {"passages": rows})


@pytest.mark.slow
def test_with_a_weight_the_search_decides_beside_the_model_what_is_quoted(base, tmp_path):
    from jora_engine.files.tokenizer import Tokenizer

    passages = ["The gates of Alder are opened by the baker.", "The walls of Birch are old, and the smith is older."]
    records = [searched(*passages), searched(*reversed(passages))]
    cache, tokenizer = SqliteCache(tmp_path / "items.sqlite"), Tokenizer.load(base)
    plain = Answerer(base, None, "a" * 64, "float32", 24, 2)

    def answered(who, asked):
        clock = Clock()
        texts = [one.text for one in answer(who, asked, cache, lambda *event: None, "test", clock=clock)]
        return texts, clock.answers

    def quotes(texts, records):
        """Where what stands between the marks was copied from: the place of its passage."""
        places = []
        for text, record in zip(texts, records, strict=True):
            quote = text.split(template.begin_quote, 1)[1].split("##")[0]
            rows = record.metadata["passages"]
            shown = [record.input[row["start"] : row["end"]] for row in rows]
            assert len(quote) > 3
            places.append([place for place, words in enumerate(shown) if quote in words])
        return places

    (free, other), _ = answered(plain, records)
    assert free[:1] == other[:1]
    template = dataclasses.replace(load_template("raft"), begin_quote=free[:1], end_quote="##")
    copied = dataclasses.replace(plain, copying=template)
    without, count = answered(copied, records)
    assert count == 2
    assert answered(dataclasses.replace(copied, quote_weight=0.0), records) == (without, 0), "kept under the same keys"
    great = dataclasses.replace(copied, quote_weight=100.0)
    texts, count = answered(great, records)
    assert count == 2
    assert quotes(texts, records) == [[0], [0]]
    assert texts != without
    scored = [searched(*passages, scores) for scores in ((0.2, 0.9), (0.9, 0.2))]
    assert answered(great, scored) == ([texts[0]] * 2, 0), "where no cross-encoder gave them, the ranks count alone"
    assert quotes(answered(dataclasses.replace(great, reranked=True), scored)[0], scored) == [[1], [0]]
    composed = searched(*passages)
    composed.metadata["passages"][1] |= {"mined_by": "", "rank": 0, "score": 0.0}
    assert answered(great, [composed]) == ([without[0]], 0), "an oracle that no search found"
    light = dataclasses.replace(copied, quote_weight=1.0)
    assert answered(light, records)[0] == [of_transformers(base, tokenizer, light, one) for one in records]


def of_transformers(base, tokenizer, who, record):
    """The greedy answer of transformers with what the copier says before each token."""
    import torch
    from transformers import AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList

    prompt = tokenizer.apply_chat_template(to_messages(record), add_generation_prompt=True)
    copier = who.copier(TokenBytes(tokenizer.token_bytes()), record)
    weighed = []

    class Copied(LogitsProcessor):
        def __call__(self, ids, scores):
            choices = copier.allowed(ids[0, len(prompt) :].tolist())
            if choices is None:
                return scores
            weighed.append(isinstance(choices, dict))
            held = torch.full_like(scores, -torch.inf)
            held[0, list(choices)] = scores[0, list(choices)]
            if isinstance(choices, dict):
                held[0, list(choices)] += torch.tensor(list(choices.values()))
            return held

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=who.max_new_tokens,
        do_sample=False,
        eos_token_id=list(tokenizer.eos_ids),
        logits_processor=LogitsProcessorList([Copied()]),
    )
    assert any(weighed)
    assert not all(weighed)
    return tokenizer.decode(out[0, len(prompt) :].tolist(), skip_special_tokens=True)

"""The check of tokens passes what is right and names what is wrong, before a training is started."""

import pytest
from made_up import ask_all, compose, corpus

from data.nouns import MemoryCache
from data.prompting.contract import to_messages
from data.records.token_check import check_tokens
from raft_errors import BadInput

END = 0


@pytest.fixture(scope="module")
def records():
    chunks = corpus(10)
    return compose(chunks, ask_all(chunks)).train


def letters(record, *, end=True, mask_prompt=True):
    """A tokenizer of one character a token; 0 ends the answer."""
    prompt = [ord(c) for c in to_messages(record)[0]["content"]]
    output = [ord(c) for c in record.output] + ([END] if end else [])
    return prompt + output, [not mask_prompt] * len(prompt) + [True] * len(output)


def decode(ids):
    return "".join(chr(i) if i else "<end>" for i in ids)


def look(records, tokenise, max_tokens=10_000):
    return check_tokens(records, tokenise, decode, end_ids={END}, max_tokens=max_tokens)


def test_sound_records_pass_and_the_sample_shows_what_is_trained(records):
    seen = look(records, letters)
    seen.check()
    assert seen.faults == []
    assert seen.samples[0].endswith(f"⟦{records[0].output}<end>⟧")
    assert seen.figures["trained_tokens"] == sum(len(r.output) + 1 for r in records)


@pytest.mark.parametrize(
    ("tokenise", "words"),
    [
        (lambda r: letters(r, end=False), "do not train the end"),
        (lambda r: letters(r, mask_prompt=False), "the prompt is not masked"),
        (lambda r: (letters(r)[0], [False] * len(letters(r)[0])), "no trained token"),
        (lambda r: (letters(r)[0], letters(r)[1][:-1]), "not as long"),
        (lambda r: (letters(r)[0], [*letters(r)[1][:-9], *[False] * 8, True]), "whole output"),
    ],
)
def test_each_fault_is_named(records, tokenise, words):
    with pytest.raises(BadInput, match=words):
        look(records, tokenise).check()


def test_a_tokenizer_may_compose_letters_and_join_spaces(records):
    import dataclasses

    record = dataclasses.replace(records[0], output="cafe\u0301  said  <ANSWER>: yes")
    composed = look([record], lambda r: letters(dataclasses.replace(r, output="caf\u00e9 said <ANSWER>: yes")))
    altered = look([record], lambda r: letters(dataclasses.replace(r, output="cafe said <ANSWER>: yes")))
    assert composed.faults == []
    assert altered.faults == ["1 of 1 records do not train their whole output"]


def test_records_that_would_be_cut_stop_the_training(records):
    with pytest.raises(BadInput, match="longer than 100 tokens"):
        look(records, letters, max_tokens=100).check()


def test_no_record_at_all_is_a_fault():
    assert look([], letters).faults == ["there is no record"]


def test_a_record_that_was_looked_at_is_not_tokenised_again(records):
    cache, tokenised = MemoryCache(), []

    def counting(record):
        tokenised.append(record)
        return letters(record)

    def seen(tokenizer, samples=0):
        return check_tokens(
            records, counting, decode, end_ids={END}, max_tokens=99, samples=samples, cache=cache, tokenizer=tokenizer
        )

    first = seen("letters")
    assert len(tokenised) == len(records)
    assert seen("letters") == first
    assert len(tokenised) == len(records)
    seen("another")
    assert len(tokenised) == 2 * len(records)

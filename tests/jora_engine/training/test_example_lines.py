"""Lines of examples: an answer that goes on has no end to be trained, and a wrong line is named."""

import json

import pytest

from jora_engine.files.tokenizer import Tokenizer
from jora_engine.training.records import read_examples
from raft_errors import BadInput

CHAT = [{"role": "user", "content": "Name a river."}, {"role": "assistant", "content": "The Rhine"}]


@pytest.fixture
def tokenizer(tokenizer_folder):
    return Tokenizer.load(tokenizer_folder)


def test_an_open_answer_ends_where_it_is_cut_and_the_end_is_not_trained(tokenizer, tmp_path):
    file = tmp_path / "train.chat.jsonl"
    rows = [{"messages": CHAT}, {"messages": CHAT, "open": False}, {"messages": CHAT, "open": True}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole, closed, opened = read_examples(file, tokenizer)
    assert whole.completion.tolist() == closed.completion.tolist() == [*opened.completion, tokenizer.eos_ids[0]]
    assert whole.prompt.tolist() == opened.prompt.tolist()
    assert len(opened.completion) > 0


def test_open_is_true_or_false(tokenizer, tmp_path):
    file = tmp_path / "train.chat.jsonl"
    file.write_text(json.dumps({"messages": CHAT}) + "\n" + json.dumps({"messages": CHAT, "open": "yes"}) + "\n")
    with pytest.raises(BadInput, match=r"line 2.*open is neither true nor false"):
        read_examples(file, tokenizer)

"""Lines of examples: what is rehearsed is marked, and a wrong line is named."""

import json

import pytest

from jora_engine.files.tokenizer import Tokenizer
from jora_engine.training.records import read_examples
from raft_errors import BadInput

CHAT = [{"role": "user", "content": "Name a river."}, {"role": "assistant", "content": "The Rhine"}]


@pytest.fixture
def tokenizer(tokenizer_folder):
    return Tokenizer.load(tokenizer_folder)


def test_a_rehearsed_answer_is_marked_and_is_otherwise_as_any(tokenizer, tmp_path):
    file = tmp_path / "train.chat.jsonl"
    rows = [{"messages": CHAT}, {"messages": CHAT, "rehearsed": False}, {"messages": CHAT, "rehearsed": True}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    examples = read_examples(file, tokenizer)
    assert [one.rehearsed for one in examples] == [False, False, True]
    assert len({(tuple(one.prompt), tuple(one.completion)) for one in examples}) == 1


def test_rehearsed_is_true_or_false(tokenizer, tmp_path):
    file = tmp_path / "train.chat.jsonl"
    file.write_text(json.dumps({"messages": CHAT}) + "\n" + json.dumps({"messages": CHAT, "rehearsed": "yes"}) + "\n")
    with pytest.raises(BadInput, match=r"line 2.*rehearsed is neither true nor false"):
        read_examples(file, tokenizer)

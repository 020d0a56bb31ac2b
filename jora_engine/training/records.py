"""Alpaca records into tokenised examples: the one place where the engine makes a prompt out of a record."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jora_engine.config.architecture import ModelConfig
from jora_engine.files.tokenizer import Tokenizer
from jora_engine.training.packing import Example
from raft_errors import BadInput


def alpaca_messages(row: dict[str, Any]) -> list[dict[str, str]]:
    """The user turn of an Alpaca record: instruction, then input on the next line where there is one."""
    words = [row["instruction"]] + ([row["input"]] if row.get("input") else [])
    return [{"role": "user", "content": "\n".join(words)}]


def read_examples(file: Path, tokenizer: Tokenizer) -> list[Example]:
    """Tokenised examples of an Alpaca JSON Lines file.

    Raises:
        BadInput: a line is not a record, or has no output.
    """
    examples = []
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                messages, output = alpaca_messages(row), row["output"]
            except (ValueError, KeyError, TypeError) as error:
                raise BadInput(
                    f"{file}, line {number}: not an Alpaca record ({error!r})",
                    expected="one JSON object a line with instruction, input and output",
                    do="make the records again",
                ) from error
            if not output:
                raise BadInput(f"{file}, line {number}: the output is empty", do="make the records again")
            prompt, completion = tokenizer.encode_example(messages, output)
            examples.append(Example(np.asarray(prompt, np.int32), np.asarray(completion, np.int32)))
    return examples


def check_lengths(examples: Sequence[Example], model: ModelConfig, sequence_length: int, file: Path) -> None:
    """Refuses records of `file` that are longer than the model was made for; those that fit no row are left out."""
    longest = max((e.length for e in examples if e.length <= sequence_length), default=0)
    if longest > model.longest_sequence:
        raise BadInput(
            f"a record of {file} has {longest} tokens",
            expected=f"at most {model.longest_sequence}, the longest sequence that the base model was made for",
            do="lower records.max_tokens or train.sequence_length, or take a base model with a longer context",
        )


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int, folder: Path) -> None:
    """Refuses a tokenizer with more ids than the model's embedding has rows."""
    if tokenizer.vocab_size > vocab_size:
        raise BadInput(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} ids, the model {vocab_size}",
            expected="a tokenizer that fits the model's embedding",
            do="use the tokenizer that belongs to this base model",
        )

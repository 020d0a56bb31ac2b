"""Training examples from JSON Lines: chats as they were rendered, or plain Alpaca triples, into token ids.

A line with `messages` is read as it stands: all turns but the last are the prompt, the last is the answer that is
trained; so the pipeline gives its records. With `rehearsed: true` the answer is the base's own, and what is learned at
each of its tokens, and behind the last, is the base's whole distribution: to stay where it is.
A line without `messages` is an Alpaca triple of somebody else, which is joined here as `data.nouns.Record` joins one:
the engine knows nothing of that room, so a test holds the two together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jora_engine.config.architecture import ModelConfig
from jora_engine.files.tokenizer import Tokenizer
from jora_engine.training.packing import Example
from raft_errors import BadInput


def read_examples(file: Path, tokenizer: Tokenizer) -> list[Example]:
    """Tokenised examples of a JSON Lines file.

    Raises:
        BadInput: a line is neither a chat nor an Alpaca record, or has no answer.
    """
    examples = []
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                prompt, answer = read_chat(row)
                rehearsed = is_rehearsed(row)
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise BadInput(
                    f"{file}, line {number}: neither a chat nor an Alpaca record ({error!r})",
                    expected="one JSON object a line: messages that end in an answer, or instruction, input and output",
                    do="make the records again",
                ) from error
            if not answer:
                raise BadInput(f"{file}, line {number}: the answer is empty", do="make the records again")
            ids, completion = tokenizer.encode_example(prompt, answer)
            examples.append(Example(np.asarray(ids, np.int32), np.asarray(completion, np.int32), rehearsed))
    return examples


def read_chat(row: Mapping[str, Any]) -> tuple[list[Mapping[str, str]], str]:
    """(messages that are to be answered, the answer) of a line.

    Raises:
        LookupError, TypeError, ValueError: it has neither `messages` that end with an answer nor a triple.
    """
    if row.get("messages") is None:
        words = [row["instruction"]] + ([row["input"]] if row.get("input") else [])
        return [{"role": "user", "content": "\n".join(words)}], row["output"]
    *prompt, last = row["messages"]
    if last["role"] != "assistant" or not prompt:
        raise ValueError("messages do not end with the assistant's answer to something")
    if not all(isinstance(message["content"], str) for message in row["messages"]):
        raise TypeError("the content of a message is no text")
    return prompt, last["content"]


def is_rehearsed(row: Mapping[str, Any]) -> bool:
    """Whether a line's answer is the base's own.

    Raises:
        TypeError: `rehearsed` is neither true nor false.
    """
    if not isinstance(row.get("rehearsed", False), bool):
        raise TypeError("rehearsed is neither true nor false")
    return bool(row.get("rehearsed", False))


def check_lengths(examples: Sequence[Example], model: ModelConfig, sequence_length: int, file: Path) -> None:
    """Refuses records of `file` that are longer than the model was made for; those that fit no row are left out."""
    longest = max((e.length for e in examples if e.length <= sequence_length), default=0)
    if longest > model.longest_sequence:
        raise BadInput(
            f"a record of {file} has {longest} tokens",
            expected=f"at most {model.longest_sequence}, the longest sequence that the base model was made for",
            do="lower records.max_tokens or train.sequence_length, or take a base model with a longer context",
        )


def check_vocabulary(examples: Sequence[Example], model: ModelConfig, tokenizer: Tokenizer, file: Path) -> None:
    """Refuses records of `file` with a token that the model's embedding has no row for.

    That a tokenizer has such tokens is no fault: many have some that nobody uses.
    """
    for number, example in enumerate(examples, 1):
        largest = max(int(part.max(initial=0)) for part in (example.prompt, example.completion))
        if largest >= model.vocab_size:
            text = tokenizer.backend.id_to_token(largest)
            raise BadInput(
                f"{file}, record {number}: the tokenizer makes {text!r} token {largest}",
                expected=f"tokens below {model.vocab_size}, the rows of the model's embedding",
                do="use the tokenizer that belongs to this base model",
            )

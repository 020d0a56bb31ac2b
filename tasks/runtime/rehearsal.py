"""`python -m tasks.runtime.rehearsal JOB.json`: what a base says to instructions, for an adapter to rehearse.

A process of its own, because the trainer that comes after it needs the device's whole memory.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import operator
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data.nouns import ItemCache
from raft_errors import RaftError
from tasks.runtime.folders import ModelFolder, write_json

MAX_NEW_TOKENS = 32
"""What is rehearsed of a reply is how it begins: what an adapter forgets lies in an answer's first tokens, as all its
records begin in one form, and a reply of any length then counts the same."""
ROWS = 8
"""Answered side by side."""

Ask = tuple[int, str]
"""(number of the draw, instruction): the draws of an instruction are different replies."""


def replies(
    asks: Sequence[Ask],
    base: ModelFolder,
    *,
    dtype: str,
    precision: str,
    cache: ItemCache,
    ask: Callable[[dict[str, Any]], list[str]],
) -> list[str]:
    """What the base says to each, drawn at temperature 1: so does one come upon what it is likely to say.

    Args:
        dtype, precision: how the base is computed and held.
        ask: answers a job of this module; called where a reply is not in the cache.
    """
    keys = [_key(base.digest, dtype, precision, *map(str, one)) for one in asks]
    known = {key: value.decode() for key, value in cache.get_many(keys).items()}
    todo = {key: one for key, one in zip(keys, asks, strict=True) if key not in known}
    if todo:
        job = {
            "base": str(base.folder),
            "chat": dict(base.chat),
            "dtype": dtype,
            "precision": precision,
            "asks": sorted(todo.values()),
        }
        texts = dict(zip(job["asks"], ask(job), strict=True))
        fresh = {key: texts[one] for key, one in todo.items()}
        cache.put_many({key: text.encode() for key, text in fresh.items()})
        known |= fresh
    return [known[key] for key in keys]


def run(job: dict[str, Any]) -> list[str]:
    """The replies of a job, in the order of its asks."""
    from jora_engine.generation.generator import Generator

    generator = Generator(
        Path(job["base"]), dtype=job["dtype"], max_rows=ROWS, chat=job["chat"], precision=job["precision"]
    )
    encode = generator.tokenizer
    done: list[str] = []
    for draw, own in itertools.groupby(job["asks"], key=operator.itemgetter(0)):
        prompts = [prompt for _, prompt in own]
        for begin in range(0, len(prompts), ROWS):
            chats = [
                encode.apply_chat_template([{"role": "user", "content": one}], add_generation_prompt=True)
                for one in prompts[begin : begin + ROWS]
            ]
            made = generator.generate(chats, max_new_tokens=MAX_NEW_TOKENS, temperature=1.0, seed=draw)
            done += [one.text for one in made]
            _say({"event": "answered", "done": len(done), "total": len(job["asks"])})
    return done


def _key(*parts: str) -> str:
    return hashlib.sha256(json.dumps(["rehearsal-4", MAX_NEW_TOKENS, *parts]).encode()).hexdigest()


def _say(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    job = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    try:
        write_json(Path(job["out"]), run(job))
    except RaftError as error:
        _say({"event": "error", "what": error.what, "expected": error.expected, "do": error.do})
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the supervisor needs one line
        _say({"event": "error", "what": f"The base does not answer: {type(error).__name__}: {error}"})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What base and adapter do with general instructions outside the domain: replies, and the loss of a good answer.

Both are kept in the item cache, under a key of everything that decides them. `data.evaluation.general_skills` holds the
instructions and the comparison.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from data.nouns import ItemCache, Progress
from tasks.runtime.contenders import Contender
from tasks.runtime.folders import ModelFolder

if TYPE_CHECKING:
    from data.evaluation.general_skills import Instruction

MAX_NEW_TOKENS = 48


def measure_general_skills(
    who: Sequence[Contender],
    base: ModelFolder,
    *,
    count: int,
    dtype: str,
    batch_size: int,
    cache: ItemCache,
    progress: Progress,
    samples: int,
    seed: int,
) -> dict[str, Any]:
    """`data.evaluation.general_skills.compare_general_skills` of `base` and `adapter`.

    Args:
        who: base and adapter.
        count: number of instructions.
    """
    from data.evaluation.general_skills import compare_general_skills, instructions

    items = instructions(count)
    rows_of = {one.name: _measure(one, base, items, dtype, batch_size, cache, progress) for one in who}
    replies = {name: [reply for reply, _ in rows] for name, rows in rows_of.items()}
    losses = {name: [loss for _, loss in rows] for name, rows in rows_of.items()}
    return compare_general_skills(items, replies, losses, samples=samples, seed=seed)


def _measure(
    who: Contender,
    base: ModelFolder,
    items: Sequence[Instruction],
    dtype: str,
    batch_size: int,
    cache: ItemCache,
    progress: Progress,
) -> list[tuple[str, float]]:
    """(reply, loss on the written answer in nats per token) for each instruction."""
    keys = [_key(who, dtype, item) for item in items]
    values = cache.get_many(keys)
    todo = [(key, item) for key, item in zip(keys, items, strict=True) if key not in values]
    if todo:
        import numpy as np

        from jora_engine.generation.generator import Generator

        generator = Generator(
            base.folder,
            adapter=who.adapter,
            dtype=dtype,
            max_rows=batch_size,
            chat=base.chat,
            precision=who.precision,
        )
        encode = generator.tokenizer
        prompts = [encode.apply_chat_template(item.messages(), add_generation_prompt=True) for _, item in todo]
        replies = generator.generate(prompts, max_new_tokens=MAX_NEW_TOKENS)
        for number, ((key, item), reply) in enumerate(zip(todo, replies, strict=True)):
            prompt, answer = encode.encode_example(item.messages(), item.answer)
            logits = generator.logits([[*prompt, *answer]])[0][len(prompt) - 1 : -1].astype(np.float64)
            top = logits.max(axis=-1, keepdims=True)
            total = np.log(np.exp(logits - top).sum(axis=-1)) + top[:, 0]
            loss = float((total - logits[np.arange(len(answer)), answer]).mean())
            values[key] = json.dumps([reply.text, loss]).encode()
            cache.put_many({key: values[key]})
            progress(number + 1, len(todo), f"general skills, {who.name}")
    return [(text, loss) for text, loss in (json.loads(values[key]) for key in keys)]


def _key(who: Contender, dtype: str, item: Instruction) -> str:
    parts = ["general-1", who.digest, dtype, MAX_NEW_TOKENS, item.instruction, item.answer]
    if who.precision != "bfloat16":
        parts += ["held", who.precision]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

"""Puts many prompts to a teacher once: cached, in fixed batches, saved batch by batch.

The key of a reply is everything that decides it, so a changed prompt, model or setting asks again and nothing else
does. Knows nothing of what the prompts are about.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data.nouns import ItemCache, Progress, text_sha256
from data.teachers.protocol import Counted, Messages, Reply, Shape, Teacher, TeacherFailure, TeacherUnavailable

log = logging.getLogger("raft.data")


@dataclass(frozen=True)
class Sampling:
    """How a teacher writes: at most `max_tokens`, `temperature` 0 = greedy, `stop` texts end a reply, as `shape`."""

    max_tokens: int
    temperature: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    shape: Shape | None = None


@dataclass
class Tally:
    """What a run of questions cost: replies paid for now, and replies that were kept from before.

    `prompt_tokens` and `completion_tokens` are those of all replies used, whenever they were paid for.
    """

    asked: int = 0
    cached: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


def reply_key(messages: Messages, *, version: str, teacher: str, sampling: Sampling) -> str:
    """Hex sha256 over the prompt (and in it the chunk's text and title), its version, the teacher and its settings."""
    settings: list[Any] = [sampling.max_tokens, sampling.temperature, sampling.seed, list(sampling.stop)]
    if sampling.shape:
        settings.append([sampling.shape.name, sampling.shape.schema])
    return text_sha256(json.dumps(["reply-1", version, teacher, settings, messages], ensure_ascii=False))


def ask(
    prompts: Sequence[Messages],
    teacher: Teacher,
    *,
    version: str,
    sampling: Sampling,
    cache: ItemCache,
    progress: Progress | None = None,
    what: str = "asking",
    tally: Tally | None = None,
) -> list[Reply]:
    """One reply a prompt, in order; equal prompts are asked once.

    What is not in the cache is asked in batches of the teacher's `batch_size`, cut from the to-do list in order; each
    batch is saved in one commit: a killed run stops at a batch's edge and the next one forms the same batches. Teachers
    with `reports_each_reply` are saved reply by reply. Failures are not saved, so the next run asks again.

    Raises:
        TeacherUnavailable: not one prompt of a batch could be answered, through no fault of the prompts.
    """
    tally = tally or Tally()
    keys = [reply_key(p, version=version, teacher=teacher.name, sampling=sampling) for p in prompts]
    known: dict[str, Reply] = {k: _decode(v) for k, v in cache.get_many(list(dict.fromkeys(keys))).items()}
    tally.cached += len(known)
    by_key = dict(zip(keys, prompts, strict=True))
    todo = [k for k in by_key if k not in known]
    size = max(1, int(getattr(teacher, "batch_size", 32)))
    done = len(known)
    for start in range(0, len(todo), size):
        batch = todo[start : start + size]
        if progress:
            progress(done, len(by_key), what)
        replies = _one_batch(batch, [by_key[k] for k in batch], teacher, sampling, cache)
        known.update(replies)
        failures = [r for r in replies.values() if isinstance(r, TeacherFailure)]
        tally.failed += len(failures)
        tally.asked += len(batch) - len(failures)
        done += len(batch)
        if len(failures) == len(batch) and all(f.transient for f in failures):
            raise TeacherUnavailable(
                f"the teacher {teacher.name} answered none of {len(batch)} prompts: {failures[0].reason}, "
                f"{failures[0].detail}",
                do="see that the endpoint is up and run again: what was answered so far is kept",
            )
    for reply in known.values():
        if isinstance(reply, Counted):
            tally.prompt_tokens += reply.prompt_tokens
            tally.completion_tokens += reply.completion_tokens
    if progress and prompts:
        progress(done, len(by_key), what)
    return [known[k] for k in keys]


def _one_batch(
    keys: list[str], prompts: list[Messages], teacher: Teacher, sampling: Sampling, cache: ItemCache
) -> dict[str, Reply]:
    settings: dict[str, Any] = {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "seed": sampling.seed,
        "stop": sampling.stop,
    }
    if sampling.shape and getattr(teacher, "takes_shape", False):
        settings["shape"] = sampling.shape
    if getattr(teacher, "reports_each_reply", False):

        def save(position: int, reply: Reply) -> None:
            if isinstance(reply, str):
                cache.put_many({keys[position]: _encode(reply)})

        replies = teacher.complete(prompts, **settings, on_reply=save)  # type: ignore[call-arg]
    else:
        replies = teacher.complete(prompts, **settings)
        cache.put_many({k: _encode(r) for k, r in zip(keys, replies, strict=True) if isinstance(r, str)})
    return dict(zip(keys, replies, strict=True))


def _encode(reply: str) -> bytes:
    """The text; behind a zero byte with its tokens as JSON where they were counted."""
    if isinstance(reply, Counted) or reply.startswith("\0"):
        counts = (reply.prompt_tokens, reply.completion_tokens) if isinstance(reply, Counted) else (0, 0)
        return b"\0" + json.dumps([str(reply), *counts]).encode()
    return reply.encode()


def _decode(raw: bytes) -> Reply:
    return Counted.of(*json.loads(raw[1:])) if raw.startswith(b"\0") else raw.decode()

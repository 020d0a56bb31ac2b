"""Puts many prompts to a teacher once: cached, in fixed batches, saved batch by batch.

The key of a reply is everything that decides it, so a changed prompt, model or setting asks again and nothing else
does. Failures are noted beside the replies, for people to read; the next run asks again. Knows nothing of what the
prompts are about.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.nouns import ItemCache, Progress, text_sha256
from data.teachers.protocol import (
    CeilingReached,
    Counted,
    Messages,
    Reply,
    Shape,
    Teacher,
    TeacherFailure,
    TeacherUnavailable,
)
from data.teachers.thinking import without_thinking
from raft_errors import BadInput

log = logging.getLogger("raft.data")


@dataclass(frozen=True)
class Sampling:
    """How a teacher writes: at most `max_tokens`, `temperature` 0 = greedy, `stop` texts end a reply, as `shape`.

    `raised_by` names the setting that raises `max_tokens`; with it, a ceiling that empties every reply ends the run.
    """

    max_tokens: int
    temperature: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    shape: Shape | None = None
    raised_by: str = ""


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
    with `reports_each_reply` are saved reply by reply. Failures are no replies, so the next run asks again. What a
    model thought aloud is no part of its reply.

    Raises:
        TeacherUnavailable: not one prompt of a batch could be answered, through no fault of the prompts.
        CeilingReached: `sampling.max_tokens` ended every reply of a batch before anything was said.
        BadInput: the endpoint refuses every prompt of a batch in the same words.
    """
    tally = tally or Tally()
    keys = [reply_key(p, version=version, teacher=teacher.name, sampling=sampling) for p in prompts]
    known: dict[str, Reply] = kept_replies(keys, cache)
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
        if len(failures) == len(batch) and not isinstance(teacher, Unasked):
            answered = any(isinstance(reply, str) for reply in known.values())
            _stop_where_hopeless(failures, teacher, sampling, answered=answered)
    for reply in known.values():
        if isinstance(reply, Counted):
            tally.prompt_tokens += reply.prompt_tokens
            tally.completion_tokens += reply.completion_tokens
    if progress and prompts:
        progress(done, len(by_key), what)
    return [known[k] for k in keys]


def _stop_where_hopeless(
    failures: Sequence[TeacherFailure], teacher: Teacher, sampling: Sampling, *, answered: bool
) -> None:
    """Raises if what failed for a whole batch will fail for all others, too.

    Args:
        answered: whether the same teacher has answered others, in this run or before; then it is these prompts.
    """
    reasons = {failure.reason for failure in failures}
    words = failures[0].detail
    if all(failure.transient for failure in failures):
        raise TeacherUnavailable(
            f"the teacher {teacher.name} answered none of {len(failures)} prompts: {failures[0].reason}, {words}",
            do="see that the endpoint is up and run again: what was answered so far is kept",
        )
    if reasons == {"cut_off"} and sampling.raised_by and not answered:
        raise CeilingReached(
            f"the teacher {teacher.name} said nothing in any of {len(failures)} replies: {words}",
            expected=f"replies within the ceiling of {sampling.max_tokens} tokens ({sampling.raised_by})",
            do=f"raise {sampling.raised_by} (a model that thinks wants 1000 and more), or turn its thinking off",
        )
    alike = len({re.sub(r"\d+", "0", failure.detail) for failure in failures}) == 1
    if reasons == {"rejected"} and alike and len(failures) > 1 and not answered:
        raise BadInput(
            f"the teacher {teacher.name} refuses each of {len(failures)} prompts: {words}",
            do="correct the setting that it names, and run again: what was answered so far is kept",
        )


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
            _save({keys[position]: reply}, cache)

        replies = teacher.complete(prompts, **settings, on_reply=save)  # type: ignore[call-arg]
    else:
        replies = teacher.complete(prompts, **settings)
        _save(dict(zip(keys, replies, strict=True)), cache)
    proper = dict(zip(keys, map(_proper, replies), strict=True))
    return {**proper, **noted_failures([key for key, reply in proper.items() if reply is NOT_ASKED], cache)}


class Unasked:
    """Stands in for a teacher where only what it said before is looked at: asks nothing and pays for nothing."""

    def __init__(self, name: str, *, takes_shape: bool) -> None:
        self.name, self.takes_shape = name, takes_shape

    def complete(
        self, prompts: Sequence[Messages], *, max_tokens: int, temperature: float, seed: int, stop: Sequence[str] = ()
    ) -> list[Reply]:
        """Nothing was said to any of them."""
        return [NOT_ASKED] * len(prompts)


NOT_ASKED = TeacherFailure("not_asked", "no reply is kept")


def kept_replies(keys: Sequence[str], cache: ItemCache) -> dict[str, Reply]:
    """The replies that are in the cache, by their key."""
    return {key: _proper(_decode(raw)) for key, raw in cache.get_many(list(dict.fromkeys(keys))).items()}


def noted_failures(keys: Sequence[str], cache: ItemCache) -> dict[str, TeacherFailure]:
    """What went wrong with prompts when they were asked last, by the key of the reply that was not had."""
    notes = cache.get_many([key + _FAILED for key in keys])
    return {key.removesuffix(_FAILED): TeacherFailure(*json.loads(raw)) for key, raw in notes.items()}


_FAILED = "/failed"


def _save(replies: Mapping[str, Reply], cache: ItemCache) -> None:
    """Replies, and notes of failures."""
    items = {key: _encode(reply) for key, reply in replies.items() if isinstance(reply, str)}
    for key, reply in replies.items():
        if isinstance(reply, TeacherFailure) and reply.reason != NOT_ASKED.reason:
            items[key + _FAILED] = json.dumps([reply.reason, reply.detail]).encode()
    if items:
        cache.put_many(items)


def _proper(reply: Reply) -> Reply:
    """Without what the model thought aloud, whichever teacher it is and whenever it was asked."""
    if not isinstance(reply, str):
        return reply
    text = without_thinking(reply)
    return reply if text == reply else reply.reworded(text) if isinstance(reply, Counted) else text


def _encode(reply: str) -> bytes:
    """The text; behind a zero byte with its tokens as JSON where they were counted, and whether it was cut."""
    if isinstance(reply, Counted) or reply.startswith("\0"):
        account = [reply.prompt_tokens, reply.completion_tokens] if isinstance(reply, Counted) else [0, 0]
        cut = [True] if isinstance(reply, Counted) and reply.cut else []
        return b"\0" + json.dumps([str(reply), *account, *cut]).encode()
    return reply.encode()


def _decode(raw: bytes) -> Reply:
    return Counted.of(*json.loads(raw[1:])) if raw.startswith(b"\0") else raw.decode()

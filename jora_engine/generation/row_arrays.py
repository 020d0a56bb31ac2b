"""What the rows' jobs ask for as the arrays that the decode program takes, one entry per row.

A row without a job, or whose prompt is still run, has nothing left to generate; its other entries are harmless.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jora_engine.generation.decode import STEPS, Limits, Rows
from jora_engine.generation.requests import Job
from jora_engine.generation.sampling import Sampling

MOST = 2**31 - 1


def row_arrays(jobs: Sequence[Job | None], eos_ids: Sequence[int]) -> tuple[Rows, Sampling, np.int32]:
    """The rows, how they choose, and how many steps to decode at most.

    Args:
        jobs: of all rows, None for an idle one.
        eos_ids: the tokenizer's end tokens.
    """

    def column(value: Callable[[Job], Any], empty: Any, dtype: type) -> np.ndarray:
        return np.asarray([empty if job is None else value(job) for job in jobs], dtype)

    def request(name: str, empty: Any, dtype: type) -> np.ndarray:
        return column(lambda job: getattr(job.request, name), empty, dtype)

    rows = Rows(
        token=column(lambda j: (j.made or j.request.prompt)[-1], 0, np.int32),
        position=column(position, 0, np.int32),
        left=column(lambda j: j.request.max_new_tokens - len(j.made) if j.ready else 0, 0, np.int32),
        made=column(lambda j: len(j.made), 0, np.int32),
        slot=column(lambda j: j.slot, 0, np.int32),
        ends=np.asarray(
            [[-1] * len(eos_ids) if job is None or job.request.ignore_eos else list(eos_ids) for job in jobs], np.int32
        ).reshape(len(jobs), len(eos_ids)),
        scored=column(lambda j: j.request.logprobs is not None, False, bool),
    )
    sampling = Sampling(
        temperature=request("temperature", 0.0, np.float32),
        top_p=request("top_p", 1.0, np.float32),
        top_k=column(lambda j: min(j.request.top_k, MOST), 0, np.int32),  # more than any vocabulary has is all
        key=column(lambda j: j.request.key, np.zeros(2, np.uint32), np.uint32),
    )
    # who listens hears the first token before it is followed by others
    first = any(job and job.on_text and job.ready and not job.made for job in jobs)
    return rows, sampling, np.int32(1 if first else STEPS)


def limits(jobs: Sequence[Job | None], none: Limits) -> Limits:
    """What the rows' next tokens are held to.

    Args:
        none: where nothing is barred, and nothing added; what no row asks for is taken from it.
    """
    choices = [job.request.allowed(job.made) if job and job.request.allowed else None for job in jobs]
    if not any(choices):
        return none
    vocab = none.barred.shape[1]
    barred = np.zeros(none.barred.shape, bool)
    added = np.zeros(none.added.shape, np.float32) if any(isinstance(c, Mapping) for c in choices) else none.added
    for place, ids in enumerate(choices):
        if ids:
            known = [i for i in ids if i < vocab]
            barred[place] = True
            barred[place, known] = False
            if isinstance(ids, Mapping):
                added[place, known] = [ids[i] for i in known]
    return Limits(barred, added)


def position(job: Job) -> int:
    """Of the next input token; of a prompt that is still run, the first column that nothing was written to."""
    if not job.ready:
        return job.prefilled
    return len(job.request.prompt) + len(job.made) - 1

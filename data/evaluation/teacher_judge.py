"""A teacher as judge, where one is wanted: does each reply say the same as the reference? Never the only metric.

Verdicts become the metric `judged` beside the others. The report says how often the judge agrees with the exact
metrics, so that a reader sees what the judge is worth. A verdict that cannot be read is left out and counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from data.nouns import ItemCache, Progress, text_sha256
from data.questions.asking import Sampling, ask
from data.teachers.protocol import Messages, Teacher, TeacherFailure

VERDICT = Path(__file__).parent / "templates" / "judge" / "verdict.jinja"
_LONGEST_REPLY = 2000  # characters that the judge reads


def judge_rows(
    rows: Sequence[Mapping[str, Any]],
    teacher: Teacher,
    *,
    cache: ItemCache,
    progress: Progress | None = None,
    seed: int = 0,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of `score_row` with the metric `judged` (1.0, 0.0 or None), and figures about the judge.

    Rows whose right reply is an answer are judged; a refusal or an empty reply gets 0.0 without asking.

    Returns:
        New rows in the same order; and `teacher`, `judged`, `unreadable` (neither yes nor no in the verdict), `failed`
        (the teacher gave no verdict) and `agreement` (share of the verdicts that equal the metric `contains`).
    """
    source = VERDICT.read_text(encoding="utf-8")
    template = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False).from_string(source)
    verdicts: dict[int, float | None] = {}
    prompts: dict[int, Messages] = {}
    for place, row in enumerate(rows):
        if row["failed"] or row["label"] != "answer" or not row["answers"]:
            continue
        reply = row["final_answer"].strip()
        if row["refused"] or not reply:
            verdicts[place] = 0.0
            continue
        words = template.render(question=row["question"], answers=row["answers"], reply=reply[:_LONGEST_REPLY])
        prompts[place] = [{"role": "user", "content": words}]
    replies = ask(
        list(prompts.values()),
        teacher,
        version=text_sha256(source)[:12],
        sampling=Sampling(max_tokens=8, seed=seed),
        cache=cache,
        progress=progress,
        what=f"judged by {teacher.name}",
    )
    failed = unreadable = 0
    for place, reply in zip(prompts, replies, strict=True):
        if isinstance(reply, TeacherFailure):
            failed += 1
            continue
        verdict = read_verdict(reply)
        unreadable += verdict is None
        verdicts[place] = verdict
    out = [
        {**row, "metrics": {**row["metrics"], "judged": verdicts[i]}} if i in verdicts else dict(row)
        for i, row in enumerate(rows)
    ]
    pairs = [(v, rows[i]["metrics"]["contains"]) for i, v in verdicts.items() if v is not None]
    same = sum(a == b for a, b in pairs)
    return out, {
        "teacher": teacher.name,
        "judged": len(pairs),
        "unreadable": unreadable,
        "failed": failed,
        "agreement": round(same / len(pairs), 4) if pairs else None,
    }


def read_verdict(reply: str) -> float | None:
    """1.0 for yes, 0.0 for no, whichever of the words comes first; None where the reply has neither."""
    words = [w.strip(".,:;!*\"'`()") for w in reply.casefold().split()]
    first = next((w for w in words if w in ("yes", "no")), None)
    return None if first is None else float(first == "yes")

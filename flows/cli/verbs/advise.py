"""The verb `advise`: a short probe of the base model before anything is trained, and what the figures suggest.

The base answers some of the held-out questions with retrieved passages, with the oracle alone and with no passage; its
answers are kept, so that a later evaluation need not generate them again.
"""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.options import ConfigArgument, JsonOption, SetOption
from flows.cli.output import Display, Terminal, emit, show_next, warn
from flows.ready import facts, ready
from tasks.build.events import Started, progress_of
from tasks.evaluate import PROBED

SETTINGS = ("retrieved", "oracle_only", "closed_book")
NAMES = {
    "retrieved": "F1 as retrieved",
    "oracle_only": "F1 with the oracle alone",
    "closed_book": "F1 without passages",
    "contained": "replies with the answer",
    "any_hit": "questions with an oracle",
    "recall": "oracles found (recall)",
    "passages": "passages shown",
    "presupposing": "questions that presuppose",
    "refused": "answerable, but refused",
    "answer_words": "words of an answer",
    "training_records": "training records",
    "test_questions": "test questions",
    "tokens_p90": "record tokens, 90 %",
    "max_tokens": "record tokens, at most",
    "oracle_without_quote": "oracle shown, no quote",
    "verdicts": "answers yes, no or maybe",
}
"""What stands beside each figure of a probe."""


def advise(
    config: ConfigArgument = None,
    questions: Annotated[int, typer.Option(min=4, max=10_000, help="Questions the base model is asked")] = PROBED,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Say whether fine-tuning is likely to pay, and what to change first: asks the base model, trains nothing."""
    from flows.probe import probe_base
    from flows.walk import published

    run, built, stale = ready(config, set_, "records")
    warn(stale)
    finished = published(run, "evaluate") or {}
    display = Display()
    display(Started("probe"))
    try:
        probe, advice = probe_base(run, built, SETTINGS, questions, progress_of("probe", display), finished)
    finally:
        display.close()
    if json:
        emit({"ok": True, **facts(stale), "probe": probe.to_dict(), "advice": [a.to_dict() for a in advice]})
        return
    out = Terminal()
    for name, value in probe.figures.items():
        if value is not None:
            text = f"{value:.3f}" if isinstance(value, float) else str(value)
            out.print(f"{NAMES[name]:<26} {text}")
    if probe.decision:
        out.print(f"{'verdict of the evaluation':<26} {probe.decision.verdict}")
    out.print()
    for number, item in enumerate(advice, 1):
        out.print(f"[bold]{number}. {item.do}[/bold] ({item.about})")
        out.print(f"   {item.why}", markup=False, soft_wrap=True)
    if not advice:
        out.print("No measurement speaks for or against.")
    if not finished:
        show_next(out, [(f"raft run{f' {config}' if config else ''}", "train, and compare with the base")])

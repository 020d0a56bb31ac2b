"""The verb `feedback`: what people said about the adapter's answers, and the decision what of it is trained on."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from data.text.counts import counted
from data.text.shown import shown
from flows.cli.options import ConfigOption, JsonOption, SetOption
from flows.cli.output import Terminal, emit, plain, show_next, table
from raft_errors import BadInput
from tasks.adapters.feedback import Entry, FeedbackLog
from tasks.config import load_config

ACTIONS = ("list", "review", "accept", "reject", "reopen")
_DECISIONS = {"accept": "accept", "reject": "reject", "reopen": "open"}
_KEYS = "a accept · e edit the answer · f the documents do not say · r reject · s later · q end; with a number: a 2"


def feedback(
    action: Annotated[str, typer.Argument(help=f"One of {', '.join(ACTIONS)}")] = "list",
    ids: Annotated[
        list[str] | None, typer.Argument(help="For accept, reject and reopen: ids as listed", show_default=False)
    ] = None,
    answer: Annotated[str, typer.Option("--answer", help="With accept: the right answer")] = "",
    refuse: Annotated[
        bool, typer.Option("--refuse", help="With accept: the documents hold no answer, and the adapter is to say so")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="With list: also what was decided already")] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """What people said about answers on the page of `raft serve`. Only what is accepted here is trained on, with the
    next night or run, and none of it is ever examined."""
    if action not in ACTIONS:
        raise BadInput(f"raft feedback {action}", expected=f"one of {', '.join(ACTIONS)}")
    if (action in _DECISIONS) != bool(ids):
        needs = "needs ids" if action in _DECISIONS else "takes no ids"
        raise BadInput(f"raft feedback {action} {needs}", expected="ids, or their beginnings, as raft feedback lists")
    if (answer or refuse) and (action != "accept" or (ids and len(ids) > 1) or (answer and refuse)):
        raise BadInput("--answer or --refuse goes with accept and one id", do="give one of the two, with one id")
    loaded = load_config(config, set_ or [])
    log = FeedbackLog(Path(loaded.store), loaded.name)
    if action == "list":
        _list(log, everything, json)
    elif action == "review":
        if json:
            raise BadInput("review asks a person", do="raft feedback list --json, then accept and reject by id")
        _review(log)
    else:
        decided = [log.decide(id, _DECISIONS[action], answer=answer, refuse=refuse) for id in ids or []]  # type: ignore[arg-type]
        _show_decided(log, decided, json)


def _list(log: FeedbackLog, everything: bool, as_json: bool) -> None:
    entries = log.entries()
    listed = [entry for entry in entries if everything or entry.state == "pending"]
    if as_json:
        _emit(log, entries, listed)
        return
    counts = Counter(entry.state for entry in entries)
    out = Terminal()
    if not entries:
        out.print(f"Nobody has said anything about the answers of {log.name} yet: the page of raft serve asks them.")
        return
    for group in log.groups(listed):
        columns = ("id", "state", "said", "answer", "contradicts")
        rows = [(e.id, e.state, e.feedback.verdict, _right(e), ", ".join(_contradicting(e, entries))) for e in group]
        out.print(table(plain(group[0].feedback.question), columns, rows))
    words = ", ".join(f"{counts[state]} {state}" for state in ("pending", "accepted", "rejected") if state in counts)
    out.print(f"{counted(len(entries), 'entry', 'entries')}: {words}")
    if "pending" in counts:
        show_next(out, [("raft feedback review", "decide about each, those that ask the same together")])


def _emit(log: FeedbackLog, entries: Sequence[Entry], rows: Sequence[Entry]) -> None:
    states = Counter(entry.state for entry in entries)
    counts = {state: states[state] for state in ("pending", "accepted", "rejected")}
    file = str(log.accepted_file) if log.accepted_file.exists() else None
    emit(
        {"ok": True, "adapter": log.name, "counts": counts, "feedback": [_row(e, entries) for e in rows], "file": file}
    )


def _row(entry: Entry, entries: Sequence[Entry]) -> dict[str, Any]:
    said = entry.feedback
    return {
        "id": entry.id,
        "at": said.at,
        "state": entry.state,
        "version": said.version,
        "question": said.question,
        "answer": said.answer,
        "verdict": said.verdict,
        "correction": said.correction,
        "right": entry.answer,
        "refuse": entry.refuses,
        "contradicts": _contradicting(entry, entries),
        "sources": list(dict.fromkeys(passage.source for passage in said.passages)),
    }


def _contradicting(entry: Entry, entries: Sequence[Entry]) -> list[str]:
    return [other.id for other in entries if other.state != "rejected" and entry.contradicts(other)]


def _right(entry: Entry) -> str:
    return "the documents do not say" if entry.refuses else entry.answer or f"not: {entry.feedback.answer}"


def _show_decided(log: FeedbackLog, decided: Sequence[Entry], as_json: bool) -> None:
    entries = log.entries()
    if as_json:
        _emit(log, entries, decided)
        return
    accepted = sum(entry.state == "accepted" for entry in entries)
    out = Terminal()
    for entry in decided:
        out.print(f"{entry.id}: {entry.state}")
    _print_accepted(out, accepted)


def _print_accepted(out: Console, accepted: int) -> None:
    are = "is" if accepted == 1 else "are"
    out.print(f"{counted(accepted, 'question')} {are} accepted, and trained on with the next raft retrain or raft run.")


def _review(log: FeedbackLog) -> None:
    """Asks about each question that has something undecided; reads plain lines, so a script can answer too."""
    out = Terminal()
    groups = [group for group in log.groups() if any(entry.state == "pending" for entry in group)]
    if not groups:
        out.print("Nothing waits for a decision.")
        return
    out.print(_KEYS, markup=False)
    for number, group in enumerate(groups, 1):
        out.rule(f"{number} of {len(groups)}")
        if not _decide_group(log, out, group):
            break
    _print_accepted(out, sum(entry.state == "accepted" for entry in log.entries()))


def _decide_group(log: FeedbackLog, out: Console, group: Sequence[Entry]) -> bool:
    """Whether the review goes on after this question."""
    group = list(group)
    _print_group(out, group)
    while True:
        pending = [place for place, entry in enumerate(group) if entry.state == "pending"]
        if not pending:
            return True
        out.print("> ", end="")
        line = sys.stdin.readline()
        if not line or line.strip() == "q":
            return False
        if line.strip() == "s":
            return True
        try:
            _carry_out(log, out, group, pending, line.strip())
        except BadInput as error:
            out.print(shown(str(error)), style="yellow", markup=False, soft_wrap=True)


def _carry_out(log: FeedbackLog, out: Console, group: list[Entry], pending: Sequence[int], line: str) -> None:
    """Does what a line says: a key, the entry's number where several wait, and after `e` the right answer."""
    key, _, rest = line.partition(" ")
    number, _, words = rest.strip().partition(" ")
    if number.isdecimal() and len(pending) == 1 and key == "e" and not words:
        number, words = "", rest.strip()  # the answer is a number
    if not number.isdecimal():
        number, words = "", rest.strip()
    if key not in ("a", "e", "f", "r") or (not number and len(pending) > 1) or (key == "e") != bool(words):
        raise BadInput(f"{line!r} is not understood", expected=_KEYS)
    place = int(number) - 1 if number else pending[0]
    if place not in range(len(group)):
        raise BadInput(f"There is no {number} here")
    entry = group[place]
    group[place] = log.decide(
        entry.id, "reject" if key == "r" else "accept", answer=words if key == "e" else "", refuse=key == "f"
    )
    out.print(f"{entry.id}: {group[place].state}")
    for other, beside in enumerate(group):
        if key != "r" and beside.state == "pending" and beside.contradicts(group[place]):
            group[other] = log.decide(beside.id, "reject")
            out.print(f"{beside.id}: rejected, since it contradicts {entry.id}")


def _print_group(out: Console, group: Sequence[Entry]) -> None:
    out.print(shown(group[0].feedback.question), style="bold", markup=False, soft_wrap=True)
    for number, entry in enumerate(group, 1):
        said = entry.feedback
        state = "" if entry.state == "pending" else f", {entry.state}"
        out.print(f"{number}. {said.version} answered{state}: {shown(said.answer)}", markup=False, soft_wrap=True)
        out.print(f"   said to be {'right' if said.verdict == 'up' else 'wrong'}", markup=False)
        if entry.answer and entry.answer != said.answer:
            out.print(f"   right: {shown(entry.answer)}", markup=False, soft_wrap=True)
        for quote in said.quotes:
            out.print(f"   “{shown(quote)}”", markup=False, soft_wrap=True)
        for source in dict.fromkeys(passage.source for passage in said.passages):
            out.print(f"   {shown(source)}", markup=False, soft_wrap=True)
    if any(one.contradicts(other) for one in group for other in group):
        out.print("These contradict each other: at most one answer can be accepted.", style="yellow")

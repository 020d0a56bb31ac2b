"""Composes RAFT records: a question, its oracle passage(s) among distractors, and the answer to be learnt.

What makes a record honest is decided here: no passage of a held-out document in training, no label that quotes a text
which is not shown, an oracle that is never cut, and the configured share of records without oracle. Hashes of ids
decide everything that is drawn, so a changed corpus changes only the records it touches. Finding distractors is the
miner's work.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from data.nouns import Chunk, Progress, Question, Record, digest
from data.prompting.contract import PromptTemplate, load_template
from data.records.candidates import Candidates, MinedLike, is_unanswerable
from data.records.draft import Composer, RecordOptions, question_side, reads_back
from data.records.figures import find_leaks, report_records
from data.records.splits import SPLITS, Splits, split_by_document
from data.text.alike import alike
from raft_errors import BadInput, RaftError

log = logging.getLogger("raft.data")

MOST_REFUSALS = 0.5
"""Share of the training records; where more are refusals, that is told."""


@dataclass(frozen=True)
class DroppedQuestion:
    """A question that gave no record, and why."""

    question_id: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class RecordSet:
    """`report` counts questions = records + dropped, and holds what `data.records.figures.report_records` measures."""

    train: list[Record]
    validation: list[Record]
    test: list[Record]
    dropped: list[DroppedQuestion]
    report: dict[str, Any] = field(default_factory=dict)


def compose_records(
    questions: Sequence[Question],
    chunks: Sequence[Chunk],
    distractors: Mapping[str, Sequence[MinedLike]],
    *,
    options: RecordOptions | None = None,
    count_tokens: Callable[[str], int],
    seed: int = 0,
    splits: Splits | None = None,
    template: PromptTemplate | None = None,
    progress: Progress | None = None,
) -> RecordSet:
    """Composes the records of all splits, each in an order drawn by hash: any first n are a fair sample.

    Args:
        distractors: question id -> mined passages, best first. `options.distractors` plus the number of oracles are
            used; mine about twice as many, since passages of held-out documents are left out of training records.
            Where they run short, passages drawn at random fill the gap (`mined_by` is then `random`).
        count_tokens: length of a text in the base model's tokenizer, without special tokens.
        splits: by default `split_by_document(chunks, questions, seed=seed)`.

    Raises:
        BadInput: no training record can be made; where records are too long it names a budget that would do.
    """
    options = options or RecordOptions()
    if not questions:
        raise BadInput("records: there is no question", do="import a question file, or let a teacher ask")
    splits = splits or split_by_document(chunks, questions, seed=seed)
    template = template or load_template()
    candidates = Candidates(chunks, distractors, splits, seed)
    usable, unusable = _usable(questions, candidates.chunks, splits, options, seed)
    may_refuse = options.absent != "answer" or any(is_unanswerable(q) for q, _ in usable)
    composer = Composer(candidates, options, count_tokens, seed, splits, template, may_refuse)
    records, failures, lengths = _draft_all(usable, composer, progress)
    dropped = unusable + failures
    usable = [(q, s) for q, s in usable if q.id in records]
    blocked = sum(_remove_oracles([q for q, of in usable if of == split], split, records, composer) for split in SPLITS)
    usable.sort(key=lambda item: (digest("place", str(seed), item[0].id), item[0].id))
    by_split = {s: [records[q.id] for q, of in usable if of == s] for s in SPLITS}
    further = _arrangements([q for q, of in usable if of == "train"], records, composer)
    by_split["train"] += further
    if not by_split["train"]:
        raise _no_records(dropped, lengths, options)
    _check_splits(by_split, splits)
    _warn_of_refusals(by_split["train"])
    if progress:
        progress(len(usable), len(usable), "records")
    counts = {"questions": len(questions), "further": len(further), "blocked": blocked}
    report = _report(by_split, dropped, composer, counts)
    return RecordSet(by_split["train"], by_split["validation"], by_split["test"], dropped, report)


def _report(
    by_split: Mapping[str, Sequence[Record]],
    dropped: Sequence[DroppedQuestion],
    composer: Composer,
    counts: Mapping[str, int],
) -> dict[str, Any]:
    """The report of a record set whose splits are known not to leak.

    `counts`: the questions, the training records that are `further` arrangements of others, and the records `blocked`
    from losing their oracle.
    """
    template, options, candidates = composer.template, composer.options, composer.candidates
    return {
        "questions": counts["questions"],
        "records": {s: len(by_split[s]) for s in SPLITS},
        "extra_arrangements": counts["further"],
        "dropped": dict(sorted(Counter(d.reason for d in dropped).items())),
        "template": template.id,
        "template_version": template.version,
        "citation": template.citation,
        "may_refuse": composer.may_refuse,
        "seed": int(composer.seed),
        "p_oracle_asked": options.p_oracle,
        "absent_policy": options.absent,
        "absent_impossible": counts["blocked"],
        "order": options.order,
        "max_tokens": options.max_tokens,
        "candidates_left_out": dict(sorted(candidates.left_out.items())),
        "leaks": 0,
        **report_records(by_split),
        "splits": composer.splits.report,
    }


def _draft_all(
    usable: Sequence[tuple[Question, str]], composer: Composer, progress: Progress | None
) -> tuple[dict[str, Record], list[DroppedQuestion], list[int]]:
    """Question id -> its record with the oracle shown; the questions that gave none; the lengths of those too long."""
    records: dict[str, Record] = {}
    dropped: list[DroppedQuestion] = []
    lengths: list[int] = []
    for number, (question, split) in enumerate(usable):
        record, tokens = composer.draft(question, split, present=True)
        if record is None:
            lengths.append(tokens)
            detail = f"{tokens} tokens without any distractor, {composer.options.max_tokens} allowed"
            dropped.append(DroppedQuestion(question.id, "over_budget", detail))
        elif not reads_back(record, question, composer.template):
            dropped.append(DroppedQuestion(question.id, "unreadable_label", "it holds the template's own markers"))
        else:
            records[question.id] = record
        if progress and number % 100 == 0:
            progress(number, len(usable), "records")
    return records, dropped, lengths


def _check_splits(by_split: Mapping[str, Sequence[Record]], splits: Splits) -> None:
    """Refuses records that train on a held-out passage, and warns if a split that should exist is empty."""
    leaks = find_leaks(by_split, splits)
    if leaks:
        raise RaftError(f"records: {len(leaks)} leak(s) between splits, the first: {leaks[0]}", do="report this bug")
    for split in SPLITS[1:]:
        if splits.report.get("target", {}).get(split) and not by_split[split]:
            log.warning("no %s record is left: see the dropped questions", split)


def _warn_of_refusals(records: Sequence[Record]) -> None:
    """Says so where the model would learn first of all to refuse, as from a set with many unanswerable questions."""
    refusals = sum(record.metadata["label"] == "refuse" for record in records)
    asked_so = sum(not record.metadata["oracle_ids"] for record in records)
    if refusals > MOST_REFUSALS * len(records):
        log.warning(
            "%.0f%% of the training records are to be refused: %d because their question has no answer, %d because "
            "their oracle is left out. Leave rows without an answer out of the question file, raise records.p_oracle, "
            "or set records.absent to answer",
            100 * refusals / len(records),
            asked_so,
            refusals - asked_so,
        )


def measured_p(questions: Sequence[Question], *, passages: int) -> float:
    """The share of answerable questions with a gold chunk among the retriever's first `passages` hits (any-hit).

    Used as `p_oracle`, it lets oracles be missing in training as often as they are in production. Needs
    `Question.difficulty`; raises BadInput if no question has one (nothing was searched).
    """
    answerable = [q for q in questions if not is_unanswerable(q)]
    if not any(q.difficulty for q in answerable):
        raise BadInput(
            "records: P cannot be measured, no question has a rank",
            expected="questions whose passage was searched for when they were generated or imported",
            do="set p_oracle to a number",
        )
    return round(sum(1 <= (q.difficulty or 0) <= passages for q in answerable) / len(answerable), 4)


def _usable(
    questions: Sequence[Question],
    chunks: Mapping[str, Chunk],
    splits: Splits,
    options: RecordOptions,
    seed: int,
) -> tuple[list[tuple[Question, str]], list[DroppedQuestion]]:
    """Questions that can become a record, each with its split; and the others, each with the reason."""
    usable, dropped = [], []
    latest: dict[str, str] = {}
    ids: set[str] = set()
    for question in questions:
        reason, detail = _defect(question, chunks, ids)
        ids.add(question.id)
        if reason:
            dropped.append(DroppedQuestion(question.id, reason, detail))
            continue
        if splits.copies.intersection(question.gold_chunk_ids):
            dropped.append(DroppedQuestion(question.id, "copy_of_held_out", "its passage repeats one that is held out"))
            continue
        split = question_side(question, splits)
        if not question.examinable and (split != "train" or _touches_held_out(question, chunks, splits)):
            dropped.append(
                DroppedQuestion(question.id, "feedback_on_held_out", "feedback is trained on, never examined")
            )
            continue
        place = question.gold_chunk_ids[0] if question.gold_chunk_ids else question.id
        if (
            split == "train"
            and question.examinable
            and int(digest("seen", str(seed), place), 16) / 2**63 < options.seen_test
        ):
            split = "test"
        usable.append((question, split))
        words = _words(question)
        latest[words] = max(split, latest.get(words, split), key=SPLITS.index)
    # A question that two documents share word for word must not be both trained on and tested.
    for question, split in usable:
        if (later := latest[_words(question)]) != split:
            dropped.append(DroppedQuestion(question.id, "asked_in_later_split", f"also a {later} question"))
    usable = [(q, s) for q, s in usable if latest[_words(q)] == s]
    # What somebody accepted takes the place of what is trained on for the same question about the same passage.
    corrected = {_asked_of(q): q.id for q, _ in usable if not q.examinable}
    for question, split in usable:
        if split == "train" and question.examinable and (own := corrected.get(_asked_of(question))):
            dropped.append(DroppedQuestion(question.id, "corrected_by_feedback", own))
    older = {row.question_id for row in dropped if row.reason == "corrected_by_feedback"}
    return [(q, s) for q, s in usable if q.id not in older], dropped


def _asked_of(question: Question) -> tuple[str, frozenset[str]]:
    return _words(question), frozenset(question.gold_chunk_ids)


def _touches_held_out(question: Question, chunks: Mapping[str, Chunk], splits: Splits) -> bool:
    """Whether one of its passages stands on another side than training."""
    return any(splits.side(id, chunks[id].document_id) != "train" for id in question.gold_chunk_ids)


def _defect(question: Question, chunks: Mapping[str, Chunk], ids: set[str]) -> tuple[str, str]:
    if question.id in ids:
        return "repeated_id", "an earlier question has the same id"
    if not question.question.strip():
        return "no_question", ""
    for chunk in question.gold_chunk_ids:
        if chunk not in chunks:
            return "gold_not_in_corpus", chunk
    if is_unanswerable(question):
        return "", ""
    if not question.answer.strip():
        return "no_answer", ""
    if not question.gold_chunk_ids:
        return "no_gold", ""
    for quote in question.quotes:
        if quote.chunk_id not in question.gold_chunk_ids or quote.text.strip() not in chunks[quote.chunk_id].text:
            return "quote_not_in_oracle", quote.text[:200]
    return "", ""


def _words(question: Question) -> str:
    return " ".join("".join(c if c.isalnum() else " " for c in alike(question.question).casefold()).split())


def _remove_oracles(questions: list[Question], split: str, records: dict[str, Record], composer: Composer) -> int:
    """Takes the oracle out of exactly round((1 - P) x n) records of a split; returns how many had to keep it."""
    options = composer.options
    answerable = [q for q in questions if not is_unanswerable(q)]
    target = round((1 - options.p_oracle) * len(answerable))
    refuse_share = {"answer": 0.0, "refuse": 1.0, "mix": options.refuse_share}[options.absent]
    count = blocked = 0
    for question in sorted(answerable, key=lambda q: (digest("absent", composer.seed, q.id), q.id)):
        if count == target:
            break
        refuse = int((count + 1) * refuse_share + 1e-9) > int(count * refuse_share + 1e-9)
        record, _ = composer.draft(question, split, present=False, refuse=refuse)
        if record is None:  # no distractor at all, or none that fits: the next question takes its place
            blocked += 1
            continue
        records[question.id] = record
        count += 1
    return blocked


def _arrangements(questions: list[Question], records: Mapping[str, Record], composer: Composer) -> list[Record]:
    """The training records with their passages in further orders: all questions once, then all again, and so on."""
    further = []
    for turn in range(1, composer.options.arrangements):
        for question in questions:
            first = records[question.id].metadata
            if turn < len(first["passages"]):
                refuse = first["label"] == "refuse"
                record, _ = composer.draft(question, "train", present=first["oracle_present"], refuse=refuse, turn=turn)
                further += [record] if record else []
    return further


def _no_records(dropped: list[DroppedQuestion], lengths: list[int], options: RecordOptions) -> BadInput:
    reasons = ", ".join(f"{n} {r}" for r, n in sorted(Counter(d.reason for d in dropped).items()))
    if lengths:
        ninety = sorted(lengths)[int(0.9 * (len(lengths) - 1))]
        return BadInput(
            f"records: no training record fits into max_tokens {options.max_tokens} (dropped: {reasons})",
            expected=f"at least {min(lengths)} tokens for the shortest question, oracle and answer; {ninety} for 90 %",
            do=f"raise records.max_tokens to {ninety} or more, or make the chunks smaller",
        )
    return BadInput(
        f"records: no training record could be made (dropped: {reasons or 'none; all questions are held out'})",
        do="ask or import more questions, or lower the shares of validation and test",
    )

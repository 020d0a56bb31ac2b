"""Says whether fine-tuning is likely to pay, and what to change first, from a short probe of the base model.

Rules over figures that `summarise` and the records report already hold; each piece of advice carries the figures it
rests on, so that a reader can disagree. It promises nothing: the evaluation decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from data.evaluation.scoring import CLOSED
from data.statistics import detectable_difference
from data.text.normalisation import normalise

FEW_RECORDS = 500
GOOD_RECALL = 0.85
READS_WELL = 0.75
CLEAR_GAP = 0.1
LONG_ANSWER_WORDS = 25
REFUSES_TOO_MUCH = 0.3
FAR_FROM_BUDGET = 0.9
MOSTLY = 0.5


@dataclass(frozen=True)
class Advice:
    """`about`: retrieval, records, training or evaluation. `weight`: 1 to 3, what to do first is 3."""

    about: str
    do: str
    why: str
    weight: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Probe:
    """What is known before (or after a first) training; None where it was not measured. Shares and scores 0 to 1.

    Attributes:
        retrieved, oracle_only, closed_book: token F1 of the base model in these settings.
        contained: share of its replies with retrieved passages that hold an accepted answer.
        recall: of the retriever, at the number of passages shown.
        refused: share of answerable questions (oracle shown) that it refuses.
        answer_words: median length of the accepted answers.
        training_records, test_questions: counts.
        tokens_p90, max_tokens: 90th percentile of record lengths, and the budget.
        oracle_without_quote: share of the records that show an oracle and quote nothing.
        verdicts: share of the answers that are yes, no or maybe. Both None where the template asks for no quotes.
    """

    retrieved: float | None = None
    oracle_only: float | None = None
    closed_book: float | None = None
    contained: float | None = None
    recall: float | None = None
    refused: float | None = None
    answer_words: float | None = None
    training_records: int | None = None
    test_questions: int | None = None
    tokens_p90: float | None = None
    max_tokens: int | None = None
    oracle_without_quote: float | None = None
    verdicts: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def probe_from(
    summary: Mapping[str, Any],
    records: Mapping[str, Any],
    *,
    recall: float | None = None,
    answers: Sequence[Sequence[str]] = (),
) -> Probe:
    """A probe from `summarise` of the base model's rows and the report of `compose_records`.

    Args:
        recall: of the retriever, at the number of passages shown.
        answers: the accepted answers of each question.
    """

    def score(setting: str, metric: str) -> float | None:
        conditions = summary["settings"].get(setting, {}).get("conditions", {})
        value = conditions.get(summary["base"], {}).get("metrics", {}).get(metric, {}).get("value")
        return None if value is None else float(value)

    oracle = summary["settings"].get("oracle_only", {}).get("conditions", {}).get(summary["base"])
    refusals = oracle["refusal"] if oracle else None
    per, no_quote = records["per_split"], records["quotes"]["records_with_oracle_but_no_quote"]
    oracles = sum(figures["oracle_present"] for figures in per.values())
    asks_for_quotes = records["citation"] != "unquoted"
    verdicts = [normalise(a[0]) in CLOSED for a in answers if a]
    return Probe(
        retrieved=score("retrieved", "f1"),
        oracle_only=score("oracle_only", "f1"),
        closed_book=score("closed_book", "f1"),
        contained=score("retrieved", "contains"),
        recall=recall,
        answer_words=median(len(a[0].split()) for a in answers if a) if any(answers) else None,
        refused=refusals["refused"] / refusals["n"] if refusals and refusals["n"] else None,
        training_records=per["train"]["records"],
        test_questions=per["test"]["answerable"],
        tokens_p90=per["train"]["tokens"]["p90"],
        max_tokens=records["max_tokens"],
        oracle_without_quote=no_quote / oracles if oracles and asks_for_quotes else None,
        verdicts=sum(verdicts) / len(verdicts) if verdicts and asks_for_quotes else None,
    )


def advise(probe: Probe) -> list[Advice]:
    """Advice, most pressing first; empty if no measurement speaks for or against."""
    advice = [*_retrieval(probe), *_reading(probe), *_records(probe), *_measuring(probe)]
    return sorted(advice, key=lambda a: -a.weight)


def _retrieval(probe: Probe) -> list[Advice]:
    advice = []
    if probe.recall is not None and probe.recall < GOOD_RECALL:
        text = f"the retriever finds the right passage for {probe.recall:.0%} of the questions; no adapter can read "
        text += "what is not there"
        advice.append(
            Advice("retrieval", "improve retrieval first: hybrid search, smaller chunks, more passages", text, 3)
        )
    gap = _gap(probe.oracle_only, probe.retrieved)
    if gap is not None and gap > 2 * CLEAR_GAP and (probe.recall or 0) >= GOOD_RECALL:
        text = f"F1 is {gap:.0%} higher with the oracle alone than with retrieved passages, though these hold it"
        advice.append(Advice("records", "train with as many distractors as production shows", text, 2))
    return advice


def _reading(probe: Probe) -> list[Advice]:
    advice = []
    if probe.oracle_only is not None:
        if probe.oracle_only >= READS_WELL:
            text = f"with the right passage the base model already reaches F1 {probe.oracle_only:.0%}"
            advice.append(Advice("training", "expect little from fine-tuning; a better prompt may do", text, 3))
        else:
            text = f"with the right passage before it the base model reaches F1 {probe.oracle_only:.0%}: it is reading "
            text += "and form that are missing, which records teach"
            advice.append(Advice("training", "fine-tuning is likely to pay", text, 2))
    form = _gap(probe.contained, probe.retrieved)
    if form is not None and form > 2 * CLEAR_GAP:
        text = f"{probe.contained:.0%} of its replies hold the answer, but F1 is {probe.retrieved:.0%}: much of the "
        text += "gain will be in form"
        advice.append(Advice("training", "a few hundred records may be enough; watch 'answer contained' too", text, 1))
    memory = _gap(probe.closed_book, probe.oracle_only)
    if memory is not None and probe.closed_book is not None and memory > -CLEAR_GAP and probe.closed_book > CLEAR_GAP:
        text = f"without passages the base model reaches F1 {probe.closed_book:.0%}, about as with the oracle"
        advice.append(Advice("evaluation", "test on text that the base model cannot have read", text, 2))
    if probe.refused is not None and probe.refused > REFUSES_TOO_MUCH:
        text = f"it refuses {probe.refused:.0%} of the questions whose answer is before it"
        advice.append(Advice("records", "raise p_oracle, or choose the policy `mix` or `answer`", text, 2))
    return advice


def _records(probe: Probe) -> list[Advice]:
    advice = []
    if probe.training_records is not None and probe.training_records < FEW_RECORDS:
        text = f"there are {probe.training_records} training records; form is learnt from hundreds, a domain from "
        text += "thousands"
        advice.append(Advice("records", "ask more questions, or import some", text, 2))
    if probe.tokens_p90 and probe.max_tokens and probe.tokens_p90 > FAR_FROM_BUDGET * probe.max_tokens:
        text = f"one record in ten is longer than {probe.tokens_p90:.0f} of {probe.max_tokens} tokens, so distractors "
        text += "are being dropped"
        advice.append(Advice("records", "raise max_tokens or make the chunks smaller", text, 1))
    if probe.oracle_without_quote is not None and probe.oracle_without_quote > CLEAR_GAP:
        text = f"{probe.oracle_without_quote:.0%} of the records show an oracle and quote nothing"
        advice.append(Advice("records", "supply quotes with the questions, or let a teacher find them", text, 2))
    if probe.verdicts is not None and probe.verdicts >= MOSTLY:
        text = f"{probe.verdicts:.0%} of the answers are yes, no or maybe, which seldom stand in one quote; a small "
        text += "model then learns to copy and not to decide"
        advice.append(Advice("records", "compare the template `direct`, which asks for no quotes", text, 1))
    return advice


def _measuring(probe: Probe) -> list[Advice]:
    advice = []
    if probe.answer_words is not None and probe.answer_words > LONG_ANSWER_WORDS:
        text = f"answers have {probe.answer_words:.0f} words: exact match says nothing and F1 little"
        advice.append(Advice("evaluation", "judge by ROUGE-L, citations and groundedness", text, 1))
    if probe.test_questions is not None and probe.test_questions < 100:
        least = detectable_difference(0.45, max(1, probe.test_questions))
        text = f"{probe.test_questions} test questions show only differences of about {100 * least:.0f} points or more"
        advice.append(Advice("evaluation", "hold out more questions", text, 2))
    return advice


def _gap(high: float | None, low: float | None) -> float | None:
    return None if high is None or low is None else high - low

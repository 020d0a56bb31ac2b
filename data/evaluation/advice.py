"""Says whether fine-tuning is likely to pay, and what to change first: from a short probe of the base model before a
training, and from an evaluation after one.

Rules over figures that `summarise`, the records report and the search already hold; each piece of advice carries the
figures it rests on, so that a reader can disagree, and none proposes what is set already. It promises nothing: the
evaluation decides, and where there is one, its verdict is the advice's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from data.evaluation.promotion import GENERAL, Decision
from data.evaluation.scoring import CLOSED
from data.statistics import TOO_FEW, detectable_difference
from data.text.counts import counted
from data.text.normalisation import normalise
from data.training_coverage import seen_share, unseen_records

FEW_RECORDS = 500
GOOD_ANY_HIT = 0.85
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
class SearchTrial:
    """What other ways to search bring, tried on questions that no test rests on.

    Attributes:
        questions: how many were tried; passages: how many each is shown.
        any_hit: questions with an oracle among these passages, as the run searches.
        by_mode: the same for every other mode; by_passages: as the run searches, with more passages.
    """

    questions: int
    passages: int
    any_hit: int
    by_mode: Mapping[str, int]
    by_passages: Mapping[int, int]


@dataclass(frozen=True)
class Probe:
    """What is known before (or after) a training; None where it was not measured. Shares and scores 0 to 1.

    Attributes:
        retrieved, oracle_only, closed_book: token F1 of the base model in these settings.
        contained: share of its replies with retrieved passages that hold an accepted answer.
        any_hit: share of the questions with at least one oracle among the passages shown.
        recall: share of the oracles, of which a question may have several, among the passages shown.
        passages: how many are shown.
        trial: other ways to search, on the validation questions.
        fitted: what the stage `adapt` tried on them: step (`embedder`, `reranker`, `rerank`, `weights`) -> its paired
            test, and `choice`, what it kept; empty where it did not run.
        presupposing: share of the questions that presuppose their document; presupposing_example: one of them.
        refused: share of answerable questions (oracle shown) that it refuses.
        answer_words: median length of the accepted answers.
        training_records, test_questions: counts.
        detectable: the difference that the report says so many questions would reveal; None before a training.
        tokens_p90, max_tokens: 90th percentile of record lengths, and the budget.
        oracle_without_quote: share of the records that show an oracle and quote nothing.
        verdicts: share of the answers that are yes, no or maybe. Both None where the template asks for no quotes.
        settings: what is set, `section.field` -> value.
        training: figures of the training; empty before there is one.
        decision: the verdict on the adapter, after an evaluation.
    """

    retrieved: float | None = None
    oracle_only: float | None = None
    closed_book: float | None = None
    contained: float | None = None
    any_hit: float | None = None
    recall: float | None = None
    passages: int | None = None
    trial: SearchTrial | None = None
    fitted: Mapping[str, Any] = field(default_factory=dict)
    presupposing: float | None = None
    presupposing_example: str = ""
    refused: float | None = None
    answer_words: float | None = None
    training_records: int | None = None
    test_questions: int | None = None
    detectable: float | None = None
    tokens_p90: float | None = None
    max_tokens: int | None = None
    oracle_without_quote: float | None = None
    verdicts: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    decision: Decision | None = None

    @property
    def figures(self) -> dict[str, float | int | None]:
        """What was measured or counted, by name."""
        others = ("trial", "fitted", "presupposing_example", "detectable", "settings", "training", "decision")
        return {name: value for name, value in vars(self).items() if name not in others}

    def to_dict(self) -> dict[str, Any]:
        """The figures, the trial and the verdict as JSON values."""
        trial = asdict(self.trial) if self.trial else None
        return {**self.figures, "trial": trial, "verdict": self.decision.verdict if self.decision else None}


def probe_from(
    summary: Mapping[str, Any],
    records: Mapping[str, Any],
    *,
    retrieval: Mapping[str, float] | None = None,
    passages: int | None = None,
    trial: SearchTrial | None = None,
    fitted: Mapping[str, Any] | None = None,
    presupposing: Sequence[str] = (),
    questions: int = 0,
    answers: Sequence[Sequence[str]] = (),
    settings: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    decision: Decision | None = None,
) -> Probe:
    """A probe from `summarise` of the base model's rows and the report of `compose_records`.

    Args:
        retrieval: figures of the retriever (`any_hit@k`, `recall@k`), among them those at `passages`.
        fitted: metrics of the stage `adapt`, where it ran.
        presupposing: those of the `questions` questions that presuppose their document.
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
    hits = retrieval or {}
    headline = summary.get("headline") or {}
    return Probe(
        retrieved=score("retrieved", "f1"),
        oracle_only=score("oracle_only", "f1"),
        closed_book=score("closed_book", "f1"),
        contained=score("retrieved", "contains"),
        any_hit=hits.get(f"any_hit@{passages}"),
        recall=hits.get(f"recall@{passages}"),
        passages=passages,
        trial=trial,
        fitted=fitted or {},
        presupposing=len(presupposing) / questions if questions else None,
        presupposing_example=presupposing[0] if presupposing else "",
        answer_words=median(len(a[0].split()) for a in answers if a) if any(answers) else None,
        refused=refusals["refused"] / refusals["n"] if refusals and refusals["n"] else None,
        training_records=per["train"]["records"],
        test_questions=per["test"]["answerable"],
        detectable=headline.get("detectable") if headline.get("verdict") != TOO_FEW else None,
        tokens_p90=per["train"]["tokens"]["p90"],
        max_tokens=records["max_tokens"],
        oracle_without_quote=no_quote / oracles if oracles and asks_for_quotes else None,
        verdicts=sum(verdicts) / len(verdicts) if verdicts and asks_for_quotes else None,
        settings=settings or {},
        training=training or {},
        decision=decision,
    )


def advise(probe: Probe) -> list[Advice]:
    """Advice, most pressing first; empty if no measurement speaks for or against."""
    advice = [*_verdict(probe), *_retrieval(probe), *_reading(probe), *_records(probe), *_measuring(probe)]
    return sorted(advice, key=lambda a: -a.weight)


def expects_gain(oracle_only: float | None) -> bool | None:
    """The forecast: whether fine-tuning is likely to pay, which it is unless the base reads well already.

    Args:
        oracle_only: token F1 of the base with the oracle alone, 0 to 1; where it was not measured, nothing is forecast.
    """
    return None if oracle_only is None else oracle_only < READS_WELL


def _verdict(probe: Probe) -> list[Advice]:
    """What the verdict on the adapter asks for; questions too few to decide are `_measuring`'s business."""
    decision = probe.decision
    advice: list[Advice] = []
    if clause := unseen_records(probe.training):
        cut = probe.settings.get("train.max_steps")
        do = f"train on all records: leave out train.max_steps (now {cut})" if cut else "raise train.epochs"
        weight = 3 if (seen_share(probe.training) or 1) < MOSTLY else 2
        if cut:
            advice.append(Advice("training", do, clause, weight))
    if decision is None:
        return advice
    if decision.verdict == "promote":
        return [*advice, Advice("training", "nothing speaks against the adapter", decision.reason, 1)]
    failures = {check.name: check.why for check in decision.checks if not check.passed}
    if forgotten := failures.pop(GENERAL, ""):
        rate = probe.training.get("learning_rate")
        now = f" (now {rate:g})" if rate else ""
        do = f"train more gently: a lower train.learning_rate{now} or fewer train.epochs"
        if not probe.training.get("rehearsals"):
            do = f"let it rehearse what the base can do (train.rehearsal), then {do}"
        advice.append(Advice("training", do, forgotten, 3))
    failures.pop("enough questions", "")
    if failures:
        words = "do not use it" if decision.verdict == "reject" else "do not promote it yet"
        advice.append(Advice("training", words, "; ".join(failures.values()), 3))
    return advice


def _retrieval(probe: Probe) -> list[Advice]:
    advice = []
    if probe.presupposing and probe.presupposing >= CLEAR_GAP:
        text = f"{probe.presupposing:.0%} of the questions cannot be answered without their document, which they "
        text += f"presuppose ({probe.presupposing_example!r}): no search over all documents can know which is meant"
        advice.append(Advice("records", "name in each question what it is about", text, 3))
    if probe.any_hit is not None and probe.any_hit < GOOD_ANY_HIT:
        do, outcome = _search_step(probe)
        text = f"{probe.any_hit:.0%} of the questions have an oracle among the passages shown (any-hit); no adapter "
        advice.append(Advice("retrieval", do, f"{text}can read what is not there; {outcome}", 3))
    elif probe.any_hit is not None and probe.recall is not None and probe.recall < probe.any_hit - CLEAR_GAP:
        text = f"{probe.any_hit:.0%} of the questions have an oracle among the passages shown (any-hit), but only "
        text += (
            f"{probe.recall:.0%} of all oracles are there (recall): where an answer rests on several, some are missing"
        )
        do = f"show more passages (records.distractors, now {(probe.passages or 1) - 1}) if answers rest on several"
        advice.append(Advice("retrieval", do, text, 1))
    gap = _gap(probe.oracle_only, probe.retrieved)
    if gap is not None and gap > 2 * CLEAR_GAP and (probe.any_hit or 0) >= GOOD_ANY_HIT:
        text = f"F1 is {gap:.0%} higher with the oracle alone than with retrieved passages, though these hold it"
        ordered = probe.settings.get("records.order") == "retrieved"
        do = "compare records.order: retrieved, which teaches how far the first hits can be trusted"
        advice.append(Advice("records", "compare fewer passages (records.distractors)" if ordered else do, text, 2))
    return advice


def _search_step(probe: Probe) -> tuple[str, str]:
    """The next step for a retriever that misses much, and what it brought; never what is set already."""
    trial, tried = probe.trial, _brought(probe.fitted)
    if step := _too_slow(probe):
        return step
    steps = _untried(probe)
    if trial is None:
        steps = [*steps, "smaller chunks (chunk.max_tokens)", "more passages (records.distractors)"]
        outcome = tried or "raft evaluate retrieval compares the modes"
        return f"improve retrieval first: {', '.join(steps)}", outcome
    own = f"this run's {trial.questions} validation questions"
    ways = [(hits, f"search in mode {name} (retrieval.mode)") for name, hits in trial.by_mode.items()]
    ways += [
        (hits, f"show {counted(count, 'passage')} (records.distractors: {count - 1})")
        for count, hits in sorted(trial.by_passages.items())
    ]
    best, do = max(ways, key=lambda way: way[0], default=(0, ""))  # the first of equals: a mode costs no tokens
    if best > trial.any_hit:
        return do, f"on {own} that brings it from {trial.any_hit} to {best}; raft evaluate retrieval asks all of them"
    outcome = f"on {own} ({trial.any_hit} have one) neither another mode nor more passages found more"
    look = "look at what is missed (raft evaluate retrieval lists the worst questions)"
    return "; or try ".join([look, *steps[:1]]), "; ".join(filter(None, [outcome, tried]))


def _untried(probe: Probe) -> list[str]:
    """Steps of the retriever that are neither set nor tried, the one that helps most often first."""
    settings, hybrid = probe.settings, probe.settings.get("retrieval.mode") == "hybrid"
    reranks = bool(settings.get("retrieval.rerank")) and probe.fitted.get("choice", {}).get("rerank", True)
    steps = {
        "hybrid search (retrieval.mode)": probe.trial is None and not hybrid,
        "a cross-encoder (retrieval.rerank: auto)": not settings.get("retrieval.rerank"),
        "weights that validation questions ask for (retrieval.weights: measured)": hybrid
        and settings.get("retrieval.weights") == "equal",
        "an embedder fitted to the domain (adapt.embedder)": settings.get("retrieval.mode") != "lexical"
        and not settings.get("adapt.embedder")
        and not settings.get("retrieval.store"),
        "a cross-encoder fitted to the domain (adapt.reranker)": reranks and not settings.get("adapt.reranker"),
    }
    return [step for step, due in steps.items() if due]


def _too_slow(probe: Probe) -> tuple[str, str] | None:
    """Where reranking was shown to help and dropped for its time, what it brought; it is the next step then."""
    test, choice = probe.fitted.get("rerank", {}), probe.fitted.get("choice", {})
    if not test.get("helps") or choice.get("rerank", True):
        return None
    allowed = probe.settings.get("retrieval.rerank_seconds")
    now = f", now {allowed:g}" if allowed else ""
    do = f"allow reranking its time (retrieval.rerank_seconds{now}; a smaller retrieval.rerank_depth takes less)"
    return do, f"it helps and was dropped for its time: {_in_words(test)}"


def _brought(fitted: Mapping[str, Any]) -> str:
    """What the steps that were tried brought, each by its paired test."""
    names = {
        "embedder": "the fitted embedder",
        "weights": "measured weights",
        "reranker": "the fitted cross-encoder",
        "rerank": "reranking",
    }
    choice = fitted.get("choice", {})
    kept = {
        "embedder": "embedder" in choice,
        "weights": choice.get("lexical_share", 0.5) != 0.5,
        "reranker": "reranker" in choice,
        "rerank": choice.get("rerank", True),
    }
    return "; ".join(
        f"{name} ({'kept' if kept[key] else 'dropped'}) {_in_words(fitted[key])}"
        for key, name in names.items()
        if "before_first" in fitted.get(key, {})
    )


def _in_words(test: Mapping[str, Any]) -> str:
    return (
        f"put the right passage first for {test['after_first']:.0%} of {test['questions']} validation questions, "
        f"{test['before_first']:.0%} without (reciprocal rank [{test['low']:+.3f}, {test['high']:+.3f}])"
    )


def _reading(probe: Probe) -> list[Advice]:
    advice = []
    if probe.oracle_only is not None and probe.decision is None:  # after a training, its verdict says it
        if not expects_gain(probe.oracle_only):
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
        share, absent = probe.settings.get("records.p_oracle"), probe.settings.get("records.absent")
        steps = [] if share == 1 else [f"raise records.p_oracle (now {share})" if share else "raise records.p_oracle"]
        steps += [f"set records.absent to {policy}" for policy in ("mix", "answer") if absent not in (policy, "answer")]
        if steps:
            advice.append(Advice("records", ", or ".join(steps), text, 2))
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
        if probe.detectable is None:  # the spread of differences is not known yet, or from too few to be believed
            least = f"about {100 * detectable_difference(0.45, max(1, probe.test_questions)):.0f}"
        else:
            least = f"{100 * probe.detectable:.1f}"
        text = f"{counted(probe.test_questions, 'test question')} can show only differences of {least} points or more"
        advice.append(Advice("evaluation", "hold out more questions", text, 2))
    return advice


def _gap(high: float | None, low: float | None) -> float | None:
    return None if high is None or low is None else high - low

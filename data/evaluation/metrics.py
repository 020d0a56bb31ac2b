"""How good one answer is, and how good many are: exact match, F1, ROUGE-L, closed answers, citations, refusals.

Plain functions over strings. A figure that has no meaning for a case (the precision of no quotes) is None, never 0, so
that averages stay honest. Follows the official SQuAD 1.1 and HotpotQA scripts, for Chinese that of CMRC 2018; Japanese,
Korean and Thai are scored by characters, as JGLUE and KorQuAD do.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Any

from data.prompting.contract import CitedQuote
from data.text.alike import MARKS, alike
from data.text.normalisation import normalise
from data.text.unspaced import spaced_out

_CLOSED = ("yes", "no", "noanswer")
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_KANA = re.compile("[\u3041-\u30ff\uac00-\ud7a3]")  # or Hangul: the text is not Chinese

_NOT_LATIN = re.compile(r"[^\W\d_\u0000-\u024f\u1e00-\u1eff]")
_BETWEEN_WORDS = re.compile(rf"(?:[^\w{MARKS}]|_)+")


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if the prediction equals an accepted answer after normalisation, else 0.0."""
    return float(any(normalise(prediction) == normalise(answer) for answer in answers))


def contains_answer(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if an accepted answer stands in the prediction as whole words: fair to a model that answers in sentences."""
    padded = f" {normalise(prediction)} "
    return float(any(normalise(a) and f" {normalise(a)} " in padded for a in answers))


def token_f1(prediction: str, answers: Sequence[str], *, closed: bool = False) -> float:
    """Best token F1 over the accepted answers (SQuAD). `closed`: yes/no must match outright (HotpotQA).

    Tokens of scripts without spaces are their characters. For Chinese they count where they stand together, as in the
    evaluation of CMRC 2018 (arXiv 1810.07366); for Japanese and Korean in any order, as in JGLUE's and KorQuAD's.
    """
    return max((_f1(normalise(prediction), normalise(answer), closed) for answer in answers), default=0.0)


def _f1(prediction: str, answer: str, closed: bool) -> float:
    if closed and prediction != answer and (prediction in _CLOSED or answer in _CLOSED):
        return 0.0
    words, reference = prediction.split(), answer.split()
    if _HAN.search(answer) and not _KANA.search(answer):  # CMRC: the longest stretch that both have
        same = SequenceMatcher(None, words, reference, autojunk=False).find_longest_match().size
    else:
        same = sum((Counter(words) & Counter(reference)).values())
    return 2 * same / (len(words) + len(reference)) if same else 0.0


@lru_cache(maxsize=2)
def _rouge(latin: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=None if latin else _AnyWords())


class _AnyWords:
    """A tokenizer for rouge-score, whose own knows nothing but a to z: words, or the characters of a script."""

    def tokenize(self, text: str) -> list[str]:
        return spaced_out(_BETWEEN_WORDS.sub(" ", alike(text).lower())).split()


def rouge_l(prediction: str, answers: Sequence[str]) -> float:
    """Best ROUGE-L F-measure over the accepted answers (rouge-score, no stemming).

    With letters in either that are not Latin, tokens are words, or characters in scripts without spaces.
    """
    scores = []
    for answer in answers:
        scorer = _rouge(latin=not _NOT_LATIN.search(prediction + answer))
        scores.append(float(scorer.score(answer, prediction)["rougeL"].fmeasure))
    return max(scores, default=0.0)


def closed_label(final_answer: str, labels: Collection[str]) -> str | None:
    """The label that an answer begins with ("Yes, because ..." is `yes`), or the only one it holds; None if unclear."""
    words = normalise(final_answer).split()
    normal = {normalise(label): label for label in labels}
    if words and words[0] in normal:
        return normal[words[0]]
    matches = {w for w in words if w in normal}
    return normal[matches.pop()] if len(matches) == 1 else None


def classification_scores(predicted: Sequence[str | None], gold: Sequence[str]) -> dict[str, Any]:
    """Accuracy and macro-F1 over the gold labels; an unclear prediction (None) is wrong and counted in `unclear`."""
    labels = sorted(set(gold))
    per_label = {}
    for label in labels:
        hit = sum(p == label == g for p, g in zip(predicted, gold, strict=True))
        total = sum(p == label for p in predicted) + sum(g == label for g in gold)
        per_label[label] = 2 * hit / total if total else 0.0
    return {
        "n": len(gold),
        "accuracy": _mean([float(p == g) for p, g in zip(predicted, gold, strict=True)]),
        "macro_f1": _mean(list(per_label.values())),
        "f1": per_label,
        "majority": max(Counter(gold).values()) / len(gold) if gold else None,
        "unclear": sum(p is None for p in predicted),
    }


def supporting_fact_scores(predicted: Collection[Hashable], gold: Collection[Hashable]) -> dict[str, float]:
    """Exact match, precision, recall and F1 of a set of supporting facts, as HotpotQA's script computes them."""
    facts, gold_facts = set(predicted), set(gold)
    hit = len(facts & gold_facts)
    precision = hit / len(facts) if facts else 0.0
    recall = hit / len(gold_facts) if gold_facts else 0.0
    f1 = 2 * precision * recall / (precision + recall) if hit else 0.0
    return {"em": float(facts == gold_facts), "precision": precision, "recall": recall, "f1": f1}


def check_quotes(quotes: Sequence[CitedQuote], passages: Sequence[str], oracles: Collection[int]) -> list[dict]:
    """For each quote: passage (as cited), verbatim (in that passage), oracle (that passage is one), stands_in.

    `stands_in` is the first passage that holds it (the cited one before others), None where none does. White space and
    look-alike characters may differ (`data.text.alike`). A quote without a number is looked up in all passages; a
    number that no passage has is not verbatim. `oracles` are 1-based positions.
    """
    flat = [alike(p) for p in passages]
    rows = []
    for quote in quotes:
        text = alike(quote.text)
        places = [i for i, p in enumerate(flat, 1) if text and text in p]
        first = next(iter(places), None)
        number = quote.passage if quote.passage is not None else first
        row = {"passage": number, "text": quote.text, "verbatim": number in places, "oracle": number in set(oracles)}
        rows.append({**row, "stands_in": number if number in places else first})
    return rows


def citation_scores(
    quotes: Sequence[CitedQuote], passages: Sequence[str], oracles: Collection[int]
) -> dict[str, float | None]:
    """Scores the quotes of one answer against the passages it was shown.

    precision: share of the quotes that are verbatim in the cited passage where that passage is an oracle (None without
    quotes). recall: share of the oracles quoted in that way (None without an oracle shown). verbatim: share of the
    quotes that stand in the cited passage (None without quotes). supporting_f1: cited passages against oracles as sets.
    """
    rows = check_quotes(quotes, passages, oracles)
    right = [r for r in rows if r["verbatim"] and r["oracle"]]
    citations = {r["passage"] for r in rows if r["passage"] is not None}
    return {
        "precision": len(right) / len(rows) if rows else None,
        "recall": len({r["passage"] for r in right}) / len(set(oracles)) if oracles else None,
        "verbatim": sum(r["verbatim"] for r in rows) / len(rows) if rows else None,
        "supporting_f1": supporting_fact_scores(citations, oracles)["f1"] if oracles else None,
    }


def groundedness(final_answer: str, verbatim_quotes: Sequence[str]) -> float | None:
    """How far the final answer stands in its (verbatim) quotes: 1.0 as a phrase, else the share of its words.

    None for yes / no and for an empty answer, which no quote can hold; 0.0 for an answer without a verbatim quote.
    """
    answer = normalise(final_answer)
    words = answer.split()
    if not words or words[0] in ("yes", "no", "maybe"):
        return None
    texts = [normalise(q) for q in verbatim_quotes]
    if any(f" {answer} " in f" {text} " for text in texts):
        return 1.0
    pool = Counter(word for text in texts for word in text.split())
    return sum((Counter(words) & pool).values()) / len(words)


def refusal_scores(refused: Sequence[bool], should_refuse: Sequence[bool]) -> dict[str, Any]:
    """Precision, recall and F1 of refusing; None where nothing was refused or nothing should have been."""
    both = sum(r and s for r, s in zip(refused, should_refuse, strict=True))
    refusals, due = sum(refused), sum(should_refuse)
    precision = both / refusals if refusals else None
    recall = both / due if due else None
    f1 = 2 * both / (refusals + due) if refusals + due else None
    return {"n": len(refused), "refused": refusals, "due": due, "precision": precision, "recall": recall, "f1": f1}


def mean_defined(values: Sequence[float | None]) -> tuple[float | None, int]:
    """Mean over the values that are defined, and how many those are."""
    defined = [v for v in values if v is not None]
    return _mean(defined), len(defined)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None

"""What a set is measured by beside the metrics of every evaluation: Torch Hub by calls, SciFact by verdicts, the
Debian FAQ by ROUGE-L.

These are the rules of one published data set each (Gorilla's table of APIs and their domains, SciFact's three labels),
so they stand here and not among the metrics of the product. A row gets `measures`, and `gold`, the class that a
majority is counted over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.nouns import Record
from data.text.normalisation import normalise
from literature.api_calls import Api, called_api, calls_gold, calls_in, read_apis
from literature.corpora import read

NOT_ENOUGH = "not enough"
MAJORITY_OVER = ("ast_match", "accuracy")  # measures that always giving one answer does well by
Measure = Callable[[Record, Mapping[str, Any]], dict[str, Any]]
"""A question and its scored answer -> what is added to the row."""


def measure_of(name: str, corpus: Path) -> Measure | None:
    """What a set's rows get; None where the product's metrics say all."""
    if name == "apibench_torchhub":
        return _calls(read_apis(read(corpus)), [str(row["api_call"]) for row in read(corpus)])
    return {"scifact": _verdict, "debian_faq": _long_answer}.get(name)


def _calls(apis: Sequence[Api], texts: Sequence[str]) -> Measure:
    places = {text: place for place, text in enumerate(texts)}
    functions = {api.call.name for api in apis}

    def measure(record: Record, row: Mapping[str, Any]) -> dict[str, Any]:
        gold = apis[places[record.metadata["answers"][0]]]
        answer = "" if row["refused"] else row["final_answer"]
        place = called_api(answer, apis)
        measures = {
            "ast_match": float(place is not None and apis[place].domain == gold.domain),
            "gold_call": float(calls_gold(answer, gold)),
            "hallucinated": float(place is None and any(call.name in functions for call in calls_in(answer))),
        }
        return {"measures": measures, "gold": gold.domain}

    return measure


def _verdict(record: Record, row: Mapping[str, Any]) -> dict[str, Any]:
    gold = next(iter(record.metadata["answers"]), NOT_ENOUGH)
    return {"measures": {"accuracy": float(verdict(row["final_answer"], row["refused"]) == gold)}, "gold": gold}


def verdict(final_answer: str, refused: bool) -> str | None:
    """The label of an answer on a claim, in whichever form of the word; a refusal says that there is not enough."""
    if refused:
        return NOT_ENOUGH
    words = normalise(final_answer)
    if "not enough" in words or "insufficient" in words:
        return NOT_ENOUGH
    if re.search(r"\b(?:not|no|neither|nor)\b[^.]*\bsupport", words):
        return None  # what does not support may contradict, or say nothing
    labels = [label for word in words.split() for label in ("support", "contradict") if word.startswith(label)]
    if words.startswith(("support", "contradict")):  # "Support, although one group contradicts"
        return labels[0]
    return labels[0] if len(set(labels)) == 1 else None


def _long_answer(record: Record, row: Mapping[str, Any]) -> dict[str, Any]:
    score = row["metrics"]["rouge_l"]
    return {} if score is None else {"measures": {"rouge_l": score}}

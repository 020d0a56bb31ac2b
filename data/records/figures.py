"""What finished records show about themselves: shares, positions, lengths, quotes, origins, and leaks.

Reads the records alone and shares no code with what composed them, so it would notice if that code were wrong. The
data-set card is written from these figures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from data.nouns import Record
from data.records.split_sides import SPLITS, Splits
from data.statistics import chi_square_p
from data.text.alike import alike
from data.text.normalisation import is_telling, normalise


def find_leaks(by_split: Mapping[str, Sequence[Record]], splits: Splits) -> list[dict[str, str]]:
    """Every trace of a later split in an earlier one; there should be none.

    Looks for: a passage that belongs to a later split; a passage with the text of a later split's oracle, where that
    oracle's document was held out; the words of a question in two splits.
    """
    leaks = []
    held_out: dict[str, int] = {}  # flat text of an oracle -> the latest split that tests it unseen
    latest: dict[str, int] = {}
    for order, split in enumerate(SPLITS):
        for record in by_split.get(split, ()):
            words = _flat(record.metadata["question"])
            latest[words] = max(order, latest.get(words, 0))
            if record.metadata["documents"] != "seen":
                for row, text in passage_texts(record):
                    if row["role"] == "oracle":
                        held_out[_flat(text)] = order
    for order, split in enumerate(SPLITS):
        for record in by_split.get(split, ()):
            where = {"split": split, "record_id": record.metadata["record_id"]}
            if latest[_flat(record.metadata["question"])] > order:
                leaks.append({**where, "leak": "question", "what": record.metadata["question"]})
            for row, text in passage_texts(record):
                if SPLITS.index(splits.side(row["chunk_id"], row["document_id"])) > order:
                    leaks.append({**where, "leak": "document", "what": row["document_id"]})
                elif held_out.get(_flat(text), 0) > order:
                    leaks.append({**where, "leak": "oracle_text", "what": row["chunk_id"]})
    return leaks


def passage_texts(record: Record) -> list[tuple[Mapping[str, Any], str]]:
    """(metadata row, text) of each passage in shown order."""
    return [(row, record.input[row["start"] : row["end"]]) for row in record.metadata["passages"]]


def report_records(by_split: Mapping[str, Sequence[Record]]) -> dict[str, Any]:
    """Figures per split and overall; JSON values only.

    `oracle_position.p_value` tests that the first-named oracle of a record is equally likely in every place (chi-square
    over the numbers of passages that occur); above about 0.01 nothing speaks against it.
    """
    everything = [r for split in SPLITS for r in by_split.get(split, ())]
    return {
        "per_split": {s: _figures(by_split.get(s, ())) for s in SPLITS},
        "oracle_position": _positions(everything),
        "passages": _histogram(len(r.metadata["passages"]) for r in everything),
        "distractor_origin": _histogram(
            row["mined_by"] for r in everything for row in r.metadata["passages"] if row["role"] == "distractor"
        ),
        "quotes": _quotes(everything),
        "kinds": _histogram(r.metadata["kind"] for r in everything),
        "document_types": _histogram(r.metadata["document_type"] for r in everything),
        "origins": _histogram(r.metadata["origin"] for r in everything),
        "training_passages_beside_test_questions": _training_passages(by_split),
        "false_distractors": false_distractors(everything),
    }


def _figures(records: Sequence[Record]) -> dict[str, Any]:
    answerable = [r for r in records if r.metadata["oracle_ids"]]
    present = sum(r.metadata["oracle_present"] for r in answerable)
    return {
        "records": len(records),
        "answerable": len(answerable),
        "oracle_present": present,
        "p_oracle": round(present / len(answerable), 4) if answerable else 0.0,
        "refusals": sum(r.metadata["label"] == "refuse" for r in records),
        "bare_answers": sum(not r.metadata["oracle_present"] and r.metadata["label"] == "answer" for r in records),
        "seen_documents": sum(r.metadata["documents"] == "seen" for r in records),
        "documents": len({d for r in records for d in r.metadata["document_ids"]}),
        "tokens": spread([r.metadata["tokens"] for r in records]),
        "output_tokens": spread([r.metadata["output_tokens"] for r in records]),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Sum, mean, minimum, median, 90th percentile and maximum; zeros if there are no values."""
    if not values:
        return {"total": 0, "mean": 0.0, "min": 0, "p50": 0, "p90": 0, "max": 0}
    array = np.asarray(values, dtype=np.float64)
    low, half, ninety, high = np.percentile(array, [0, 50, 90, 100], method="inverted_cdf")
    mean = round(float(array.mean()), 2)
    return {
        "total": int(array.sum()),
        "mean": mean,
        "min": int(low),
        "p50": int(half),
        "p90": int(ninety),
        "max": int(high),
    }


def _positions(records: Sequence[Record]) -> dict[str, Any]:
    """Histogram of all oracle positions, and the test on the first-named oracle of each record."""
    most = max((len(r.metadata["passages"]) for r in records), default=0)
    observed, expected = np.zeros(most), np.zeros(most)
    histogram = Counter(p for r in records for p in r.metadata["oracle_positions"])
    for record in records:
        if record.metadata["oracle_positions"]:
            count = len(record.metadata["passages"])
            observed[record.metadata["oracle_positions"][0] - 1] += 1
            expected[:count] += 1 / count
    return {
        "histogram": {str(p): histogram[p] for p in range(1, most + 1)},
        "expected": {str(p): round(float(expected[p - 1]), 2) for p in range(1, most + 1)},
        "p_value": round(chi_square_p(observed, expected), 6),
    }


def _quotes(records: Sequence[Record]) -> dict[str, Any]:
    quotes = verbatim = answerless = 0
    lengths = []
    for record in records:
        texts = passage_texts(record)
        for quote in record.metadata["quotes"]:
            quotes += 1
            verbatim += quote["text"] in texts[quote["passage"] - 1][1]
            lengths.append(len(quote["text"]))
        answerless += record.metadata["oracle_present"] and not record.metadata["quotes"]
    return {
        "quotes": quotes,
        "verbatim": verbatim,
        "characters": spread(lengths),
        "records_with_oracle_but_no_quote": answerless,
    }


def false_distractors(records: Sequence[Record]) -> dict[str, Any]:
    """Records with a distractor that holds an accepted answer of four or more characters, among those that have one."""
    tested = hits = 0
    flat = lru_cache(maxsize=100_000)(normalise)
    for record in records:
        answers = [a for a in map(normalise, record.metadata["answers"]) if is_telling(a)]
        if not answers:
            continue
        tested += 1
        texts = [flat(text) for row, text in passage_texts(record) if row["role"] == "distractor"]
        hits += any(f" {a} " in f" {text} " for a in answers for text in texts)
    return {"tested": tested, "found": hits, "rate": round(hits / tested, 4) if tested else 0.0}


def _training_passages(by_split: Mapping[str, Sequence[Record]]) -> int:
    """Distractors of test records that training showed as well: allowed, since production shows them too."""
    in_training = {row["chunk_id"] for r in by_split.get("train", ()) for row in r.metadata["passages"]}
    rows = (row for r in by_split.get("test", ()) for row in r.metadata["passages"] if row["role"] == "distractor")
    return sum(row["chunk_id"] in in_training for row in rows)


def _histogram(values: Any) -> dict[str, int]:
    return {str(k): n for k, n in sorted(Counter(values).items())}


def _flat(text: str) -> str:
    return alike(text).casefold()

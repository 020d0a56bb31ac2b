"""The three parts of a set: development, on which every choice is made; test, asked once for a protocol; train.

What was reported before there were parts is development. The test part comes from what was trained on until then, and
the rest trains. Hashes of names decide, never a seed, so that no run can move a question from one part to another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from data.nouns import digest
from data.records.split_sides import unit_draw

Part = Literal["development", "test", "train"]

VERSION = 1
"""Of what is decided here; part of every protocol's digest."""

DEVELOPMENT_UNITS = {"squad": 14, "covidqa": 12, "apibench_torchhub": 39, "scifact": 165, "debian_faq": 4}
"""Articles, papers, APIs, groups of claims, chapters; elsewhere the questions reported so far."""
TEST_UNITS = {
    **{"squad": 14, "covidqa": 12, "apibench_torchhub": 39, "scifact": 165, "debian_faq": 4},
    **{"pubmedqa": 150, "hotpotqa": 60},
}
SAME_WORDS = 0.5  # of two claims (Jaccard): from here on one is the other, turned round or in other words


def parts_of(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Part]:
    """Part of each question by its id.

    Units (`units_of`) are ordered by a hash of their names. Where `DEVELOPMENT_UNITS` has a number, the first are
    development and the next (COVID-QA: the last) test. `retriever_adaptation.py` has read the first half of COVID-QA's
    papers, none of which is in its test part. Torch Hub: the official training questions train; they are about the
    same APIs as the others, as in the papers that report it.
    """
    unit = units_of(name, rows)
    if name in DEVELOPMENT_UNITS:
        exam = {unit[str(row["id"])] for row in rows if name != "apibench_torchhub" or row["split"] == "eval"}
        order = ordered(name, exam)
        development = set(order[: DEVELOPMENT_UNITS[name]])
        rest = order[DEVELOPMENT_UNITS[name] :]
        test = set(rest[-TEST_UNITS[name] :] if name == "covidqa" else rest[: TEST_UNITS[name]])
    else:
        development = {unit[str(row["id"])] for row in rows if reported(name, row)}
        test = set(ordered(name, set(unit.values()) - development)[: TEST_UNITS[name]])
    trains = {str(row["id"]) for row in rows if name == "apibench_torchhub" and row["split"] == "train"}
    return {
        key: "train" if key in trains else "development" if one in development else "test" if one in test else "train"
        for key, one in unit.items()
    }


def documents_of(rows: Sequence[Mapping[str, Any]], parts: Mapping[str, Part]) -> dict[str, Part]:
    """Part of each unit of documents that a question names; one that both sides name is not for training."""
    order: tuple[Part, ...] = ("train", "development", "test")
    units: dict[str, Part] = {}
    for row in rows:
        part = parts[str(row["id"])]
        for document in row["gold_doc_ids"]:
            unit = unit_of(document)
            units[unit] = max(units.get(unit, part), part, key=order.index)
    return units


def reported(name: str, row: Mapping[str, Any]) -> bool:
    """Whether figures on this question were reported, and variants compared, before there were parts."""
    return bool(row["split"] == "test") if name == "pubmedqa" else bool(row["source"] == "amor_test_fullwiki")


def units_of(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Question id -> what is placed as a whole: the article, paper, API or chapter of a question; of SciFact the
    claims that share an abstract or most of their words; elsewhere the question."""
    if name == "scifact":
        return _claim_groups(rows)
    by_document = name in DEVELOPMENT_UNITS
    return {str(row["id"]): unit_of(row["gold_doc_ids"][0]) if by_document else str(row["id"]) for row in rows}


def _claim_groups(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Claim id -> the smallest id of its group. Many claims are another one turned round, and a claim without evidence
    names no abstract, so words tie it to its like."""
    parent = {str(row["id"]): str(row["id"]) for row in rows}

    def root(key: str) -> str:
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    first: dict[str, str] = {}
    earlier: list[tuple[str, frozenset[str]]] = []
    for row in rows:
        key, words = str(row["id"]), frozenset(re.findall(r"\w+", str(row["question"]).lower()))
        alike = [k for k, w in earlier if len(words & w) >= SAME_WORDS * len(words | w)]
        for other in [*alike, *(first.setdefault(document, key) for document in row["gold_doc_ids"])]:
            low, high = sorted((root(key), root(other)))
            parent[high] = low
        earlier.append((key, words))
    return {key: root(key) for key in parent}


def unit_of(source: str) -> str:
    """The article of a SQuAD paragraph (`Article#3`); elsewhere the document itself."""
    return source.split("#")[0]


def ordered(name: str, units: Iterable[str]) -> list[str]:
    """Units by a hash of their names: SQuAD's as its articles were drawn until now, COVID-QA's as its halves were."""
    if name == "covidqa":
        return sorted(units, key=lambda unit: unit_draw(0, unit))
    kind = ("article", "0") if name == "squad" else ("part",)
    return sorted(units, key=lambda unit: digest(*kind, unit))

"""The three parts of a set: development, on which every choice is made; test, asked once for a protocol; train.

What was reported before there were parts is development. The test part comes from what was trained on until then, and
the rest trains. Hashes of names decide, never a seed, so that no run can move a question from one part to another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from data.nouns import digest
from data.records.split_sides import unit_draw

Part = Literal["development", "test", "train"]

VERSION = 1
"""Of what is decided here; part of every protocol's digest."""

DEVELOPMENT_UNITS = {"squad": 14, "covidqa": 12, "debian": 6}
"""Articles, papers, chapters; elsewhere the questions reported so far."""
TEST_UNITS = {"squad": 14, "covidqa": 12, "pubmedqa": 150, "hotpotqa": 60, "debian": 0}


def parts_of(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Part]:
    """Part of each question by its id.

    Units (SQuAD's articles, COVID-QA's papers, the chapters of the Debian FAQ, questions of the others) are ordered by
    a hash of their names. SQuAD and COVID-QA: the first are development, the next (COVID-QA: the last) test; the FAQ is
    too small to have a test part. `retriever_adaptation.py` has read the first half of COVID-QA's papers, none of which
    is in its test part.
    """
    unit = {str(row["id"]): unit_name(name, row) for row in rows}
    if name in DEVELOPMENT_UNITS:
        order = ordered(name, set(unit.values()))
        development = set(order[: DEVELOPMENT_UNITS[name]])
        rest = order[DEVELOPMENT_UNITS[name] :]
        test = set(rest[-TEST_UNITS[name] :] if name == "covidqa" else rest[: TEST_UNITS[name]])
    else:
        development = {unit_name(name, row) for row in rows if reported(name, row)}
        test = set(ordered(name, set(unit.values()) - development)[: TEST_UNITS[name]])
    return {
        key: "development" if one in development else "test" if one in test else "train" for key, one in unit.items()
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


def unit_name(name: str, row: Mapping[str, Any]) -> str:
    """What is placed as a whole: the article or paper of a question, elsewhere the question."""
    return unit_of(row["gold_doc_ids"][0]) if name in DEVELOPMENT_UNITS else str(row["id"])


def unit_of(source: str) -> str:
    """The article of a SQuAD paragraph (`Article#3`); elsewhere the document itself."""
    return source.split("#")[0]


def ordered(name: str, units: Iterable[str]) -> list[str]:
    """Units by a hash of their names: SQuAD's as its articles were drawn until now, COVID-QA's as its halves were."""
    if name == "covidqa":
        return sorted(units, key=lambda unit: unit_draw(0, unit))
    kind = ("article", "0") if name == "squad" else ("part",)
    return sorted(units, key=lambda unit: digest(*kind, unit))

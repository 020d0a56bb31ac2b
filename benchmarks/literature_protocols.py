"""The protocols of `raft_literature.py`: what each set is trained and tested on, and how one is varied."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.nouns import digest

RIVAL_FIELDS = ("epochs", "learning_rate", "rank", "shuffled", "trainer")  # that leave records and prompts as they are
TRAINERS = {"jora": "jora_engine.training.job", "peft": "peft_reference"}
TEST_ARTICLES = 14  # of SQuAD's 48; the other 34 are trained on


@dataclass(frozen=True)
class Protocol:
    """How one set is run; `--vary` changes a field.

    Attributes:
        folder, corpus: where the set lies under the shared data.
        train, test: questions taken, drawn by hash from each side; test None = all of the official test.
        passages: retrieved for each test question, and shown in a training record (oracles included).
        min_distractors: where given, a training record shows so many distractors or more, drawn by hash.
        max_tokens: of a training record; distractors are dropped until it fits.
        row_tokens: length of a row of packed records.
        reasoning: records reason as the data set's long answers do (PubMedQA) before they answer.
        p_oracle: share of the records that show their oracle; None = as often as the retriever finds it.
        order: of the passages in a training record (`RecordOptions.order`).
        trainer: `jora`, or `peft` for transformers + PEFT (`peft_reference.py`).
        copy_quotes: base and adapter can only quote words of a passage (`data.prompting.copying`).
        shuffled: train on the outputs of other records: a regression planted to see whether it is called one.
    """

    folder: str
    corpus: str
    train: int
    test: int | None
    passages: int
    max_tokens: int
    row_tokens: int
    min_distractors: int | None = None
    order: str = "hashed"
    reasoning: bool = True
    epochs: int = 1
    learning_rate: float = 2e-3
    rank: int = 16
    p_oracle: float | None = None
    absent: str = "refuse"
    template: str = "numbered"
    max_new_tokens: int = 128
    copy_quotes: bool = False
    mode: str = "hybrid"
    trainer: str = "jora"
    shuffled: bool = False
    seed: int = 0


PROTOCOLS = {
    "squad": Protocol(
        *("squad_v1_dev", "corpus.jsonl", 3000, 300),
        passages=4,
        max_tokens=640,
        row_tokens=1280,
        min_distractors=0,
        order="retrieved",
    ),
    "pubmedqa": Protocol(
        *("pubmedqa", "corpus.jsonl", 500, None),
        passages=1,
        max_tokens=1024,
        row_tokens=1024,
        max_new_tokens=160,
        reasoning=False,
        template="direct",
        epochs=4,
        learning_rate=1e-3,
    ),
    "hotpotqa": Protocol(
        *("hotpotqa", "corpus.jsonl.gz", 200, None),
        passages=5,
        max_tokens=800,
        row_tokens=1600,
        order="retrieved",
    ),
}


def varied(protocol: Protocol, changes: Sequence[str]) -> Protocol:
    """The protocol with `field=value` changes; a value is read as JSON where it is JSON."""
    fields = {f.name for f in dataclasses.fields(protocol)}
    for change in changes:
        name, _, text = change.partition("=")
        if name not in fields:
            raise SystemExit(f"--vary {change}: no such field; one of {', '.join(sorted(fields))}")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        protocol = dataclasses.replace(protocol, **{name: value})
    if protocol.trainer not in TRAINERS:
        raise SystemExit(f"trainer={protocol.trainer}: no such trainer; one of {', '.join(TRAINERS)}")
    return protocol


def draw(name: str, protocol: Protocol, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Question rows of each side: articles for SQuAD, the official split for the others; drawn by hash."""
    articles = {unit_of(row["gold_doc_ids"][0]) for row in rows}
    held_out = sorted(articles, key=lambda a: digest("article", str(protocol.seed), a))[:TEST_ARTICLES]

    def side(row: Mapping[str, Any]) -> str:
        if name == "pubmedqa":
            return str(row["split"])
        if name == "hotpotqa":
            return "test" if row["source"] == "amor_test_fullwiki" else "train"
        return "test" if unit_of(row["gold_doc_ids"][0]) in held_out else "train"

    order = sorted(rows, key=lambda row: digest("draw", str(protocol.seed), str(row["id"])))
    sides = {s: [row for row in order if side(row) == s] for s in ("train", "test")}
    spare = (protocol.test or len(sides["test"])) + 20  # some cannot be placed
    return {"train": sides["train"][: protocol.train], "test": sides["test"][:spare]}


def unit_of(source: str) -> str:
    """The article of a SQuAD paragraph (`Article#3`); elsewhere the document itself."""
    return source.split("#")[0]

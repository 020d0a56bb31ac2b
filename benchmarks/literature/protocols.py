"""The protocols of `raft_literature.py`: what each set is trained and tested on, and how one is varied."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.nouns import digest
from literature import parts
from retrieval.mode import Mode

BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
RIVAL_FIELDS = ("epochs", "learning_rate", "rank", "shuffled", "trainer")  # that leave records and prompts as they are
TRAINERS = {"jora": "jora_engine.training.job", "peft": "peft_reference"}
LATER = ("quote_weight", "distractors", "wording", "known_documents", "rerank", "adapt")
"""Fields that came after the first rows: at their defaults they leave a protocol's digest as it was."""
ADAPTABLE = ("embedder", "reranker")


@dataclass(frozen=True)
class Protocol:
    """How one set is run; `--vary` changes a field.

    Attributes:
        folder, corpus: where the set lies under the shared data.
        train: questions of the part that trains, drawn by hash.
        test: questions of the part that is asked, drawn by hash; None = all of them.
        refusal: questions whose oracle is taken away to see whether a refusal follows, and as many whose is left.
        passages: retrieved for each test question, and shown in a training record (oracles included).
        min_distractors: where given, a training record shows so many distractors or more, drawn by hash.
        max_tokens: of a training record; distractors are dropped until it fits.
        row_tokens: length of a row of packed records.
        reasoning: records reason as the data set's long answers do (PubMedQA) before they answer.
        p_oracle: share of the records that show their oracle; None = as often as the retriever finds it.
        order: of the passages in a training record (`RecordOptions.order`).
        trainer: `jora`, or `peft` for transformers + PEFT (`peft_reference.py`).
        copy_quotes: base and adapter can only quote words of a passage (`data.prompting.copying`).
        quote_weight: of the search in the choice of what is copied, by rank (`ask.quote_weight`).
        chunk_tokens: documents are cut to chunks of so many tokens of the embedder; None = each is one passage.
        distractors: of a training record at most; None = as many as leave room for the oracles among `passages`.
        wording: how a question is asked of models, `{}` being its own words; the search gets these alone.
        known_documents: training shows every document, as in the papers on APIBench: its questions are held out, and
            not what they are about.
        rerank: a cross-encoder orders the first hits, for records and questions alike (`retrieval.rerank`).
        adapt: `embedder`, `reranker` or both with a comma between: fitted to the training part by the stage `adapt`.
        shuffled: train on the outputs of other records: a regression planted to see whether it is called one.
        base: the model that is adapted; a folder goes by its name.
        seed: of every draw but that of the parts.
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
    quote_weight: float = 0.0
    mode: Mode = "hybrid"
    chunk_tokens: int | None = None
    refusal: int = 150
    trainer: str = "jora"
    shuffled: bool = False
    distractors: int | None = None
    wording: str = "{}"
    known_documents: bool = False
    rerank: bool = False
    adapt: str = ""
    base: str = BASE
    seed: int = 0

    def digest_for(self, name: str, arm: str) -> str:
        """What tells this protocol from others for one arm of a set; the same for every seed."""
        fields = dataclasses.asdict(self) | {"seed": None, "refusal": None}
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for field in LATER:  # as in rows that are older than the field
            if fields[field] == defaults[field]:
                del fields[field]
        return digest(json.dumps([name, arm, parts.VERSION, fields], sort_keys=True))


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
    "covidqa": Protocol(
        *("covidqa_half", "corpus.jsonl", 600, None),
        passages=4,
        max_tokens=960,
        row_tokens=1920,
        min_distractors=0,
        order="retrieved",
        epochs=2,
        chunk_tokens=128,
    ),
    "apibench_torchhub": Protocol(
        *("apibench_torchhub", "corpus.jsonl", 837, None),
        passages=3,
        max_tokens=2048,
        row_tokens=2048,
        min_distractors=0,
        order="retrieved",
        absent="answer",
        template="direct",
        epochs=2,
        known_documents=True,
    ),
    "scifact": Protocol(
        *("scifact", "corpus.jsonl.gz", 600, None),
        passages=3,
        distractors=2,
        max_tokens=1600,
        row_tokens=1600,
        min_distractors=0,
        order="retrieved",
        template="direct",
        epochs=2,
        wording="Do the passages support or contradict this claim? Answer support or contradict. Claim: {}",
    ),
    "debian_faq": Protocol(
        *("debian_faq", "html", 80, None),
        passages=4,
        distractors=3,
        max_tokens=960,
        row_tokens=1920,
        min_distractors=0,
        order="retrieved",
        epochs=2,
        chunk_tokens=128,
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
    if unfit := [role for role in protocol.adapt.split(",") if role and role not in ADAPTABLE]:
        raise SystemExit(f"adapt={protocol.adapt}: {unfit[0]} is none of {', '.join(ADAPTABLE)}")
    if "reranker" in protocol.adapt.split(",") and not protocol.rerank:
        raise SystemExit("adapt=reranker: there is none to adapt without rerank=true")
    return protocol


def draw(
    protocol: Protocol, rows: Sequence[Mapping[str, Any]], part_of: Mapping[str, parts.Part], part: parts.Part
) -> dict[str, list[Mapping[str, Any]]]:
    """Question rows that are trained on, and of the part that is asked, each drawn by hash; `unplaced` are those of
    other parts that name no document, as the search gives them one that is then not for training."""
    order = sorted(rows, key=lambda row: digest("draw", str(protocol.seed), str(row["id"])))
    train = [row for row in order if part_of[str(row["id"])] == "train"]
    drawn = [row for row in order if part_of[str(row["id"])] == part]
    spare = (protocol.test or len(drawn)) + 20  # some cannot be placed
    test = drawn[:spare]
    asked = {str(row["id"]) for row in test}
    unplaced = [
        row
        for row in order
        if not row["gold_doc_ids"] and part_of[str(row["id"])] != "train" and str(row["id"]) not in asked
    ]
    return {"train": train[: protocol.train], "test": test, "unplaced": unplaced}

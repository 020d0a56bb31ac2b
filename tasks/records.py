"""Stage `records`: questions into RAFT records with mined distractors, split by document before anything else."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Literal

from data.nouns import Question, Record, read_jsonl, write_jsonl
from tasks.models import ModelFiles
from tasks.retriever import SEARCH_PACKAGES, RetrievalConfig, open_retriever
from tasks.section import Section, setting
from tasks.stage import Bench, Outcome, Stage, balanced
from tasks.store import Manifest, write_json


class RecordsConfig(Section):
    """How records are composed and split."""

    distractors: int = setting(3, "Distractor passages beside the oracle", unit="passages", ge=0, le=50)
    p_oracle: float = setting(0.8, "Share of answerable questions whose oracle is shown", ge=0, le=1)
    absent: Literal["answer", "refuse", "mix"] = setting("refuse", "What a record without oracle teaches")
    refuse_share: float = setting(0.5, "Under mix: share of the records without oracle that refuse", ge=0, le=1)
    max_tokens: int = setting(
        1024, "Ceiling for instruction, passages and output; an oracle is never cut", unit="tokens", ge=64, le=131072
    )
    overhead_tokens: int = setting(16, "What the chat template adds", unit="tokens", ge=0, le=4096)
    seen_test: float = setting(
        0.0, "Share of training passages whose questions go to the test, to tell memory from reading", ge=0, le=0.5
    )
    template: str = setting(
        "raft", "Prompt template: raft, numbered, or a folder of your own", path="or name", result="content"
    )
    validation: float = setting(0.1, "Share of the documents for validation", ge=0, lt=1)
    test: float = setting(0.2, "Share of the documents for the test", ge=0, lt=1)
    near_duplicate: float = setting(0.8, "Texts this alike (Jaccard of word 5-grams) stay in one split", gt=0, le=1)
    arrangements: int = setting(
        1, "Training records a question gives, each with its passages in another order", unit="records", ge=1, le=16
    )
    random_share: float = setting(0.2, "Share of the distractors drawn at random instead of mined", ge=0, le=1)
    first_rank: int = setting(1, "First rank from which distractors are mined", ge=1, le=1000)
    last_rank: int = setting(50, "Last rank from which distractors are mined", ge=1, le=10000)


def build(
    bench: Bench,
    config: RecordsConfig,
    questions: Manifest,
    chunk: Manifest,
    index: Manifest,
    embedder: ModelFiles,
    base: ModelFiles,
    retrieval: RetrievalConfig,
) -> Outcome:
    """Writes train.jsonl, validation.jsonl, test.jsonl, dropped.jsonl, contract.json, card.json and card.md."""
    from data.card import write_card
    from data.prompting import load_template, prompt_contract
    from data.records import RecordOptions, compose_records
    from data.splits import SplitOptions, split_by_document
    from jora_engine.tokenizer import Tokenizer
    from retrieval.mining import MiningOptions, mine_distractors

    asked = list(read_jsonl(questions.path("questions.jsonl"), Question))
    retriever = open_retriever(retrieval, index, chunk, embedder)
    chunks = list(retriever.chunks.values())
    tokenizer = Tokenizer.load(base.folder)
    shares = SplitOptions(validation=config.validation, test=config.test, near_duplicate=config.near_duplicate)
    splits = split_by_document(chunks, asked, options=shares, seed=bench.seed)
    refused: Counter[str] = Counter()
    mined = mine_distractors(
        asked,
        chunks,
        retriever.search,
        # twice as many as are shown: those of held-out documents may not stand in training records
        count=2 * config.distractors,
        seed=bench.seed,
        options=MiningOptions(
            first_rank=config.first_rank, last_rank=config.last_rank, random_share=config.random_share
        ),
        counts=refused,
        progress=bench.progress,
    )
    template = load_template(config.template)
    options = {f.name: getattr(config, f.name) for f in dataclasses.fields(RecordOptions)}
    made = compose_records(
        asked,
        chunks,
        mined,
        options=RecordOptions(**options),
        count_tokens=lambda text: len(tokenizer.encode(text, add_special_tokens=False)),
        seed=bench.seed,
        splits=splits,
        template=template,
        progress=bench.progress,
    )
    by_split: dict[str, list[Record]] = {"train": made.train, "validation": made.validation, "test": made.test}
    total = sum(len(rows) for rows in by_split.values())
    balanced("records", len(asked), total - made.report["extra_arrangements"], len(made.dropped))
    for split, rows in by_split.items():
        write_jsonl(bench.out / f"{split}.jsonl", rows)
    write_jsonl(bench.out / "dropped.jsonl", [dataclasses.asdict(row) for row in made.dropped])
    contract = prompt_contract(template, passages=config.distractors + 1, may_refuse=made.report["may_refuse"])
    write_json(bench.out / "contract.json", contract)
    write_card(bench.out, {**made.report, "mining": dict(sorted(refused.items()))}, title="RAFT records")
    counts = {split: len(rows) for split, rows in by_split.items()}
    parts = " + ".join(f"{n} {split}" for split, n in counts.items())
    return Outcome(
        f"{len(asked)} questions = {parts} + {len(made.dropped)} dropped",
        {"questions": len(asked), **counts, "dropped": len(made.dropped), "records": made.report},
    )


STAGE = Stage(
    "records",
    RecordsConfig,
    build,
    inputs=("questions", "chunk", "index"),
    models=("embedder", "base"),
    shared=("retrieval",),
    seeded=True,
    modules=("tasks.retriever",),
    packages=(*SEARCH_PACKAGES, "rapidfuzz", "datasketch", "tokenizers"),
)

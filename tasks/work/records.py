"""The work of `records`: questions into RAFT records with mined distractors, split by document first of all."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.memo import Memo
from data.nouns import ItemCache, Question, Record, read_jsonl, write_jsonl
from data.records.token_check import TokenCheck, check_tokens
from tasks.runtime.folders import ModelFolder, StageFiles, read_json, write_json
from tasks.runtime.retriever import open_retriever
from tasks.work.bench import Bench, Outcome, balanced

if TYPE_CHECKING:
    from jora_engine.files.tokenizer import Tokenizer
    from tasks.records import RecordsConfig
    from tasks.retrieval import RetrievalConfig

SPARE_TOKENS = 8  # where template and text meet, a tokenizer may cut otherwise than in either alone


def build(
    bench: Bench,
    config: RecordsConfig,
    questions: StageFiles,
    chunk: StageFiles,
    index: StageFiles,
    embedder: ModelFolder,
    base: ModelFolder,
    retrieval: RetrievalConfig,
) -> Outcome:
    """Writes the records of each split in Alpaca and other forms, contract.json, splits.json, the card, the preflight.

    Raises:
        BadInput: a record's label would not be trained on as it is (`data.records.token_check`).
    """
    from data.prompting.contract import load_template
    from data.records.compose import RecordOptions, compose_records, measured_p
    from data.records.formats import write_records
    from data.records.splits import Frozen, SplitOptions, split_by_document
    from data.reports.data_card import write_data_card
    from jora_engine.files.tokenizer import Tokenizer
    from retrieval.mining import MiningOptions, mine_distractors

    asked = list(read_jsonl(questions.path("questions.jsonl"), Question))
    retriever = open_retriever(retrieval, index, chunk, embedder, queries=bench.cache)
    chunks = list(retriever.chunks.values())
    tokenizer = Tokenizer.load(base.folder, **base.chat)
    shares = SplitOptions(validation=config.validation, test=config.test, near_duplicate=config.near_duplicate)
    frozen = Frozen.read(Path(config.frozen_splits)) if config.frozen_splits else None
    splits = split_by_document(chunks, asked, options=shares, seed=bench.seed, previous=frozen, cache=bench.cache)
    refused: Counter[str] = Counter()
    mined = mine_distractors(
        asked,
        chunks,
        retriever.search,
        # twice as many as are shown: those of held-out documents may not stand in training records
        count=2 * config.distractors,
        seed=bench.seed,
        options=MiningOptions(
            first_rank=config.first_rank,
            last_rank=config.last_rank,
            random_share=config.random_share,
            relative_margin=config.relative_margin,
        ),
        counts=refused,
        progress=bench.progress,
    )
    template = load_template(config.template)
    options = {f.name: getattr(config, f.name) for f in dataclasses.fields(RecordOptions)}
    if config.p_oracle == "measured":
        options["p_oracle"] = measured_p(asked, passages=config.distractors + 1)
    if config.overhead_tokens is None:
        options["overhead_tokens"] = template_overhead(tokenizer)
    tokens = Memo(bench.cache, f"tokens-2 {base.digest}", lambda text: len(tokenizer.encode_plain(text)))
    made = compose_records(
        asked,
        chunks,
        mined,
        options=RecordOptions(**options),
        count_tokens=tokens,
        seed=bench.seed,
        splits=splits,
        template=template,
        progress=bench.progress,
    )
    by_split: dict[str, list[Record]] = {"train": made.train, "validation": made.validation, "test": made.test}
    total = sum(len(rows) for rows in by_split.values())
    balanced("records", len(asked), total - made.report["extra_arrangements"], len(made.dropped))
    tokens.save()
    seen = look(made.train + made.validation, tokenizer, config.max_tokens, cache=bench.cache, model=base.digest)
    (bench.out / "preflight.txt").write_text("\n\n".join(seen.samples) + "\n", encoding="utf-8")
    write_json(bench.out / "preflight.json", {"figures": seen.figures, "faults": seen.faults})
    seen.check()
    for split in by_split:
        (bench.out / f"{split}.jsonl").touch()  # the trainer asks for each, be it empty
    write_records(bench.out, by_split, formats=("alpaca", *config.formats))
    splits.frozen().write(bench.out / "splits.json")
    write_jsonl(bench.out / "dropped.jsonl", [dataclasses.asdict(row) for row in made.dropped])
    contract = contract_of(config, may_refuse=made.report["may_refuse"])
    if base.chat:
        contract["chat_template"] = tokenizer.chat_contract()
    if tokenizer.template_date:
        contract["template_date"] = tokenizer.template_date
    write_json(bench.out / "contract.json", contract)
    write_data_card(
        bench.out,
        {**made.report, "mining": dict(sorted(refused.items())), "preflight": seen.figures},
        title="RAFT records",
        extra=_told(read_json(questions.path("report.json")), seen),
        samples=_examples(made.train),
    )
    counts = {split: len(rows) for split, rows in by_split.items()}
    parts = " + ".join(f"{n} {split}" for split, n in counts.items())
    return Outcome(
        f"{len(asked)} questions = {parts} + {len(made.dropped)} dropped{_further(made.report)}; "
        f"{seen.figures['trained_share']:.0%} of the tokens are trained",
        {
            "questions": len(asked),
            **counts,
            "dropped": len(made.dropped),
            "records": made.report,
            "preflight": seen.figures,
        },
    )


def contract_of(config: RecordsConfig, *, may_refuse: bool | None = None) -> dict[str, Any]:
    """How this configuration's records ask; `may_refuse` as composing found it, None = as `absent` alone says."""
    from data.prompting.contract import load_template, prompt_contract

    refuses = config.absent != "answer" if may_refuse is None else may_refuse
    return prompt_contract(load_template(config.template), passages=config.distractors + 1, may_refuse=refuses)


def template_overhead(tokenizer: Tokenizer) -> int:
    """Tokens that chat template and end token add to a record, measured on a probe, with a few to spare."""
    probe = "A probe."
    prompt, completion = tokenizer.encode_example([{"role": "user", "content": probe}], probe)
    return len(prompt) + len(completion) - 2 * len(tokenizer.encode(probe, add_special_tokens=False)) + SPARE_TOKENS


def look(
    records: list[Record],
    tokenizer: Tokenizer,
    max_tokens: int,
    samples: int = 3,
    *,
    cache: ItemCache | None = None,
    model: str = "",
) -> TokenCheck:
    """The preflight of records as the trainer tokenises them.

    Args:
        cache: keeps what was found of each record.
        model: digest of the model that the tokenizer belongs to.
    """
    from data.prompting.contract import to_messages

    def tokenise(record: Record) -> tuple[list[int], list[bool]]:
        prompt, completion = tokenizer.encode_example(to_messages(record), record.output)
        return [*prompt, *completion], [False] * len(prompt) + [True] * len(completion)

    return check_tokens(
        records,
        tokenise,
        tokenizer.decode,
        end_ids=tokenizer.eos_ids,
        max_tokens=max_tokens,
        samples=samples,
        cache=cache,
        tokenizer=f"{model} plain-1",  # the name of how users' words are tokenised
    )


def _examples(train: list[Record]) -> list[Record]:
    """Three records to look at: two that answer from their oracle and one that does not, where there are such."""
    shown = [r for r in train if r.metadata["oracle_present"]]
    hidden = [r for r in train if not r.metadata["oracle_present"]]
    return [*shown[: 3 - len(hidden[:1])], *hidden[:1]]


def _told(report: dict[str, Any], seen: TokenCheck) -> dict[str, Any]:
    """What the card says of the questions and of the tokens that are trained."""
    told: dict[str, Any] = {"Questions asked or read": f"{report['asked']}, of which {report['kept']} kept"}
    if report["dropped"]:
        told["Questions dropped before"] = ", ".join(f"{reason}: {n}" for reason, n in report["dropped"].items())
    if report.get("tokens"):
        told["Teacher"] = f"{report['tokens']['prompt']} tokens read, {report['tokens']['completion']} written"
    figures = seen.figures
    share = f"{figures['trained_tokens']} of {figures['tokens']} ({figures['trained_share']:.1%})"
    return {**told, "Tokens that are trained": share}


def _further(report: dict[str, Any]) -> str:
    extra = report["extra_arrangements"]
    return f" ({extra} of them further arrangements)" if extra else ""

"""The work of `records`: questions into RAFT records with mined distractors, split by document first of all."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.memo import Memo
from data.nouns import Chunk, ItemCache, Question, Record, read_jsonl, write_jsonl
from data.records.token_check import TokenCheck, check_tokens
from data.text.counts import counted
from tasks.runtime.folders import ModelFolder, StageFiles, read_json, write_json
from tasks.runtime.retriever import open_retriever, rerank_figures
from tasks.runtime.sides import split_corpus
from tasks.work.bench import Bench, Outcome, balanced

if TYPE_CHECKING:
    from data.prompting.contract import PromptTemplate
    from data.records.compose import RecordSet
    from data.records.split_sides import Splits
    from jora_engine.files.tokenizer import Tokenizer
    from retrieval.search import Retriever
    from tasks.records import RecordsConfig
    from tasks.retrieval import RetrievalConfig

SPARE_TOKENS = 8  # where template and text meet, a tokenizer may cut differently than in either alone


def build(
    bench: Bench,
    config: RecordsConfig,
    questions: StageFiles,
    chunk: StageFiles,
    index: StageFiles,
    adapt: StageFiles | None = None,
    *,
    embedder: ModelFolder,
    base: ModelFolder,
    retrieval: RetrievalConfig,
    reranker: ModelFolder | None = None,
) -> Outcome:
    """Writes the records of each split in Alpaca and other forms, contract.json, splits.json, the card, the preflight.

    Raises:
        BadInput: a record's label would not be trained on as it stands (`data.records.token_check`).
    """
    from data.reports.data_card import write_data_card
    from jora_engine.files.tokenizer import Tokenizer

    rows = list(read_jsonl(questions.path("questions.jsonl"), Question))
    retriever = open_retriever(
        retrieval,
        index,
        chunk,
        {"embedder": embedder, "reranker": reranker},
        adapt=adapt,
        queries=bench.cache,
    )
    tokenizer = Tokenizer.load(base.folder, **base.chat)
    splits = split_corpus(rows, list(retriever.chunks.values()), config, bench.seed, bench.cache)
    mining: Counter[str] = Counter()
    record_set = _compose(rows, retriever, splits, config, tokenizer, base, bench, mining)
    both = record_set.train + record_set.validation
    check = check_training_tokens(both, tokenizer, config.max_tokens, cache=bench.cache, model=base.digest)
    (bench.out / "preflight.txt").write_text("\n\n".join(check.samples) + "\n", encoding="utf-8")
    write_json(bench.out / "preflight.json", {"figures": check.figures, "faults": check.faults})
    check.check()
    contract = {
        **contract_of(config, retriever.chunks.values(), may_refuse=record_set.report["may_refuse"]),
        **({"chat_template": tokenizer.chat_contract()} if base.chat else {}),
        **({"template_date": tokenizer.template_date} if tokenizer.template_date else {}),
    }
    _write(record_set, splits, config, contract, bench.out)
    write_data_card(
        bench.out,
        {**record_set.report, "mining": dict(sorted(mining.items())), "preflight": check.figures},
        title="RAFT records",
        extra=_origin(read_json(questions.path("report.json")), check),
        samples=_examples(record_set.train),
    )
    return _outcome(len(rows), record_set, check, rerank_figures(retriever))


def _compose(
    rows: list[Question],
    retriever: Retriever,
    splits: Splits,
    config: RecordsConfig,
    tokenizer: Tokenizer,
    base: ModelFolder,
    bench: Bench,
    mining: Counter[str],
) -> RecordSet:
    """The records of all splits, with distractors from the retriever; `mining` counts the candidates."""
    from data.records.compose import RecordOptions, compose_records, measured_p
    from retrieval.mining import MiningOptions, mine_distractors

    chunks = list(retriever.chunks.values())
    distractors = mine_distractors(
        rows,
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
        counts=mining,
        progress=bench.progress,
    )
    options = {f.name: getattr(config, f.name) for f in dataclasses.fields(RecordOptions)}
    if config.p_oracle == "measured":
        options["p_oracle"] = measured_p(rows, passages=config.distractors + 1)
    if config.overhead_tokens is None:
        options["overhead_tokens"] = template_overhead(tokenizer)
    count_tokens = Memo(bench.cache, f"tokens-2 {base.digest}", lambda text: len(tokenizer.encode_plain(text)))
    record_set = compose_records(
        rows,
        chunks,
        distractors,
        options=RecordOptions(**options),
        count_tokens=count_tokens,
        seed=bench.seed,
        splits=splits,
        template=template_of(config, chunks),
        progress=bench.progress,
    )
    count_tokens.save()
    records = sum(record_set.report["records"].values()) - record_set.report["extra_arrangements"]
    balanced("records", len(rows), records, len(record_set.dropped))
    return record_set


def _write(
    record_set: RecordSet,
    splits: Splits,
    config: RecordsConfig,
    contract: dict[str, Any],
    folder: Path,
) -> None:
    from data.records.formats import write_records

    by_split = {"train": record_set.train, "validation": record_set.validation, "test": record_set.test}
    for split in by_split:
        (folder / f"{split}.jsonl").touch()  # the trainer expects all three files, even if one is empty
    write_records(folder, by_split, formats=("alpaca", *config.formats))
    splits.frozen().write(folder / "splits.json")
    write_jsonl(folder / "dropped.jsonl", [dataclasses.asdict(row) for row in record_set.dropped])
    write_json(folder / "contract.json", contract)


def _outcome(questions: int, record_set: RecordSet, check: TokenCheck, rerank: dict[str, Any]) -> Outcome:
    report, dropped = record_set.report, len(record_set.dropped)
    parts = " + ".join(f"{n} {split}" for split, n in report["records"].items())
    extra = report["extra_arrangements"]
    further = f" ({extra} of them further arrangements)" if extra else ""
    return Outcome(
        f"{counted(questions, 'question')} = {parts} + {dropped} dropped{further}; "
        f"{check.figures['trained_share']:.0%} of the tokens are trained{_level(report['splits'])}",
        {
            "questions": questions,
            **report["records"],
            "dropped": dropped,
            "records": report,
            "preflight": check.figures,
            **({"rerank": rerank} if rerank else {}),
        },
    )


def _level(splits: dict[str, Any]) -> str:
    """That documents could not be held out, and why."""
    return f"; passages are held out, not documents: {splits['because']}" if splits.get("because") else ""


def contract_of(config: RecordsConfig, chunks: Iterable[Chunk], *, may_refuse: bool | None = None) -> dict[str, Any]:
    """The prompt contract of this configuration over this corpus; `may_refuse` from the composed records, None = as
    `absent` says."""
    from data.prompting.contract import prompt_contract

    refuses = config.absent != "answer" if may_refuse is None else may_refuse
    return prompt_contract(template_of(config, chunks), passages=config.distractors + 1, may_refuse=refuses)


def template_of(config: RecordsConfig, chunks: Iterable[Chunk]) -> PromptTemplate:
    """The template as the section names it; a built-in one in the language of the corpus, if it says no other."""
    from data.loading.languages import main_language
    from data.prompting.contract import built_in_templates, in_language, load_template

    template = load_template(config.template)
    if config.template not in built_in_templates():
        return template
    return in_language(template, main_language([c.text for c in chunks]))


def template_overhead(tokenizer: Tokenizer) -> int:
    """Tokens that chat template and end token add to a record, measured on a probe, with a few to spare."""
    probe = "A probe."
    prompt, completion = tokenizer.encode_example([{"role": "user", "content": probe}], probe)
    return len(prompt) + len(completion) - 2 * len(tokenizer.encode(probe, add_special_tokens=False)) + SPARE_TOKENS


def check_training_tokens(
    records: list[Record],
    tokenizer: Tokenizer,
    max_tokens: int,
    samples: int = 3,
    *,
    cache: ItemCache | None = None,
    model: str = "",
) -> TokenCheck:
    """What a training on the records would learn, token by token as the trainer sees them.

    Args:
        cache: keeps the measurements of each record.
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
    with_oracle = [r for r in train if r.metadata["oracle_present"]]
    without = [r for r in train if not r.metadata["oracle_present"]]
    return [*with_oracle[: 3 - len(without[:1])], *without[:1]]


def _origin(report: dict[str, Any], check: TokenCheck) -> dict[str, Any]:
    """What the card says about the questions and about the tokens that are trained."""
    facts: dict[str, Any] = {"Questions asked or read": f"{report['asked']}, of which {report['kept']} kept"}
    if report["dropped"]:
        facts["Questions dropped before"] = ", ".join(
            f"{reason.replace('_', ' ')}: {n}" for reason, n in report["dropped"].items()
        )
    if tokens := report.get("tokens"):
        facts["Teacher"] = f"{counted(tokens['prompt'], 'token')} read, {tokens['completion']} written"
    figures = check.figures
    share = f"{figures['trained_tokens']} of {figures['tokens']} ({figures['trained_share']:.1%})"
    return {**facts, "Tokens that are trained": share}

"""What `auto` costs in answers: their token F1 less that of the domain's own adapter, on unseen questions.

Three adapters are trained with the code of `raft_literature.py`, each on the training part of its set, and the router
has its profiles from their records, with a quarter of that part (whole articles, papers, chapters) held back for the
thresholds. The questions of the development part are then answered by the own adapter (the oracle choice) and as
`auto` has them answered: in another domain over that domain's passages, by the base without any. Beside it the same
where the own domain's passages are shown whoever answers: what is lost by the choice of the adapter alone.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

from literature.arms import ARMS, shown_to
from literature.composing import compose
from literature.corpora import read_corpus, read_questions
from literature.figures import interval_of, resampled
from literature.parts import documents_of, parts_of, unit_of, units_of
from literature.protocols import PROTOCOLS, Protocol
from literature.searching import Models, make_retriever
from literature.training import say, train

from data.evaluation.conditions import with_passages
from data.evaluation.scoring import score_row
from data.nouns import Record, digest, write_jsonl
from data.prompting.contract import PromptTemplate, load_template
from data.records.candidates import ShownPassage
from data.statistics import bootstrap_mean, paired_bootstrap
from retrieval.search import Retriever
from serving.domain import ServedVersion
from serving.routing import MOST
from serving_arms.routing import goal, left_out, open_router
from tasks.inputs.model_catalog import DEFAULT_EMBEDDER
from tasks.inputs.models import ModelFiles, resolve
from tasks.runtime.answers import Answerer, answer
from tasks.store.itemcache import SqliteCache

WHOLE = {
    "debian_faq": Protocol(
        *("debian_faq", "html", 200, 60),
        passages=3,
        distractors=2,  # some answers are told over several passages, or these would leave no room for others
        max_tokens=1024,
        row_tokens=1024,
        order="retrieved",
        template="direct",
        max_new_tokens=160,
        epochs=2,
        chunk_tokens=200,
    ),
    "pubmedqa": dataclasses.replace(
        PROTOCOLS["pubmedqa"], train=200, test=60, epochs=1, learning_rate=2e-3, max_new_tokens=64
    ),
    "squad": dataclasses.replace(PROTOCOLS["squad"], train=200, test=60, passages=3, max_tokens=512, row_tokens=1024),
}
"""Small: each adapter learns how its domain answers, not all that its documents say."""

QUICK: dict[str, Any] = {
    **{"train": 12, "test": 4, "passages": 1, "epochs": 1, "max_new_tokens": 8, "mode": "lexical"},
    **{"max_tokens": 4096, "row_tokens": 4096},  # the base in miniature reads nearly every byte as a token
}


@dataclass(frozen=True)
class Expert:
    """A domain with its adapter, and the records of the questions that are asked of it."""

    name: str
    protocol: Protocol
    retriever: Retriever
    template: PromptTemplate
    may_refuse: bool
    version: ServedVersion
    asked: Sequence[Record]
    training: Mapping[str, Any]

    def passages(self, question: str) -> list[ShownPassage]:
        """What its search finds, as many as its prompt shows."""
        hits = self.retriever.search([question], self.protocol.passages)[0]
        chunks = self.retriever.chunks
        return [ShownPassage(chunks[h.chunk_id], "distractor", "retrieved", h.rank, h.score) for h in hits]

    def prompt(self, record: Record, passages: Sequence[ShownPassage]) -> Record:
        """A question over passages, in the form that its adapter was trained on."""
        return shown_to(ARMS["raft"], record, passages, self.may_refuse, self.template)


@dataclass(frozen=True)
class Ask:
    """A prompt, who answers it (a domain's name or `base`), and the form in which the answer is read."""

    reader: str
    prompt: Record
    template: PromptTemplate

    @property
    def key(self) -> tuple[str, ...]:
        """What decides the score of its answer."""
        return self.reader, self.prompt.instruction, self.prompt.input, *self.prompt.metadata["answers"]


@dataclass(frozen=True)
class Question:
    """One question with its three asks, and the unit that is resampled with it."""

    domain: str
    destination: str
    oracle: Ask
    auto: Ask
    same_passages: Ask
    group: str


def routing_f1(data: Path, work: Path, model: str, *, quick: bool) -> dict[str, Any]:
    """The figures; `f1_auto_minus_oracle` is the mean difference over all questions, in shares of 1.

    Args:
        work: adapters, vectors and answers are kept there for the next run.
        model: the base, a Hub id or a folder.
    """
    if reason := left_out(data):
        return {"left_out": reason}
    base, router = resolve(model), open_router()
    experts = {
        name: make_expert(name, dataclasses.replace(protocol, **QUICK) if quick else protocol, data, work / name, base)
        for name, protocol in WHOLE.items()
    }
    versions = {name: expert.version for name, expert in experts.items()}
    questions = [
        question_of(record, expert, experts, goal(router.routes(record.metadata["question"], versions)))
        for expert in experts.values()
        for record in expert.asked
    ]
    sides = answered(questions, experts, base, SqliteCache(work / "answers.sqlite"))
    change = difference(questions, sides["auto"], sides["oracle"])
    return {
        "routed": {name: dict(Counter(q.destination for q in questions if q.domain == name)) for name in experts},
        "f1": {name: means([q.domain == name for q in questions], questions, sides) for name in experts},
        "difference": change,
        "difference_same_passages": difference(questions, sides["same_passages"], sides["oracle"]),
        "training": {name: dict(expert.training) for name, expert in experts.items()},
        "figures": {"f1_auto_minus_oracle": change["value"]},
    }


def make_expert(name: str, protocol: Protocol, data: Path, work: Path, base: ModelFiles) -> Expert:
    """Trains the adapter of a set, unless an earlier run has; writes the records that its profile is made of."""
    work.mkdir(parents=True, exist_ok=True)
    cache, template = SqliteCache(work / "items.sqlite"), load_template(protocol.template)
    embedder = resolve(DEFAULT_EMBEDDER)
    tokenizer = embedder.folder / "tokenizer.json" if protocol.chunk_tokens else None
    chunks, documents = read_corpus(data / protocol.folder / protocol.corpus, protocol.chunk_tokens, tokenizer)
    rows = read_questions(name, data / protocol.folder)
    side = sides_of(name, rows)
    drawn = {
        kind: [row for row in shuffled(rows, protocol.seed) if side[str(row["id"])] == kind]
        for kind in ("train", "threshold", "asked")
    }
    retriever = make_retriever(chunks, protocol, work, cache, Models(embedder))
    records = compose(
        protocol,
        {"train": drawn["train"][: protocol.train], "test": drawn["asked"][: (protocol.test or 0) + 20]},
        documents_of(rows, {key: "train" if kind == "train" else "test" for key, kind in side.items()}),
        chunks,
        documents,
        retriever,
        base,
    )
    say(f"{name}: {len(records.train)} records to train on, dropped {records.report['dropped']}")
    adapter, facts = train(protocol, records.train, base, work)
    folder = work / "records"
    folder.mkdir(exist_ok=True)
    write_jsonl(folder / "train.jsonl", records.train)
    held = [str(row["question"]) for row in drawn["threshold"][:MOST]]
    write_jsonl(folder / "validation.jsonl", [Record("", "", "", {"question": text}) for text in held])
    return Expert(
        name,
        protocol,
        retriever,
        template,
        bool(records.report["may_refuse"]),
        ServedVersion(name, adapter, folder),
        records.test[: protocol.test],
        {"records": len(records.train), **{key: facts[key] for key in ("steps", "first_loss", "final_loss")}},
    )


def sides_of(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Side of each question by its id: `train`; `threshold`, a quarter of the units of the part that trains; `asked`,
    the development part; `left`, the test part, which is not touched."""
    parts = parts_of(name, rows)
    unit = units_of(name, rows)
    units = sorted({unit[key] for key, part in parts.items() if part == "train"})
    held = set(sorted(units, key=lambda unit: digest("threshold", unit))[: max(1, len(units) // 4)])
    names = {"development": "asked", "test": "left", "train": "train"}
    return {key: "threshold" if part == "train" and unit[key] in held else names[part] for key, part in parts.items()}


def shuffled(rows: Sequence[Mapping[str, Any]], seed: int) -> list[Mapping[str, Any]]:
    """In an order by hash, so that any first n are a fair sample."""
    return sorted(rows, key=lambda row: digest("draw", str(seed), str(row["id"])))


def question_of(record: Record, own: Expert, experts: Mapping[str, Expert], destination: str) -> Question:
    """What the question is asked of whom, if `auto` sends it there."""
    question = record.metadata["question"]
    passages = own.passages(question)
    oracle = Ask(own.name, own.prompt(record, passages), own.template)
    if destination == own.name:
        auto = same = oracle
    elif destination == "base":  # which gets the messages as they are
        alone = with_passages(record, (), may_refuse=False, template=own.template)
        auto = Ask("base", dataclasses.replace(alone, instruction=question, input=""), own.template)
        same = Ask("base", oracle.prompt, own.template)
    else:
        other = experts[destination]
        auto = Ask(destination, other.prompt(record, other.passages(question)), other.template)
        same = Ask(destination, other.prompt(record, passages), other.template)
    source = own.retriever.chunks[record.metadata["oracle_ids"][0]].source
    return Question(own.name, destination, oracle, auto, same, f"{own.name} {unit_of(source)}")


def answered(
    questions: Sequence[Question], experts: Mapping[str, Expert], base: ModelFiles, cache: SqliteCache
) -> dict[str, list[float]]:
    """Side -> token F1 of its answer to each question. What a reader was asked once it is not asked again."""
    asks = [ask for question in questions for ask in (question.oracle, question.auto, question.same_passages)]
    scores: dict[tuple[str, ...], float] = {}
    for reader in dict.fromkeys(ask.reader for ask in asks):
        own = list({ask.key: ask for ask in asks if ask.reader == reader}.values())
        folder = experts[reader].version.folder if reader in experts else None
        key = f"{base.digest}+{folder.parent.parent.name}" if folder else base.digest
        tokens = {name: expert.protocol.max_new_tokens for name, expert in experts.items()}
        who = Answerer(base.folder, folder, key, "bfloat16", tokens.get(reader, max(tokens.values())), 32)
        prompts = [ask.prompt for ask in own]
        replies = answer(who, prompts, cache, lambda done, total, what: say(f"{what}: {done} of {total}"), reader)
        for ask, reply in zip(own, replies, strict=True):
            row = score_row(ask.prompt, reply.text, condition=reader, template=ask.template)
            scores[ask.key] = float(row["metrics"]["f1"])  # a refusal counts as no answer
    return {
        side: [scores[getattr(question, side).key] for question in questions]
        for side in ("oracle", "auto", "same_passages")
    }


def means(
    chosen: Sequence[bool], questions: Sequence[Question], sides: Mapping[str, Sequence[float]]
) -> dict[str, dict[str, Any]]:
    """Side -> mean F1 over the chosen questions with its 95 % interval."""
    groups = resampled([{"group": question.group} for question in compress(questions, chosen)])
    return {
        side: interval_of(bootstrap_mean(list(compress(values, chosen)), groups=groups))
        for side, values in sides.items()
    }


def difference(questions: Sequence[Question], auto: Sequence[float], oracle: Sequence[float]) -> dict[str, Any]:
    """Mean F1 of `auto` less that of the oracle choice over all questions, with its 95 % interval; articles, papers and
    chapters are resampled whole."""
    groups = resampled([{"group": question.group} for question in questions])
    return interval_of(paired_bootstrap(oracle, auto, groups=groups))

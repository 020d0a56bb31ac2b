"""What a run will take, in time and disk space: told before anything was built, and better once something was.

What is finished is counted; what is not is worked out from the corpus' size, the number of questions and the size of
the models. Rates are those of the store's last result of a stage, else those of the two-core machine on which README's
run was made. Such an estimate is rough, and says so; `raft plan --engine` compiles the training and knows more of it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.inputs.corpus import Corpus
from tasks.inputs.models import ModelFiles
from tasks.store.manifest import Manifest

if TYPE_CHECKING:
    from tasks.config import RunConfig

README_BASE = 135e6  # parameters of the base with which the rates below were measured
TEXT_OF_FILE = {".pdf": 0.05, ".html": 0.3, ".htm": 0.3, ".docx": 0.1, ".pptx": 0.03, ".xlsx": 0.1, ".epub": 0.3}
UNKNOWN_FILE = 6_000  # bytes of a file whose size its source does not tell
PYDOC = 464_000  # characters of the language reference inside Python
CHARACTERS_PER_TOKEN = 3.6
CHUNK_FILL = 0.73  # tokens of a mean chunk, as a share of the longest
PROMPT_TOKENS = 230  # of a record beside its passages
KEPT_BY_TEACHER = 0.5
DIMENSIONS = 384
LEAST_SHARE = 0.1
FIT_SECONDS = 0.2  # of a question with its passage and a hard one, an epoch of the embedder's training
PAIRS = (
    15  # question and passage, that a cross-encoder of twelve layers reads a second; training takes three times as long
)
FITTED_BYTES = {"embedder": 91e6, "reranker": 134e6}


@dataclass(frozen=True)
class Estimate:
    """What a stage takes; `basis` says from what it was told."""

    seconds: float
    bytes: int
    basis: str


@dataclass(frozen=True)
class Workload:
    """How much a run has to do.

    Attributes:
        asked, kept: questions put to a teacher or read, and those left after the checks.
        train_tokens: over all epochs; answers: replies in the evaluation; validation: questions of that side.
        parameters: of the base.
    """

    files: int
    characters: float
    chunks: float
    asked: float
    kept: float
    train_tokens: float
    answers: float
    parameters: float
    validation: float = 0.0


def workload(config: RunConfig, corpus: Corpus, built: Mapping[str, Manifest], base: ModelFiles | None) -> Workload:
    """Counts what is built and works the rest out.

    Args:
        built: the current results, by stage.
        base: None where it is not on this machine; its size is then read from its name, e.g. `Llama-3.1-8B`.
    """
    characters = _figure(built, "ingest", "characters") or sum(_text_size(n, corpus) for n in corpus.files)
    tokens = _figure(built, "chunk", "tokens") or characters / CHARACTERS_PER_TOKEN
    size = CHUNK_FILL * config.chunk.max_tokens
    chunks = _figure(built, "chunk", "chunks") or max(len(corpus.files), tokens / size)
    asked = _figure(built, "questions", "asked") or _asked(config, chunks)
    kept = _figure(built, "questions", "kept") or asked * (1 if config.questions.file else KEPT_BY_TEACHER)
    records, train = config.records, config.train
    held_out = records.test + records.validation
    trained = _figure(built, "records", "train") or kept * (1 - held_out) * records.arrangements
    record = min((records.distractors + 1) * (tokens / chunks if tokens else size) + PROMPT_TOKENS, records.max_tokens)
    train_tokens = trained * record * train.epochs
    if train.max_steps:
        step = train.micro_batch_rows * train.accumulation * train.sequence_length
        train_tokens = min(train_tokens, train.max_steps * step)
    test = _figure(built, "records", "test") or kept * records.test
    test = min(test, config.evaluate.limit or test)
    contenders = 2 + len(config.evaluate.earlier)
    answers = test * len(config.evaluate.settings) * contenders + 2 * config.evaluate.general
    parameters = _parameters(base) if base else _parameters_by_name(config.models.base)
    validation = _figure(built, "records", "validation") or kept * records.validation
    return Workload(len(corpus.files), characters, chunks, asked, kept, train_tokens, answers, parameters, validation)


def estimate(stage: str, config: RunConfig, work: Workload, last: Manifest | None) -> Estimate | None:
    """What a stage takes; None for a stage of which nothing is known.

    Args:
        last: its newest result, with the models that are used now; its rate goes before that of another machine.
    """
    rule = RULES.get(stage)
    if rule is None:
        return None
    units = rule.units(work)
    done = last.metrics.get(rule.counted) if last and rule.counted else None
    size = int(rule.size(config, work))
    # what came from a cache was not paid for: a result of which little was computed gives no rate
    if last is not None and last.seconds and (not rule.counted or (done or 0) >= LEAST_SHARE * units):
        share = units / done if done else 1.0
        return Estimate(last.seconds * share, size, "measured: the rate of the last result in this store")
    return Estimate(rule.seconds(config, work), size, "rough: worked out from sizes, at the rates of two CPU cores")


@dataclass(frozen=True)
class _Rule:
    """How one stage is estimated.

    Attributes:
        units: what its time is in proportion to; counted: the name of the same in its metrics, "" for none.
        seconds: on two CPU cores; size: bytes on disk.
    """

    units: Callable[[Workload], float]
    counted: str
    seconds: Callable[[RunConfig, Workload], float]
    size: Callable[[RunConfig, Workload], float]


def _question_seconds(config: RunConfig, work: Workload) -> float:
    questions = config.questions
    if questions.file:
        return 6 + 0.005 * work.asked
    if questions.teacher == "local":
        return 0.26 * work.asked * work.parameters / README_BASE
    calls = 1.5 * work.asked  # a second one for questions that pass their checks
    pace = 60 / questions.requests_per_minute if questions.requests_per_minute else 0.0
    return calls * max(3 / questions.teacher_concurrency, pace)


def _adapt_seconds(config: RunConfig, work: Workload) -> float:
    """Training, the vectors of all passages anew, and the pairs that are read to judge what helps."""
    adapt, retrieval, records = config.adapt, config.retrieval, config.records
    learnt = work.kept * (1 - records.test - records.validation)
    judged = min(adapt.judged, work.validation)
    seconds = 10 + 0.05 * judged
    if adapt.embedder:
        seconds += FIT_SECONDS * learnt * adapt.epochs + work.chunks / 116
    if retrieval.rerank is not None:
        seconds += judged * retrieval.rerank_depth / PAIRS
    if adapt.reranker:
        pairs = min(learnt, adapt.reranker_questions) * (1 + adapt.negatives) * adapt.epochs
        seconds += (3 * pairs + judged * retrieval.rerank_depth) / PAIRS
    return seconds


def _adapt_bytes(config: RunConfig, work: Workload) -> float:
    return sum(size for role, size in FITTED_BYTES.items() if getattr(config.adapt, role))


def _adapter_numbers(config: RunConfig, work: Workload) -> float:
    """LoRA parameters on all linear layers: with rank 16, 4.9 M of 135 M and about 40 M of 8 B."""
    return 4.9e6 * config.train.rank / 16 * math.sqrt(work.parameters / README_BASE)


def _merged(config: RunConfig, work: Workload) -> float:
    return work.parameters * (4 if config.export.merged_dtype == "float32" else 2)


RULES = {
    "ingest": _Rule(
        lambda w: w.characters, "characters", lambda c, w: 1 + 0.006 * w.files, lambda c, w: 1.1 * w.characters
    ),
    "chunk": _Rule(lambda w: w.chunks, "chunks", lambda c, w: 0.001 * w.chunks, lambda c, w: 2.1 * w.characters),
    "embed": _Rule(lambda w: w.chunks, "computed", lambda c, w: 6 + w.chunks / 116, lambda c, w: _vectors(w)),
    "index": _Rule(lambda w: w.chunks, "vectors", lambda c, w: w.chunks / 50_000, lambda c, w: _vectors(w)),
    "questions": _Rule(lambda w: w.asked, "asked", _question_seconds, lambda c, w: 800 * w.kept),
    "adapt": _Rule(lambda w: w.kept, "", _adapt_seconds, _adapt_bytes),
    # the stage `adapt` has embedded every passage already where it kept an embedder
    "embed_adapted": _Rule(lambda w: w.chunks, "computed", lambda c, w: 6 + w.chunks / 5_000, lambda c, w: _vectors(w)),
    "index_adapted": _Rule(lambda w: w.chunks, "vectors", lambda c, w: w.chunks / 50_000, lambda c, w: _vectors(w)),
    "records": _Rule(
        lambda w: w.kept,
        "questions",
        lambda c, w: 2 + 0.005 * w.kept,
        lambda c, w: 2400 * w.kept * (c.records.distractors + 1),
    ),
    "train": _Rule(
        lambda w: w.train_tokens,
        "tokens",
        lambda c, w: 20 + 4 * w.train_tokens * w.parameters / 4e11,
        lambda c, w: 4 * _adapter_numbers(c, w),
    ),
    "calibrate": _Rule(
        lambda w: w.validation,
        "questions",
        lambda c, w: 10 + 0.75 * min(w.validation, c.calibrate.questions) * w.parameters / README_BASE,
        lambda c, w: 1_000,
    ),
    "export": _Rule(
        lambda w: w.parameters,
        "",
        lambda c, w: 37 * w.parameters / README_BASE,
        lambda c, w: _merged(c, w) + 4 * _adapter_numbers(c, w),
    ),
    "evaluate": _Rule(
        lambda w: w.answers,
        "",
        lambda c, w: 0.75 * w.answers * w.parameters / README_BASE,
        lambda c, w: 12_000 * w.answers,
    ),
}


def _vectors(work: Workload) -> float:
    return 4.0 * DIMENSIONS * work.chunks


def _figure(built: Mapping[str, Manifest], stage: str, name: str) -> float:
    return built[stage].metrics.get(name, 0) if stage in built else 0


def _text_size(name: str, corpus: Corpus) -> float:
    if name.startswith("pydoc:"):
        return PYDOC
    stamp = corpus.stamps.get(name, "")  # device:inode:size:…
    size = int(stamp.split(":")[2]) if stamp.count(":") >= 2 else UNKNOWN_FILE
    return size * TEXT_OF_FILE.get(Path(name).suffix.lower(), 1.0)


def _asked(config: RunConfig, chunks: float) -> float:
    """Rows of the user's file, or what the teacher is asked for at most."""
    if config.questions.file:
        path = Path(config.questions.file)
        if not path.is_file():
            return 0
        with path.open("rb") as lines:
            return sum(1 for line in lines if line.strip()) if path.suffix in (".jsonl", ".csv", ".tsv") else 100
    most = chunks * config.questions.questions_per_chunk
    return min(most, config.questions.count or most)


def _parameters(base: ModelFiles) -> float:
    """Numbers in the base, by the headers of its weights; no library reads them for a plan."""
    total = 0
    for path in sorted(base.folder.glob("*.safetensors")):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
        total += sum(math.prod(shape) for shape in shapes)
    return float(total) or README_BASE


def _parameters_by_name(name: str) -> float:
    """`…-8B` or `…-135M`; that of README's base where the name holds no size."""
    sizes = re.findall(r"(\d+(?:\.\d+)?)\s*([bm])(?![a-z])", name.lower())
    return float(sizes[-1][0]) * {"b": 1e9, "m": 1e6}[sizes[-1][1]] if sizes else README_BASE

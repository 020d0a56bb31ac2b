"""The work of `adapt`: fits embedder, reranker and the weights of the fusion, and keeps what validation shows to help.

Training questions alone are learnt from; the sides are those that the records will have. Each step is judged on the
retriever that the steps before it left.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.nouns import Chunk, Question, digest, read_jsonl
from raft_errors import BadInput
from tasks.runtime.folders import ModelFolder, StageFiles, write_json
from tasks.runtime.retriever import open_retriever, rerank_figures
from tasks.runtime.sides import split_corpus
from tasks.work.bench import Bench, Outcome

if TYPE_CHECKING:
    from data.records.split_sides import Splits
    from retrieval.adaptation.examples import Example, Examples
    from retrieval.adaptation.training import Pool
    from retrieval.search import Retriever
    from tasks.adapt import AdaptConfig
    from tasks.retrieval import RetrievalConfig
    from tasks.splits import SplitsConfig

POOL = 10  # passages that a validation question's right one is ranked among, after each epoch


@dataclass(frozen=True)
class Sides:
    """The questions by what may be done with them. Unanswerable ones, which have no passage, are in none."""

    train: list[Question]
    validation: list[Question]
    held_out: list[Question]
    of_chunk: dict[str, str]


@dataclass
class Findings:
    """What was chosen (`retriever.json`), what it rests on (`report.json`), and a word on each step."""

    choice: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)


def build(
    bench: Bench,
    config: AdaptConfig,
    questions: StageFiles,
    chunk: StageFiles,
    index: StageFiles,
    *,
    embedder: ModelFolder,
    retrieval: RetrievalConfig,
    splits: SplitsConfig,
    reranker: ModelFolder | None = None,
) -> Outcome:
    """Writes retriever.json (what serves from here on), report.json, cost.json, and the models that were kept.

    Raises:
        BadInput: a model is to be fine-tuned and there are too few questions, or all are about one document.
    """
    rows = list(read_jsonl(questions.path("questions.jsonl"), Question))
    models = {"embedder": embedder, "reranker": reranker}
    retriever = open_retriever(retrieval, index, chunk, models, device=config.device, queries=bench.cache)
    chunks = list(retriever.chunks.values())
    decided = split_corpus(rows, chunks, splits, bench.seed, bench.cache)
    sides = sides_of(rows, chunks, decided, config.judged, bench.seed)
    findings = Findings({"mode": retrieval.mode}, {"questions": {"validation": len(sides.validation)}})
    if config.embedder or config.reranker:
        require_enough(sides, decided, config.least_questions)
        examples = _examples(sides, chunks, retriever, config, embedder, bench)
        findings.report["questions"] |= {
            "train": len(examples.examples),
            "left_out_as_repeating_held_out": len(examples.repeated),
            "without_negatives": examples.without_negatives,
        }
        if config.embedder:
            retriever = _embedder(bench, config, retriever, examples, sides, embedder, findings)
    if retrieval.mode == "hybrid" and retrieval.weights == "measured":
        retriever = _weights(retriever, sides, findings)
    if reranker is not None:
        if config.reranker:
            retriever = _reranker(bench, config, retriever, examples, sides, reranker, findings)
        _rerank_or_not(retriever, sides, retrieval, findings, bench)
    write_json(bench.out / "retriever.json", findings.choice)
    write_json(bench.out / "report.json", findings.report)
    return Outcome(
        "; ".join(findings.words) or "nothing to fit",
        {**findings.report, "choice": findings.choice, "steps": findings.words},
    )


def sides_of(questions: Sequence[Question], chunks: Sequence[Chunk], splits: Splits, judged: int, seed: int) -> Sides:
    """The questions on their sides; of the validation side at most `judged`, drawn by seed."""
    from data.records.candidates import is_unanswerable

    owner = {c.id: c.document_id for c in chunks}
    of_chunk = {c.id: splits.side(c.id, c.document_id) for c in chunks}
    by_side: dict[str, list[Question]] = {"train": [], "validation": [], "test": []}
    for question in questions:
        sides = {of_chunk[c] for c in question.gold_chunk_ids if c in owner and c not in splits.copies}
        if len(sides) == 1 and not is_unanswerable(question):  # its chunks are what it was asked about, and are wrong
            by_side[sides.pop()].append(question)
    examined = [question for question in by_side["validation"] if question.examinable]
    validation = sorted(examined, key=lambda q: digest("judged", str(seed), q.id))[:judged]
    # everything that is not trained on is held out, also questions that are on no side of their own
    training = {q.id for q in by_side["train"]}
    return Sides(by_side["train"], validation, [q for q in questions if q.id not in training], of_chunk)


def require_enough(sides: Sides, splits: Splits, least: int) -> None:
    """Raises BadInput where a model fine-tuned on these questions could neither learn nor be judged."""
    from retrieval.adaptation.judgement import LEAST_QUESTIONS

    if splits.report["level"] != "document":
        raise BadInput(
            "The retriever cannot be fine-tuned: the questions are about too few independent documents, so none can be "
            "held out to judge it on",
            expected="questions about several documents",
            do="add documents, or switch adapt.embedder and adapt.reranker off",
        )
    if len(sides.train) < least or len(sides.validation) < LEAST_QUESTIONS:
        raise BadInput(
            f"The retriever cannot be fine-tuned on {len(sides.train)} training and judged on "
            f"{len(sides.validation)} validation questions",
            expected=f"at least {least} (adapt.least_questions) and {LEAST_QUESTIONS}",
            do="ask more questions, raise records.validation, or switch adapt.embedder and adapt.reranker off",
        )


def _examples(
    sides: Sides, chunks: list[Chunk], retriever: Retriever, config: AdaptConfig, embedder: ModelFolder, bench: Bench
) -> Examples:
    from retrieval.adaptation.examples import training_examples
    from tasks.runtime.embedder import load_embedder

    embed = retriever.embed
    if embed is None:  # lexical search: the embedder tells repeated questions all the same
        model = load_embedder(embedder, device=config.device, precision="float32")
        embed = lambda texts: model.encode(texts, kind="query", cache=bench.cache)  # noqa: E731
    return training_examples(
        sides.train,
        sides.held_out,
        chunks,
        sides.of_chunk,
        retriever.in_mode(retriever.mode, reranked=False).search,
        embed,
        negatives=config.negatives,
        max_likeness=config.max_likeness,
        seed=bench.seed,
    )


def pools_of(questions: Sequence[Question], retriever: Retriever) -> list[Pool]:
    """Each question's right passage and the wrong ones that the first search puts first."""
    from retrieval.adaptation.training import Pool
    from retrieval.search import passage_text

    plain = retriever.in_mode(retriever.mode, reranked=False)
    pools = []
    for question, hits in zip(questions, plain.search([q.question for q in questions], POOL), strict=True):
        right = next(c for c in question.gold_chunk_ids if c in retriever.chunks)
        wrong = [hit.chunk_id for hit in hits if hit.chunk_id not in question.gold_chunk_ids]
        texts = dict.fromkeys(passage_text(retriever.chunks[c]) for c in [right, *wrong])
        pools.append(Pool(question.question, tuple(texts)))
    return pools


def _embedder(
    bench: Bench,
    config: AdaptConfig,
    retriever: Retriever,
    examples: Examples,
    sides: Sides,
    embedder: ModelFolder,
    findings: Findings,
) -> Retriever:
    """The retriever with the fine-tuned embedder where that helps, else as it was."""
    from retrieval.adaptation.judgement import compare, reciprocal_ranks
    from retrieval.adaptation.training import TrainingOptions, adapt_embedder
    from retrieval.embedding.embedder import Embedder
    from retrieval.index.faiss_index import build_index, open_index
    from retrieval.search import passage_text

    place = bench.scratch / "embedder"
    options = TrainingOptions(config.epochs, config.batch, config.rate, bench.seed)
    trained = adapt_embedder(
        embedder.folder,
        examples.examples,
        pools_of(sides.validation, retriever),
        place / "model",
        _folder(place / "training"),
        options,
        device=config.device,
        progress=bench.progress,
    )
    before = retriever.embedder
    assert before is not None
    model = Embedder.load(place / "model", device=config.device, precision=before.info.precision)
    chunks = list(retriever.chunks.values())
    vectors = model.encode([passage_text(c) for c in chunks], cache=bench.cache, progress=bench.progress)
    with tempfile.TemporaryDirectory(dir=bench.scratch) as folder:
        build_index(vectors, [c.id for c in chunks], Path(folder), embedder=model.info.to_dict())
        candidate = retriever.with_embedder(open_index(Path(folder), expect_embedder=model.info.digest), model)
    plain, fitted = (
        reciprocal_ranks(sides.validation, one.in_mode(one.mode, reranked=False).search)
        for one in (retriever, candidate)
    )
    judgement = compare(sides.validation, plain, fitted)
    findings.report["embedder"] = {"training": trained, **judgement.to_dict()}
    findings.words.append(_in_words("fitted embedder", judgement))
    if not judgement.helps:
        return retriever
    _keep(place / "model", bench.out / "embedder")
    findings.choice["embedder"] = {"name": embedder.name, "base": embedder.digest, "digest": model.info.digest}
    return candidate


def _weights(retriever: Retriever, sides: Sides, findings: Findings) -> Retriever:
    """The retriever with the weights that validation questions ask for."""
    from retrieval.adaptation.judgement import choose_share

    share, figures = choose_share(sides.validation, retriever)
    findings.choice["lexical_share"] = share
    findings.report["weights"] = figures
    needed = f" ({figures['questions']} validation questions of {figures['needed']})" if "needed" in figures else ""
    findings.words.append(f"BM25 weighs {share:.0%} of the fusion{needed}")
    return retriever.in_mode("hybrid", lexical_share=share)


def _reranker(
    bench: Bench,
    config: AdaptConfig,
    retriever: Retriever,
    examples: Examples,
    sides: Sides,
    reranker: ModelFolder,
    findings: Findings,
) -> Retriever:
    """The retriever with the fine-tuned cross-encoder where that helps, else as it was."""
    from retrieval.adaptation.judgement import compare, reciprocal_ranks
    from retrieval.adaptation.training import TrainingOptions, adapt_reranker
    from retrieval.rerank import Reranker

    place = bench.scratch / "reranker"
    options = TrainingOptions(config.epochs, config.batch, config.rate, bench.seed)
    trained = adapt_reranker(
        reranker.folder,
        _some(examples.examples, config.reranker_questions, bench.seed),
        pools_of(sides.validation, retriever),
        place / "model",
        _folder(place / "training"),
        options,
        device=config.device,
        progress=bench.progress,
    )
    before = retriever.reranker
    assert isinstance(before, Reranker)
    model = Reranker.load(place / "model", device=config.device, precision=before.precision)
    candidate = retriever.with_reranker(model)
    judgement = compare(
        sides.validation, *(reciprocal_ranks(sides.validation, one.search) for one in (retriever, candidate))
    )
    findings.report["reranker"] = {"training": trained, **judgement.to_dict()}
    findings.words.append(_in_words("fitted reranker", judgement))
    if not judgement.helps:
        return retriever
    _keep(place / "model", bench.out / "reranker")
    findings.choice["reranker"] = {"name": reranker.name, "base": reranker.digest, "digest": model.model.digest}
    return candidate


def _rerank_or_not(
    retriever: Retriever, sides: Sides, retrieval: RetrievalConfig, findings: Findings, bench: Bench
) -> None:
    """Under `auto`, whether reranking helps and is quick enough; otherwise only what it brings."""
    from retrieval.adaptation.judgement import LEAST_QUESTIONS, compare, reciprocal_ranks

    auto = retrieval.rerank == "auto"
    findings.choice["rerank"] = not auto
    if not sides.validation:
        findings.words.append("no validation question to judge reranking on")
        return
    plain = retriever.in_mode(retriever.mode, reranked=False)
    judgement = compare(
        sides.validation, *(reciprocal_ranks(sides.validation, one.search) for one in (plain, retriever))
    )
    findings.report["rerank"] = judgement.to_dict()
    cost = rerank_figures(retriever)
    write_json(bench.out / "cost.json", cost)
    words = _in_words("reranking", judgement, kept=not auto or judgement.helps)
    if auto and judgement.helps:
        seconds = cost["seconds_per_question"]
        quick = seconds is None or seconds <= retrieval.rerank_seconds
        findings.choice["rerank"] = quick
        if not quick:
            words = (
                f"reranking dropped though it helps: {seconds:.2f} s a question, retrieval.rerank_seconds allows "
                f"{retrieval.rerank_seconds:g}"
            )
    elif auto and len(sides.validation) < LEAST_QUESTIONS:
        words = f"reranking dropped: {len(sides.validation)} validation questions, {LEAST_QUESTIONS} are needed"
    findings.words.append(words)


def _in_words(what: str, judgement: Any, kept: bool | None = None) -> str:
    kept = judgement.helps if kept is None else kept
    return (
        f"{what} {'kept' if kept else 'dropped'}: first passage right {judgement.before_first:.0%} → "
        f"{judgement.after_first:.0%}, reciprocal rank {judgement.before:.3f} → {judgement.after:.3f} "
        f"[{judgement.low:+.3f}, {judgement.high:+.3f}] on {judgement.questions} validation questions"
    )


def _some(examples: list[Example], count: int, seed: int) -> list[Example]:
    return examples if len(examples) <= count else random.Random(seed).sample(examples, count)


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _keep(model: Path, out: Path) -> None:
    from retrieval.adaptation.training import DONE

    shutil.copytree(model, out, ignore=shutil.ignore_patterns(DONE))

"""`raft evaluate retrieval`: dense, lexical and hybrid search side by side, on the run's questions or a judged set.

The questions are those of the run, or of a folder in BEIR's layout; the retriever is the run's own. Nothing in the
pipeline depends on the result.
"""

from __future__ import annotations

import dataclasses
import enum
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data.nouns import Document, Progress, Question, Search, digest, read_jsonl
from data.text.counts import counted
from flows.cli.options import ConfigArgument, JsonOption, SetOption
from flows.cli.output import Display, Terminal, emit, plain, table, warn
from flows.ready import facts as freshness
from flows.ready import open_search, ready
from raft_errors import BadInput
from retrieval.mode import MODES
from tasks.build.events import progress_of
from tasks.runtime.folders import read_json

if TYPE_CHECKING:
    from flows.run import Run
    from retrieval.search import Retriever


class Gold(enum.StrEnum):
    """What counts as found."""

    CHUNK = "chunk"
    DOCUMENT = "document"


METRICS = ("nDCG@10", "any_hit@1", "any_hit@5", "any_hit@10", "recall@5", "recall@10", "MRR", "MAP")
IN_THE_TERMINAL = ("nDCG@10", "any_hit@5", "recall@5", "recall@10", "MRR")


@dataclass(frozen=True)
class Comparison:
    """What is compared: a retriever with all modes, on which questions, and, in words, where these come from.

    Attributes:
        gold: what has to be found: the very `chunk`, or any chunk of its `document`.
        cut: how many passages the embedder read only the beginning of; `max_tokens`: how far it reads.
    """

    retriever: Retriever
    questions: list[Question]
    about: str
    caution: str = ""
    grades: Mapping[str, Mapping[str, int]] | None = None
    group_of: Callable[[Question], str] | None = None
    gold: str = "chunk"
    cut: int = 0
    max_tokens: int = 0

    @property
    def cut_short(self) -> str:
        """That a mode saw less than the others, in words; "" where all saw the same."""
        if not self.cut:
            return ""
        return (
            f"dense (and its half of hybrid) saw only the first {self.max_tokens} tokens of {self.cut} of "
            f"{counted(len(self.retriever.chunks), 'passage')}, the embedder's limit; lexical saw them whole."
        )


def evaluate_retrieval(
    config: ConfigArgument = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder with corpus.jsonl, queries.jsonl and qrels (BEIR) to judge by instead")
    ] = None,
    split: Annotated[str, typer.Option(help="Judgements of --data: qrels/SPLIT.tsv")] = "test",
    chunk: Annotated[
        bool, typer.Option("--chunk", help="Cut the documents of --data as the section chunk says; gold = document")
    ] = False,
    gold: Annotated[
        Gold, typer.Option(help="What counts as found: the passage itself, or any passage of its document")
    ] = Gold.CHUNK,
    html: Annotated[Path | None, typer.Option(help="Report; by default reports/retrieval.html in the store")] = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Compare dense, lexical and hybrid search: any-hit, recall, nDCG, MRR, MAP, worst questions. Builds nothing."""
    from flows.run import Run
    from retrieval.evaluation import evaluate_retrieval as compare

    if chunk and data is None:
        raise BadInput("--chunk cuts the documents of --data", do="name a set; the run's own are cut already")
    display = Display()
    stale = None
    if data is None:
        run, built, stale = ready(config, set_, "questions")
        warn(stale)
        comparison = _own(run, built)
    else:
        from tasks.config import load_config

        run = Run.of(load_config(config, set_ or []), display)
        run.store.prepare()
        comparison = _set(run, data, split, progress_of("embed", display), chunk)
    comparison = dataclasses.replace(comparison, gold=Gold.DOCUMENT if chunk else gold)
    try:
        searches = _searches(comparison.retriever, run.config.retrieval.mode)
        if comparison.gold == Gold.DOCUMENT:
            comparison, searches = _by_document(comparison, searches)
        result = compare(
            comparison.questions,
            searches,
            grades=comparison.grades,
            group_of=comparison.group_of,
            progress=progress_of("search", display),
        )
    finally:
        display.close()
    reranked = comparison.retriever.reranker is not None  # under auto it may have been dropped
    configured = list(searches)[-1] if reranked else run.config.retrieval.mode
    scores = result.pop("scores")
    differences = _differences(comparison.questions, scores, configured)
    facts = {
        "about": comparison.about,
        "caution": " ".join(filter(None, (comparison.caution, comparison.cut_short))),
        "gold": str(comparison.gold),
        "cut_passages": comparison.cut,
        "configured": configured,
        "differences": differences,
    }
    page = html or Path(run.config.store) / "reports" / "retrieval.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(_page(comparison, result, facts), encoding="utf-8")
    if json:
        emit({"ok": True, **freshness(stale), **facts, **result, "report": str(page)})
        return
    out = Terminal()
    out.print(plain(f"{comparison.about} {facts['caution']}".strip(), lines=True), soft_wrap=True)
    rows = [(_mark(n, configured), *(f"{row[m]:.3f}" for m in IN_THE_TERMINAL)) for n, row in result["modes"].items()]
    out.print(table("", ("search", *IN_THE_TERMINAL), rows))
    out.print("any_hit: questions with a right passage among the first; recall: share of all right passages there")
    for line in _verdicts(differences, configured):
        out.print(line, soft_wrap=True)
    out.print(f"report  {page}", soft_wrap=True)


def _own(run: Run, built: Mapping[str, Any]) -> Comparison:
    """The run's questions that have an answer on the run's index, with those of a teacher that were dropped because the
    retriever did not find their chunk: without these the retriever that did the choosing would look better than it is.
    """
    from data.records.candidates import is_unanswerable

    section = run.config.retrieval.model_copy(update={"mode": "hybrid"})
    retriever = open_search(run, built, where=section, interactive=False)
    every = read_jsonl(built["questions"].path("questions.jsonl"), Question)
    questions = [q for q in every if q.examinable and not is_unanswerable(q)]
    lost = _not_found_again(built["questions"].path("dropped.jsonl"), retriever)
    types = {d.id: d.media_type for d in read_jsonl(built["ingest"].path("documents.jsonl"), Document)}
    by_teacher = run.config.questions.file is None
    return Comparison(
        retriever,
        questions + lost,
        f"{counted(len(questions) + len(lost), 'teacher question' if by_teacher else 'user question')} over "
        f"{counted(len(retriever.chunks), 'passage')} of {counted(len(types), 'document')}.",
        f"{len(lost)} of them were dropped from training because {run.config.retrieval.mode} search did not find their "
        "passage; they count here."
        if lost
        else "",
        group_of=lambda question: types.get(question.document_ids[0], "unknown"),
        cut=built["embed"].metrics.get("truncated", 0),
        max_tokens=read_json(built["index"].path("index.json"))["embedder"]["max_tokens"],
    )


def _not_found_again(file: Path, retriever: Retriever) -> list[Question]:
    from data.questions.results import Dropped

    lost = {}
    for row in read_jsonl(file, Dropped):
        if row.reason == "round_trip" and row.question and row.chunk_id in retriever.chunks:
            document = retriever.chunks[row.chunk_id].document_id
            question = Question(digest(row.question, row.chunk_id), row.question, "", (row.chunk_id,), (document,))
            lost[question.id] = question
    return list(lost.values())


def _set(run: Run, folder: Path, split: str, progress: Progress, chunk: bool) -> Comparison:
    """A judged set, embedded now, on request in chunks; the store's cache keeps its vectors."""
    from data.chunking.chunks import ChunkOptions, chunk_documents
    from retrieval.embedding.embedder import Embedder
    from retrieval.evaluation import about_documents
    from retrieval.index.faiss_index import build_index, open_index
    from retrieval.judged_sets import read_judged_set
    from retrieval.search import Retriever, passage_text
    from tasks.store.places import calibration_file

    judged_set = read_judged_set(folder, split=split)
    model = Embedder.load(
        run.models["embedder"].folder,
        device=run.config.embed.device,
        precision=run.config.embed.precision,
        calibration=calibration_file(),
    )
    passages = judged_set.chunks
    if chunk:
        options = ChunkOptions(**{**run.config.chunk.model_dump(), "max_context_tokens": None})
        tokenizer, cache = run.models["embedder"].folder / "tokenizer.json", run.store.cache("chunk")
        passages = chunk_documents(judged_set.documents, tokenizer, options=options, cache=cache)
    done = model.embed([passage_text(p) for p in passages], cache=run.store.cache("embed"), progress=progress)
    with tempfile.TemporaryDirectory() as place:
        build_index(done.vectors, [p.id for p in passages], Path(place), embedder=model.info.to_dict())
        index = open_index(Path(place), expect_embedder=model.info.digest)
    settings = run.config.retrieval
    reranker = None
    if settings.rerank is not None:
        from retrieval.rerank import Reranker

        reranker = Reranker.load(run.models["reranker"].folder, precision=model.info.precision)
    retriever = Retriever(
        index,
        model,
        passages,
        mode="hybrid",
        language=settings.bm25_language,
        reranker=reranker,
        rerank_depth=settings.rerank_depth,
        query_cache=run.store.cache("questions"),
    )
    queries = counted(len(judged_set.questions), "query", "queries")
    about = f"{queries} over {counted(len(judged_set.chunks), 'document')} of {folder.name}"
    if chunk:
        about += f" in {counted(len(passages), 'chunk')} of at most {run.config.chunk.max_tokens} tokens"
    comparison = Comparison(
        retriever,
        judged_set.questions,
        f"{about}.",
        grades=judged_set.grades,
        cut=done.truncated,
        max_tokens=model.info.max_tokens,
    )
    if not chunk:
        return comparison
    wholes = {whole.id: whole for whole in judged_set.chunks}
    questions, grades = about_documents(judged_set.questions, wholes, judged_set.grades)
    return dataclasses.replace(comparison, questions=questions, grades=grades)


def _by_document(comparison: Comparison, searches: dict[str, Search]) -> tuple[Comparison, dict[str, Search]]:
    """The same with any chunk of the right document as a success; the questions' gold may be documents already."""
    from retrieval.evaluation import about_documents, by_document

    chunks = comparison.retriever.chunks
    if all(gold in chunks for question in comparison.questions for gold in question.gold_chunk_ids):
        questions, grades = about_documents(comparison.questions, chunks, comparison.grades)
        comparison = dataclasses.replace(comparison, questions=questions, grades=grades)
    about = comparison.about.rstrip(".") + "; any passage of the right document counts."
    return dataclasses.replace(comparison, about=about), {n: by_document(s, chunks) for n, s in searches.items()}


def _searches(retriever: Retriever, mode: str) -> dict[str, Search]:
    """The three modes by name, and the configured one with reranking if there is a cross-encoder."""
    searches: dict[str, Search] = {}
    for name in MODES:
        searches[name] = retriever.in_mode(name, reranked=False).search
    if retriever.reranker is not None:
        searches[f"{mode}, reranked"] = retriever.in_mode(mode).search  # type: ignore[arg-type]
    return searches


def _differences(
    questions: list[Question], scores: Mapping[str, Mapping[str, Mapping[str, float]]], configured: str
) -> dict[str, dict[str, Any]]:
    """nDCG@10 of every other search minus that of the configured one, with its 95 % interval."""
    from data.evaluation.comparison import resampled_units
    from data.statistics import paired_bootstrap

    def values(name: str) -> list[float]:
        return [scores[name][question.id]["nDCG@10"] for question in questions]

    groups, _, _ = resampled_units([question.document_ids[0] for question in questions])
    differences = {}
    for name in scores:
        if name != configured:
            interval = paired_bootstrap(values(configured), values(name), groups=groups)
            figures = {key: round(getattr(interval, key), 6) for key in ("value", "low", "high")}
            differences[name] = {**figures, "verdict": interval.verdict}
    return differences


def _verdicts(differences: Mapping[str, Mapping[str, Any]], configured: str) -> list[str]:
    from data.statistics import with_interval

    words = {"better": "better than", "worse": "worse than"}
    lines = []
    for name, d in differences.items():
        word = words.get(d["verdict"], "not told apart from")
        lines.append(f"{name} is {word} {configured}, which is configured: nDCG@10 {with_interval(d['value'], d)}")
    return lines


def _mark(name: str, configured: str) -> str:
    return f"{name} (configured)" if name == configured else name


def _page(comparison: Comparison, result: dict[str, Any], facts: dict[str, Any]) -> str:
    from data.reports.charts import bar_chart
    from data.reports.page import render_page

    chunks = comparison.retriever.chunks
    first = {chunk.document_id: chunk for chunk in reversed(chunks.values())}

    def passage(identity: str) -> dict[str, Any]:
        """A chunk, or the first one of a document."""
        return (chunks.get(identity) or first[identity]).to_dict()

    chart = {m: {name: row[m] for name, row in result["modes"].items()} for m in ("nDCG@10", "any_hit@5", "recall@5")}
    worst = [
        {
            **row,
            "gold": [passage(chunk) for chunk in row["gold_chunk_ids"][:3]],
            "found": {name: [passage(chunk) for chunk in chunks[:1]] for name, chunks in row["first"].items()},
        }
        for row in result["worst"]
    ]
    groups = result["groups"] if len(result["groups"]) > 1 else {}
    return render_page(
        "retrieval.html.jinja",
        metrics=METRICS,
        verdicts=_verdicts(facts["differences"], facts["configured"]),
        chart=bar_chart(chart, title="Quality of each search", x_label=""),
        **{**result, **facts, "worst": worst, "groups": groups},
    )

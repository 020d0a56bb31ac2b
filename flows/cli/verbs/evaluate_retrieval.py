"""`raft evaluate retrieval`: dense, lexical and hybrid search side by side, on the run's questions or a judged set.

The questions are those of the run, or of a folder in BEIR's layout; the retriever is the run's own. Nothing in the
pipeline depends on the result.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data.nouns import Document, Progress, Question, Search, digest, read_jsonl
from flows.cli.options import ConfigArgument, JsonOption, SetOption
from flows.cli.output import Display, Terminal, emit, plain, table, warn
from flows.ready import facts as freshness
from flows.ready import open_search, ready
from retrieval.mode import MODES
from tasks.build.events import progress_of

if TYPE_CHECKING:
    from flows.run import Run
    from retrieval.search import Retriever

METRICS = ("nDCG@10", "any_hit@1", "any_hit@5", "any_hit@10", "recall@5", "recall@10", "MRR", "MAP")
IN_THE_TERMINAL = ("nDCG@10", "any_hit@5", "recall@5", "recall@10", "MRR")


@dataclass(frozen=True)
class Comparison:
    """What is compared: a retriever with all modes, on which questions, and, in words, where these come from."""

    retriever: Retriever
    questions: list[Question]
    about: str
    caution: str = ""
    grades: Mapping[str, Mapping[str, int]] | None = None
    group_of: Callable[[Question], str] | None = None


def evaluate_retrieval(
    config: ConfigArgument = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder with corpus.jsonl, queries.jsonl and qrels (BEIR) to judge by instead")
    ] = None,
    split: Annotated[str, typer.Option(help="Judgements of --data: qrels/SPLIT.tsv")] = "test",
    html: Annotated[Path | None, typer.Option(help="Report; by default reports/retrieval.html in the store")] = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Compare dense, lexical and hybrid search: any-hit, recall, nDCG, MRR, MAP, worst questions. Builds nothing."""
    from flows.run import Run
    from retrieval.evaluation import evaluate_retrieval as compare

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
        comparison = _set(run, data, split, progress_of("embed", display))
    try:
        searches = _searches(comparison.retriever, run.config.retrieval.mode)
        result = compare(
            comparison.questions,
            searches,
            grades=comparison.grades,
            group_of=comparison.group_of,
            progress=progress_of("search", display),
        )
    finally:
        display.close()
    configured = list(searches)[-1] if run.config.retrieval.rerank else run.config.retrieval.mode
    scores = result.pop("scores")
    differences = _differences(comparison.questions, scores, configured)
    facts = {
        "about": comparison.about,
        "caution": comparison.caution,
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
    out.print(plain(f"{comparison.about} {comparison.caution}".strip(), lines=True), soft_wrap=True)
    rows = [(_mark(n, configured), *(f"{row[m]:.3f}" for m in IN_THE_TERMINAL)) for n, row in result["modes"].items()]
    out.print(table("", ("search", *IN_THE_TERMINAL), rows))
    out.print("any_hit: questions with a right passage among the first; recall: share of all right passages there")
    for line in _verdicts(differences, configured):
        out.print(line, soft_wrap=True)
    out.print(f"report  {page}", soft_wrap=True)


def _own(run: Run, built: Mapping[str, Any]) -> Comparison:
    """The run's questions on the run's index, with those of a teacher that were dropped because the retriever did not
    find their chunk: without these the retriever that did the choosing would look better than it is."""
    section = run.config.retrieval.model_copy(update={"mode": "hybrid"})
    retriever = open_search(run, built, where=section)
    questions = list(read_jsonl(built["questions"].path("questions.jsonl"), Question))
    lost = _not_found_again(built["questions"].path("dropped.jsonl"), retriever)
    types = {d.id: d.media_type for d in read_jsonl(built["ingest"].path("documents.jsonl"), Document)}
    by_teacher = run.config.questions.file is None
    return Comparison(
        retriever,
        questions + lost,
        f"{len(questions) + len(lost)} {'teacher' if by_teacher else 'user'} questions over "
        f"{len(retriever.chunks)} passages of {len(types)} documents.",
        f"{len(lost)} of them were dropped from training because {run.config.retrieval.mode} search did not find their "
        "passage; they count here."
        if lost
        else "",
        group_of=lambda question: types.get(question.document_ids[0], "unknown"),
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


def _set(run: Run, folder: Path, split: str, progress: Progress) -> Comparison:
    """A judged set, embedded now; the store's cache keeps its vectors."""
    from retrieval.embedding.embedder import Embedder
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
    texts = [passage_text(chunk) for chunk in judged_set.chunks]
    vectors = model.encode(texts, cache=run.store.cache("embed"), progress=progress)
    with tempfile.TemporaryDirectory() as place:
        build_index(vectors, [c.id for c in judged_set.chunks], Path(place), embedder=model.info.to_dict())
        index = open_index(Path(place), expect_embedder=model.info.digest)
    settings = run.config.retrieval
    reranker = None
    if settings.rerank is not None:
        from retrieval.rerank import Reranker

        reranker = Reranker.load(run.models["reranker"].folder, precision=model.info.precision)
    retriever = Retriever(
        index,
        model,
        judged_set.chunks,
        mode="hybrid",
        language=settings.bm25_language,
        reranker=reranker,
        candidates=settings.candidates,
        query_cache=run.store.cache("questions"),
    )
    about = f"{len(judged_set.questions)} queries over {len(judged_set.chunks)} documents of {folder.name}."
    return Comparison(retriever, judged_set.questions, about, grades=judged_set.grades)


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

    def passage(chunk: str) -> dict[str, Any]:
        return comparison.retriever.chunks[chunk].to_dict()

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

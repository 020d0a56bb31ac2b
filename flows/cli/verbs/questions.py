"""The verb `questions`: builds the stage, asks for a few before all is paid for, and shows what was dropped and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from data.nouns import ItemCache, Question
from data.text.counts import counted
from data.text.shown import shown
from flows.cli.options import ConfigArgument, ForceOption, JsonOption, KeepOption, NoPrefectOption, SetOption
from flows.cli.output import Display, Terminal, emit, show_next, table, warn
from flows.cli.verbs.run import build_to
from raft_errors import BadInput
from tasks.config import RunConfig, load_config

if TYPE_CHECKING:
    from data.questions.estimate import Span
    from data.questions.preview import Preview
    from data.questions.results import Dropped, Exchange
    from flows.run import Run
    from flows.walk import Built
    from retrieval.search import Retriever

PREVIEWED = 5


def questions(
    config: ConfigArgument = None,
    set_: SetOption = None,
    preview: Annotated[
        int | None,
        typer.Option(
            "--preview",
            min=1,
            max=100,
            help=f"Ask for so many (say {PREVIEWED}) and no more; tells what the whole run will need",
        ),
    ] = None,
    dropped: Annotated[
        bool, typer.Option("--dropped", help="Show every question that was dropped, with the teacher's reply")
    ] = False,
    keep: KeepOption = None,
    force: ForceOption = False,
    no_prefect: NoPrefectOption = False,
    json: JsonOption = False,
) -> None:
    """Import questions or ask the teacher for them. Builds what it needs before."""
    if preview is not None and dropped:
        raise BadInput("--preview and --dropped are two things", do="give one of the two")
    if preview is None and not dropped:
        build_to(config, set_, "questions", force, no_prefect, json, keep)
        return
    loaded = load_config(config, set_ or [])
    if preview is not None:
        _preview(loaded, config, preview, json)
    else:
        _dropped(config, set_, json)


def _preview(config: RunConfig, path: Path | None, count: int, as_json: bool) -> None:
    """Builds up to the index, which costs nothing, asks for a few questions and says what all of them will need."""
    from data.questions.preview import preview_questions
    from flows.build import build
    from flows.run import Run, at_work
    from flows.walk import published
    from tasks.work.questions import options_of, price_of, teacher_of

    section = config.questions
    if section.file is not None:
        raise BadInput("--preview asks a teacher, and these questions come from a file", do="leave --preview out")
    display = Display()
    run = Run.of(config, display)
    try:
        built = published(run, "index") or build(run, "index", direct=True)
    finally:
        display.close()
    with at_work(run):
        cache = run.store.cache("questions")
        retriever = _retriever(run, built, cache)
        teacher = teacher_of(section, run.models["base"] if section.teacher == "local" else None)
        preview = preview_questions(
            list(retriever.chunks.values()),
            teacher,
            retriever.search,
            count=count,
            options=options_of(section, config.seed),
            cache=cache,
            embed=retriever.embed,
            price=price_of(section),
            at_once=section.teacher_concurrency if section.teacher == "openai" else 1,
            per_minute=section.requests_per_minute if section.teacher == "openai" else None,
        )
    usage = getattr(teacher, "usage", None)
    if as_json:
        emit(
            {
                "ok": True,
                "questions": [trace.to_dict() for trace in preview.traces],
                "planned": preview.planned,
                "answered": preview.answered,
                "spent": usage.to_dict() if usage else None,
                "estimate": preview.estimate.to_dict() if preview.estimate else None,
            }
        )
        return
    out = Terminal()
    for number, trace in enumerate(preview.traces, 1):
        out.rule(f"{number} of {len(preview.traces)}: {shown(trace.chunk.source)}")
        _print_exchanges(out, trace.exchanges, prompts=True)
        out.print(_verdict(trace.verdict), markup=False, soft_wrap=True)
    out.rule()
    for line in _outlook(preview, section.price_prompt is not None or section.price_completion is not None):
        out.print(line, markup=False, soft_wrap=True)
    here = f" {path}" if path else ""
    show_next(out, [(f"raft questions{here}", "the whole run; what was answered is not paid for again")])


def _retriever(run: Run, built: Built, cache: ItemCache) -> Retriever:
    from tasks.runtime.retriever import open_retriever

    retrieval = run.config.retrieval
    return open_retriever(retrieval, built["index"], built["chunk"], run.models, reranked=False, queries=cache)


def _outlook(preview: Preview, priced: bool) -> list[str]:
    """What the whole run will need, in words."""
    left = preview.planned - preview.answered
    lines = [
        f"{counted(preview.planned, 'question is', 'questions are')} planned; answered already, which costs nothing "
        f"more: {preview.answered}."
    ]
    rest = preview.estimate
    if rest is None:
        return lines + (["Nothing was answered, so nothing can be told of the rest."] if left else [])
    lines.append(f"The other {left} will need about (in nine runs of ten between):")
    unknown = "unknown (the teacher counts no tokens)"
    price = "unknown (set questions.price_prompt and questions.price_completion)" if not priced else unknown
    rows: tuple[tuple[str, Span | None, Callable[[float], str], str], ...] = (
        ("calls", rest.calls, "{:,.0f}".format, ""),
        ("tokens read", rest.prompt_tokens, "{:,.0f}".format, unknown),
        ("tokens written", rest.completion_tokens, "{:,.0f}".format, unknown),
        ("price", rest.cost, _price, price),
        ("time", rest.seconds, _time, "unknown (nothing was asked just now)"),
    )
    for name, span, words, missing in rows:
        text = f"{words(span.middle)} ({words(span.low)} to {words(span.high)})" if span else missing
        lines.append(f"  {name:<15} {text}")
    return lines


def _time(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} s"


def _price(amount: float) -> str:
    return f"{amount:,.2f}" if amount >= 1 else f"{amount:.2g}"


def _dropped(config: Path | None, overrides: list[str] | None, as_json: bool) -> None:
    """Goes through the replies that are kept once more, asking nothing: also where no question was kept, or the run
    was stopped."""
    from data.questions.asking import Unasked
    from data.questions.results import Dropped
    from flows.calls import CALLS
    from flows.ready import NotBuilt, facts, ready
    from tasks.work.questions import ask_or_import, teacher_of

    try:
        run, built, stale = ready(config, overrides, "index")
    except NotBuilt as error:
        do = "ask first: raft questions --preview 5"
        raise BadInput("No question was asked for this configuration yet", do=do) from error
    warn(stale)
    section = run.config.questions
    cache = run.store.cache("questions")
    silent = None
    if section.file is None:
        teacher = teacher_of(section, run.models["base"] if section.teacher == "local" else None)
        silent = Unasked(teacher.name, takes_shape=bool(getattr(teacher, "takes_shape", False)))
    retriever = _retriever(run, built, cache)
    line = next(call for call in CALLS if call.name == "questions")
    documents = built[line.inputs["ingest"]]
    outcome = ask_or_import(section, run.config.seed, retriever, documents, silent, cache, traced=True)
    sources = {chunk.id: chunk.source for chunk in retriever.chunks.values()}
    traces = [t for t in outcome.traces if not (isinstance(t.verdict, Dropped) and t.verdict.reason == "not_asked")]
    rows: list[tuple[Dropped, Sequence[Exchange]]] = [(row, ()) for row in outcome.dropped]
    if silent is not None:
        imported = [row for row in rows if row[0].row]  # accepted feedback, which no teacher was asked for
        asked = [(trace.verdict, trace.exchanges) for trace in traces if isinstance(trace.verdict, Dropped)]
        rows = [*asked, *imported]
    reasons = dict(Counter(row.reason for row, _ in rows).most_common())
    waiting = len(outcome.dropped) - len(rows)
    if as_json:
        emit(
            {
                "ok": True,
                **facts(stale),
                "kept": len(outcome.questions),
                "dropped": [_row(row, exchanges, sources) for row, exchanges in rows],
                "reasons": reasons,
                "not_asked": waiting,
                "questions": [trace.to_dict() for trace in traces if isinstance(trace.verdict, Question)],
            }
        )
        return
    out = Terminal()
    for row, exchanges in rows:
        out.rule(shown(sources.get(row.chunk_id) or f"row {row.row}"))
        if row.question:
            out.print(shown(row.question), markup=False, soft_wrap=True)
        _print_exchanges(out, exchanges, prompts=False)
        out.print(_verdict(row), markup=False, soft_wrap=True)
    out.rule()
    if reasons:
        out.print(
            table(
                "", ("dropped", "number"), [(reason.replace("_", " "), str(count)) for reason, count in reasons.items()]
            )
        )
    rest = f", {waiting} not asked yet" if waiting else ""
    out.print(f"{len(outcome.questions)} kept, {len(rows)} dropped{rest}.")


def _row(row: Dropped, exchanges: Sequence[Exchange], sources: Mapping[str, str]) -> dict[str, Any]:
    asked = [exchange.to_dict() for exchange in exchanges]
    return {**row.to_dict(), "source": sources.get(row.chunk_id, ""), "exchanges": asked}


def _print_exchanges(out: Console, exchanges: Sequence[Exchange], *, prompts: bool) -> None:
    for exchange in exchanges:
        if prompts:
            for message in exchange.messages:
                out.print(f"[{message['role']}] {shown(message['content'], lines=True)}", markup=False, soft_wrap=True)
        reply = exchange.reply
        text = shown(reply, lines=True) if isinstance(reply, str) else f"none ({reply.reason}: {shown(reply.detail)})"
        out.print(f"[{exchange.what}: reply] {text}", markup=False, soft_wrap=True)


def _verdict(verdict: Question | Dropped) -> str:
    if isinstance(verdict, Question):
        return f"→ kept: {shown(verdict.question)} {shown(verdict.answer) or '(to be refused)'}"
    return f"→ dropped: {verdict.reason.replace('_', ' ')}" + (f": {shown(verdict.detail)}" if verdict.detail else "")

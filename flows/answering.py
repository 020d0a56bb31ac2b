"""The verbs that use what was built: `search` the index, and `ask` the adapter with retrieved passages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows.cli import emit
from flows.config import load_config
from flows.verbs import ConfigOption, JsonOption, SetOption
from raft_errors import BadInput


def search(
    query: Annotated[str, typer.Argument(help="What to look for")],
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Results")] = 5,
    config: ConfigOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Search the index: chunk, score, source, page and span."""
    from tasks.retriever import open_retriever

    run, built = _ready(config, set_, "index")
    if not query.strip():
        raise BadInput("The query is empty", expected="a question or some words")
    retriever = open_retriever(built["index"], built["chunk"], run.models["embedder"])
    hits = retriever.search([query], k)[0]
    rows = [retriever.cite(hit).to_dict() for hit in hits]
    if json:
        emit({"ok": True, "query": query, "hits": rows})
        return
    out = Console(highlight=False)
    for row in rows:
        page = f", page {row['page']}" if row["page"] else ""
        out.print(
            f"[bold]{row['rank']}. {row['score']:.3f}[/bold]  {row['source']}{page}, "
            f"characters {row['start']}-{row['end']}, chunk {row['chunk_id']}",
            soft_wrap=True,
        )
        out.print(_indented(row["text"]), markup=False)


def _indented(text: str) -> str:
    return "\n".join("   " + line for line in text.strip().splitlines()) + "\n"


def _ready(config: Path | None, overrides: list[str] | None, until: str):
    """The finished stages up to `until`, or a message that says which command makes them."""
    from flows import pipeline

    run = pipeline.Run.of(load_config(config, overrides or []))
    built = pipeline.published(run, until)
    if built is None:
        raise BadInput(
            f"The stage {until} is not built for this configuration",
            do=f"build it first: raft {until}" + (f" {config}" if config else ""),
        )
    return run, built


def ask(
    question: Annotated[str, typer.Argument(help="The question")],
    k: Annotated[int | None, typer.Option("-k", min=1, max=50, help="Passages shown; default as in training")] = None,
    base: Annotated[bool, typer.Option("--base", help="Ask the base model instead of the adapter")] = False,
    max_tokens: Annotated[int, typer.Option(min=8, max=4096, help="Longest answer")] = 256,
    config: ConfigOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Ask the adapter: it answers from retrieved passages, with quotes that are checked against them."""
    from data.answer_metrics import check_quotes
    from data.prompting import parse_answer, render, template_from_contract, to_messages
    from jora_engine.generate import Generator
    from tasks.retriever import open_retriever
    from tasks.store import read_json

    run, built = _ready(config, set_, "export")
    if not question.strip():
        raise BadInput("The question is empty", expected="a question in words")
    contract = read_json(built["export"].path("adapter/raft.json"))["prompt"]
    template = template_from_contract(contract)
    retriever = open_retriever(built["index"], built["chunk"], run.models["embedder"])
    hits = retriever.search([question], k or contract["passages"])[0]
    chunks = [retriever.chunks[hit.chunk_id] for hit in hits]
    instruction, shown = render(question, chunks, template=template, may_refuse=contract["may_refuse"])
    adapter = None if base else built["export"].path("adapter")
    generator = Generator(run.models["base"].folder, adapter=adapter)
    messages = to_messages({"instruction": instruction, "input": shown})
    prompt = generator.tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    text = generator.generate([prompt], max_new_tokens=max_tokens)[0].text
    parsed = parse_answer(text, template=template)
    passages = [retriever.cite(hit).to_dict() for hit in hits]
    quotes = check_quotes(parsed.quotes, [p["text"] for p in passages], [])
    if json:
        answer = {"answer": parsed.final_answer, "refused": parsed.refused, "reasoning": parsed.reasoning}
        emit({"ok": True, "question": question, **answer, "quotes": quotes, "passages": passages, "text": text})
        return
    out = Console(highlight=False)
    out.print(parsed.final_answer or text, markup=False, style="bold")
    for quote in quotes:
        mark = "verbatim" if quote["verbatim"] else "NOT in the passages"
        out.print(f'  "{quote["text"]}" ({mark})', markup=False)
    out.print("\nPassages shown:")
    for number, passage in enumerate(passages, 1):
        page = f", page {passage['page']}" if passage["page"] else ""
        place = f"characters {passage['start']}-{passage['end']}"
        out.print(f"  [{number}] {passage['title']} ({passage['source']}{page}, {place})", markup=False, soft_wrap=True)

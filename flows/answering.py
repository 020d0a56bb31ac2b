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
    config: ConfigOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Ask the adapter: it answers from retrieved passages, with quotes that are checked against them."""
    raise BadInput("not yet")

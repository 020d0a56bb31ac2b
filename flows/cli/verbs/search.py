"""The verb `search`: looks a query up in the index."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.options import ConfigOption, JsonOption, SetOption, WhereOption, where_filter
from flows.cli.output import Terminal, emit, indented, plain, warn
from flows.ready import facts, open_search, ready
from raft_errors import BadInput


def search(
    query: Annotated[str, typer.Argument(help="What to look for")],
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Results")] = 5,
    where: WhereOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Search the index: chunk, score, source, page and span."""
    run, built, stale = ready(config, set_, "index")
    if not query.strip():
        raise BadInput("The query is empty", expected="a question or some words")
    warn(stale)
    retriever = open_search(run, built)
    hits = retriever.search([query], k, where=where_filter(where))[0]
    rows = [retriever.cite(hit).to_dict() for hit in hits]
    if json:
        emit({"ok": True, **facts(stale), "query": query, "hits": rows})
        return
    out = Terminal()
    if not rows:
        out.print(f"No passage passes --where {' '.join(where)}." if where else "Nothing was found.", markup=False)
    for row in rows:
        page = f", page {row['page']}" if row["page"] else ""
        out.print(
            f"[bold]{row['rank']}. {row['score']:.3f}[/bold]  {plain(row['source'])}{page}, "
            f"characters {row['start']}-{row['end']}, chunk {row['chunk_id']}",
            soft_wrap=True,
        )
        out.print(indented(row["text"].strip(), 3))
        out.print()

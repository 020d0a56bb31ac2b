"""`raft compare-bases`: several bases under one recipe, on one domain or on all of a file; which is worth adapting?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data.text.counts import counted
from flows.cli.options import ConfigArgument, JsonOption, KeepOption, SetOption, kept_names
from flows.cli.output import Display, Terminal, below_here, emit, plain, show_next, table
from flows.domains import is_domains_file, read_configs
from raft_errors import BadInput
from tasks.store.access import make_folder

if TYPE_CHECKING:
    from flows.bases import Outcome
    from tasks.store.store import Store

COLUMNS = ("base", "zero-shot → tuned", "difference", "training", "memory", "forecast", "")


def compare_bases(
    config: ConfigArgument = None,
    bases: Annotated[
        list[str] | None, typer.Option("--bases", help="Folders or Hub ids, or ID@REVISION; repeat, or a,b")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Of a file of domains this one; may be repeated")] = None,
    set_: SetOption = None,
    keep: KeepOption = None,
    json: JsonOption = False,
) -> None:
    """Train and evaluate several bases by one recipe. Whoever adds a base pays for that base."""
    from flows.bases import ahead, cells_of, compare, require_models
    from flows.calls import NAMES
    from flows.run import store_of

    configs = read_configs(config, set_ or [], only or [])
    cells = cells_of(configs, _names(bases))
    kept = kept_names(keep, NAMES)
    display = Display()
    try:
        require_models(cells, display)
        store = store_of(next(iter(configs.values())))
        store.prepare()
        outcomes: list[Outcome] = []
        for outcomes in compare(cells, display, kept):
            _write(store, outcomes, {})
        leaders = ahead(outcomes)
        page, sheet = _write(store, outcomes, leaders)
    finally:
        display.close()
    rows, forecast = [outcome.to_dict() for outcome in outcomes], _hit_rate(outcomes)
    worst = max((outcome.exit_code for outcome in outcomes), default=0)
    if json:
        places = {"report": str(page), "table": str(sheet)}
        emit({"ok": not worst, "exit_code": worst, "cells": rows, "ahead": leaders, "forecast": forecast, **places})
    else:
        _show(rows, leaders, forecast, page, sheet)
        if config is None or not is_domains_file(config):
            here = f" {config}" if config else ""
            show_next(Terminal(), [(f"raft run{here} --set models.base=NAME", "go on with one of them")])
    if worst:
        raise typer.Exit(worst)


def _names(bases: list[str] | None) -> list[str]:
    """The values of `--bases`, which may be lists with commas."""
    texts = [part for text in bases or [] for part in ([text] if Path(text).is_dir() else text.split(","))]
    names = [text.strip() for text in texts if text.strip()]
    if not names:
        raise BadInput(
            "There is no base to compare",
            expected="folders or Hub ids",
            do="name them, e.g. --bases ./base-a,owner/base-b",
        )
    return names


def _hit_rate(outcomes: Sequence[Outcome]) -> dict[str, int]:
    from data.evaluation.lift import hit_rate

    return hit_rate([(one.forecast, one.lift.gained if one.lift else None) for one in outcomes])


def _write(store: Store, outcomes: Sequence[Outcome], leaders: Mapping[str, Mapping[str, Any]]) -> tuple[Path, Path]:
    """The page and the table for other programs, as far as the comparison has come."""
    from data.reports.bases import bases_csv, bases_page

    rows = [outcome.to_dict() for outcome in outcomes]
    folder = make_folder(store.root / "reports")
    page, sheet = folder / "compare_bases.html", folder / "compare_bases.csv"
    linked = [{**row, "report": Path(row["report"]).as_uri() if row["report"] else ""} for row in rows]
    page.write_text(bases_page(linked, leaders, _hit_rate(outcomes)), encoding="utf-8", newline="\n")
    sheet.write_text(bases_csv(rows), encoding="utf-8", newline="\n")
    return page, sheet


def _show(
    rows: Sequence[Mapping[str, Any]],
    leaders: Mapping[str, Mapping[str, Any]],
    forecast: Mapping[str, int],
    page: Path,
    sheet: Path,
) -> None:
    from data.statistics import with_interval

    out = Terminal()
    for domain in dict.fromkeys(row["domain"] for row in rows):
        part = [row for row in rows if row["domain"] == domain]
        metrics = ", ".join(dict.fromkeys(row["metric"] for row in part if row["metric"]))
        out.print(table(f"{domain}{metrics and f': {metrics}'}", COLUMNS, [_cells(row) for row in part]))
        if leader := leaders.get(domain):
            out.print(f"Tuned, {plain(leader['base'])} scores highest.", soft_wrap=True)
            for other, figures in leader["others"].items():
                words = f"{with_interval(figures['difference'], figures)}, {figures['verdict']}"
                out.print(f"Ahead of {other} by {words}.", soft_wrap=True, markup=False)
        out.print()
    if forecast["decided"]:
        hits, decided, gained = (forecast[name] for name in ("hits", "decided", "gained"))
        words = f"in {hits} of {decided}; always to forecast a gain would in {gained}"
        out.print(f"The adviser's forecast came true {words}.", soft_wrap=True)
    out.print(f"report  {plain(below_here(page))}", soft_wrap=True)
    out.print(f"table   {plain(below_here(sheet))}", soft_wrap=True)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    from data.reports.bases import FLAGS, FORECASTS, memory, seconds_words
    from data.statistics import with_interval

    if row["state"] != "done":
        return (row["base"], "", row["state"], "", "", "", row["reason"])
    scores = change = "–"
    if row["tuned"] is not None:
        scores = f"{row['zero_shot']:.3f} → {row['tuned']:.3f}"
        change = with_interval(row["difference"], row)
    outcome = {True: ", came true", False: ", did not come true", None: ""}[row["came_true"]]
    training = f"{seconds_words(row['train_seconds'])}, {counted(row['train_tokens'] or 0, 'token')}"
    needs = f"{memory(row['weights_bytes'])}, step {memory(row['step_bytes'])}"
    words = FORECASTS[row["forecast"]] + outcome
    return (row["base"], scores, change, training, needs, words, FLAGS.get(row["flag"], ""))

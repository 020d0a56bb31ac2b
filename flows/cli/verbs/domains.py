"""`raft domains`: several domains from one file, which share what they have in common, some of them side by side.

Each domain is a `raft` command of its own (`run` or `retrain`) with its own log lines and its own exit code, so that a
failure stops no other domain; in the end there is one report over all. Caches, models and the store are shared.
"""

from __future__ import annotations

import contextlib
import json as jsonlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console

from data.text.shown import shown
from flows.cli.options import JsonOption
from flows.cli.output import Terminal, below_here, emit, plain, show_next, table
from flows.domains import read_domains
from tasks.config import RunConfig
from tasks.store.access import make_folder
from tasks.store.store import Store

OK_CODES = {0, 3, 4}  # of `raft retrain`: held, rejected and rolled back are decisions, not failures


@dataclass(frozen=True)
class Outcome:
    """How a domain ended.

    Attributes:
        reply: the JSON object that its command printed last.
        headline: the most important figures of its evaluation; empty if it was not evaluated.
        verdict: of that evaluation, by the rule of the promotion gate, or "".
        report: the page of its evaluation, or "".
    """

    name: str
    exit_code: int
    seconds: float
    reply: Mapping[str, Any] = field(default_factory=dict)
    headline: Mapping[str, Any] = field(default_factory=dict)
    verdict: str = ""
    report: str = ""

    @property
    def result(self) -> str:
        """One word or one line."""
        if self.exit_code not in OK_CODES:
            return str(self.reply.get("error") or f"ended with {self.exit_code}")
        ran = self.reply.get("ran")
        return str(self.reply.get("result") or ("nothing had to run" if ran == [] else "done"))

    def to_dict(self) -> dict[str, Any]:
        facts = {"name": self.name, "exit_code": self.exit_code, "seconds": self.seconds, "result": self.result}
        evaluation = {"headline": dict(self.headline), "verdict": self.verdict, "report": self.report}
        return {**facts, **evaluation, "told": dict(self.reply)}


def domains(
    file: Annotated[Path, typer.Argument(help="YAML file with `common` and `domains`")],
    retrain: Annotated[bool, typer.Option("--retrain", help="Decide and promote as raft retrain does")] = False,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, max=64, help="Domains side by side")] = 2,
    only: Annotated[list[str] | None, typer.Option(help="Only this domain; may be repeated")] = None,
    json: JsonOption = False,
) -> None:
    """Run several domains that share a base and an embedder, and report over all of them."""
    configs = read_domains(file, only or [])
    out = Terminal(stderr=True)
    first = next(iter(configs.values()))
    store = Store(Path(first.store), mode=first.store_mode)
    store.prepare()
    folder = make_folder(store.root / "domains")
    outcomes = run_all(configs, folder, "retrain" if retrain else "run", jobs, out)
    page = write_page(folder, outcomes)
    worst = max((o.exit_code for o in outcomes if o.exit_code not in OK_CODES), default=0)
    if json:
        emit({"ok": not worst, "exit_code": worst, "domains": [o.to_dict() for o in outcomes], "report": str(page)})
    else:
        rows = [(o.name, f"{o.seconds:.0f} s", _figures(o.headline), o.verdict, o.result) for o in outcomes]
        terminal = Terminal()
        terminal.print(table("", ("domain", "took", "token F1, base → adapter", "verdict", "result"), rows))
        terminal.print(f"report {below_here(page)}", soft_wrap=True)
        own = below_here(folder / f"{outcomes[0].name}.yaml")
        steps = [
            (f"raft report --open -c {own}", "the report of a domain"),
            (f"raft schedule {own}", "retrain it by the clock and when its documents change"),
        ]
        show_next(terminal, steps)
    if worst:
        raise typer.Exit(worst)


def run_all(configs: Mapping[str, RunConfig], folder: Path, verb: str, jobs: int, out: Console) -> list[Outcome]:
    """Runs each domain's command, at most `jobs` at once; if interrupted, all of them save their state."""
    children: list[subprocess.Popen[str]] = []
    mutex = threading.Lock()

    def one(name: str) -> Outcome:
        config = folder / f"{name}.yaml"
        _write_private(config, yaml.safe_dump(configs[name].model_dump(mode="json"), allow_unicode=True))
        command = [sys.executable, "-P", "-m", "flows.cli", verb, str(config), "--no-prefect", "--json"]
        began = time.monotonic()
        with mutex:
            child = subprocess.Popen(
                command,
                encoding="utf-8",
                errors="replace",  # a library's last words, say; a reader that stops would stop the child too
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            children.append(child)
        out.print(f"[bold]{name}[/bold] …")
        listener = threading.Thread(target=_pass_on, args=(name, child, out))
        listener.start()
        assert child.stdout is not None
        output = child.stdout.read()
        code = child.wait()
        listener.join()
        reply = _last_object(output)
        evaluation = _evaluation(Store(Path(configs[name].store)), reply)
        outcome = Outcome(name, code, round(time.monotonic() - began, 1), reply, *evaluation)
        out.print(f"[bold]{name}[/bold]: {plain(outcome.result)}", soft_wrap=True)
        return outcome

    with ThreadPoolExecutor(max_workers=jobs) as pool:
        try:
            return list(pool.map(one, configs))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            with mutex:
                for child in children:
                    child.terminate()
            raise


def _write_private(path: Path, text: str) -> None:
    """A file for the user alone, whatever was there before: the child needs URLs with their secrets."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def _pass_on(name: str, child: subprocess.Popen[str], out: Console) -> None:
    assert child.stderr is not None
    for line in child.stderr:
        out.print(f"{name}: {shown(line.rstrip(), lines=True)}", markup=False, soft_wrap=True)


def _last_object(output: str) -> dict[str, Any]:
    for line in reversed(output.splitlines()):
        with contextlib.suppress(ValueError):
            value = jsonlib.loads(line)
            if isinstance(value, dict):
                return value
    return {}


def _evaluation(store: Store, reply: Mapping[str, Any]) -> tuple[Mapping[str, Any], str, str]:
    """Headline, verdict and report of a command's evaluation; `run` names its manifest in full, `retrain` by a link."""
    stages = reply.get("stages") or []
    rows = list(stages.values()) if isinstance(stages, dict) else stages
    key = next((row["key"] for row in rows if row["stage"] == "evaluate"), None)
    manifest = store.read("evaluate", key) if key else None
    if manifest is None:
        return {}, "", ""
    figures = manifest.metrics
    return figures.get("headline") or {}, figures.get("verdict", ""), str(manifest.path("report.html"))


def _figures(headline: Mapping[str, Any]) -> str:
    from data.statistics import with_interval

    if not headline:
        return ""
    change = with_interval(headline["difference"], headline)
    return f"{headline['base']:.3f} → {headline['other']:.3f}, {change}"


def write_page(folder: Path, outcomes: list[Outcome]) -> Path:
    """One page over all domains, with links to the report of each."""
    from data.reports.page import render_page

    rows = [
        {
            "name": o.name,
            "result": o.result,
            "failed": o.exit_code not in OK_CODES,
            "seconds": o.seconds,
            "headline": o.headline,
            "verdict": o.verdict,
            "report": Path(o.report).as_uri() if o.report else "",
        }
        for o in outcomes
    ]
    page = folder / "report.html"
    page.write_text(render_page("domains.html.jinja", title="Domains", rows=rows), encoding="utf-8")
    return page

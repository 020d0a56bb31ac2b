"""The verbs that prepare: `init` writes a commented configuration, `schema` its schema, `models` fetches models."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import BaseModel
from rich.console import Console

from flows.cli.app import emit
from flows.cli.display import table
from raft_errors import BadInput
from tasks.config import CONFIG_NAME, RunConfig, describe_values, load_config


def init(
    path: Annotated[Path, typer.Argument(help="File to write")] = Path(CONFIG_NAME),
    corpus: Annotated[list[str] | None, typer.Option(help="Source to read; may be repeated")] = None,
    questions: Annotated[str | None, typer.Option(help="File with your own questions and answers")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output")] = False,
) -> None:
    """Write a configuration in which every field is explained."""
    if path.exists() and not force:
        raise BadInput(f"{path} exists already", do="name another file, or overwrite it with --force")
    text = commented(corpus=tuple(corpus) if corpus else None, questions_file=questions)
    path.write_text(text, encoding="utf-8")
    if json:
        emit({"ok": True, "path": str(path)})
    else:
        Console(highlight=False).print(f"Wrote {path}. Next: raft plan {path}, then raft run {path}", soft_wrap=True)


def commented(corpus: tuple[str, ...] | None = None, questions_file: str | None = None) -> str:
    """The default configuration as YAML, every field with its meaning and range; only what differs is set live."""
    given: dict[tuple[str, ...], Any] = {("corpus",): list(corpus or RunConfig().corpus)}
    if questions_file:
        given["questions", "file"] = questions_file
    lines = ["# Configuration of a RAFT run. A line that is commented out shows the default.", ""]
    lines += _section(RunConfig(), (), given)
    return "\n".join(lines) + "\n"


def _section(section: BaseModel, prefix: tuple[str, ...], given: dict[tuple[str, ...], Any]) -> list[str]:
    pad = "  " * len(prefix)
    lines: list[str] = []
    for name, info in type(section).model_fields.items():
        value, path = getattr(section, name), (*prefix, name)
        if isinstance(value, BaseModel):
            if not type(value).model_fields:
                continue
            lines += ["", f"{pad}# {info.description}", f"{pad}{name}:"]
            lines += _section(value, path, given)
            continue
        lines.append(f"{pad}# {info.description} ({describe_values(info)}).")
        live = path in given
        shown = given[path] if live else value
        lines.append(f"{pad}{'' if live else '# '}{name}: {_yaml(shown)}")
    return lines


def _yaml(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, allow_unicode=True, default_flow_style=True, width=10_000)
    return text.removesuffix("...\n").strip()


def schema(json: Annotated[bool, typer.Option("--json", help="The same: the schema is JSON")] = False) -> None:
    """Print the JSON schema of the configuration."""
    made = RunConfig.model_json_schema()
    if json:
        emit(made)
    else:
        typer.echo(jsonlib.dumps(made, indent=2, ensure_ascii=False))


def models(
    config: Annotated[Path | None, typer.Option("--config", "-c", help="YAML file")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="section.field=value")] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="Fetch what is not here yet")] = False,
    refresh: Annotated[bool, typer.Option("--refresh", help="Fetch anew, choosing the source again")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output")] = False,
) -> None:
    """List the models of a run, verify their bytes, and fetch them."""
    from tasks.inputs.models import forget, on_this_machine, resolve

    wanted = load_config(config, set_ or []).models
    say = Console(stderr=True, highlight=False).print
    rows = []
    for role, name, revision in (
        ("base", wanted.base, wanted.base_revision),
        ("embedder", wanted.embedder, wanted.embedder_revision),
    ):
        if refresh and not Path(name).is_dir():
            forget(name, revision)
        found = resolve(name, revision, say=say) if fetch or refresh else on_this_machine(name, revision)
        row: dict[str, Any] = {"role": role, "name": name, "state": "verified" if found else "not fetched"}
        if found:
            row |= {"source": found.source, "digest": found.digest, "folder": str(found.folder)}
        rows.append(row)
    if json:
        emit({"ok": True, "models": rows})
        return
    shown = [
        (r["role"], r["name"], r["state"], r.get("source", ""), r.get("digest", "")[:12], r.get("folder", ""))
        for r in rows
    ]
    Console(highlight=False).print(table("", ("role", "model", "state", "source", "digest", "folder"), shown))

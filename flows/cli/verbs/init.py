"""What a project begins with: `init` writes a commented configuration, `schema` prints its schema, `models` lists and
fetches the models that it names."""

from __future__ import annotations

import json as jsonlib
import os
import textwrap
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import BaseModel

from flows.cli.options import ConfigOption, JsonOption, SetOption
from flows.cli.output import Terminal, emit, plain
from raft_errors import BadInput
from tasks.config import CONFIG_NAME, RunConfig, describe_values, load_config

WIDTH = 100


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
    sources = tuple(_beside(path, source) for source in corpus) if corpus else None
    text = commented(corpus=sources, questions_file=_beside(path, questions) if questions else None)
    path.write_text(text, encoding="utf-8")
    if json:
        emit({"ok": True, "path": str(path)})
    else:
        Terminal().print(f"Wrote {path}. Next: raft plan {path}, then raft run {path}", soft_wrap=True)


def _beside(file: Path, source: str) -> str:
    """A source as it was typed, or, where the file is to stand in another folder, as it is called from there."""
    if "://" in source or source.startswith(("pydoc:", "/", "~")) or file.parent == Path():
        return source
    return os.path.relpath(source, file.parent)


def commented(corpus: tuple[str, ...] | None = None, questions_file: str | None = None) -> str:
    """The default configuration as YAML, each field explained and all but the given values commented out."""
    values: dict[tuple[str, ...], Any] = {("corpus",): list(corpus or RunConfig().corpus)}
    if questions_file:
        values["questions", "file"] = questions_file
    lines = ["# Configuration of a RAFT run. A line that is commented out shows the default.", ""]
    lines += _section(RunConfig(), (), values)
    return "\n".join(lines) + "\n"


def _section(section: BaseModel, prefix: tuple[str, ...], values: dict[tuple[str, ...], Any]) -> list[str]:
    pad = "  " * len(prefix)
    lines: list[str] = []
    for name, info in type(section).model_fields.items():
        value, path = getattr(section, name), (*prefix, name)
        if isinstance(value, BaseModel):
            if not type(value).model_fields:
                continue
            lines += ["", *_comment(pad, str(info.description)), f"{pad}{name}:"]
            lines += _section(value, path, values)
            continue
        lines += _comment(pad, f"{info.description} ({describe_values(info)}).")
        live = path in values
        entry = values[path] if live else value
        lines.append(f"{pad}{'' if live else '# '}{name}: {_yaml(entry)}")
    return lines


def _comment(pad: str, text: str) -> list[str]:
    """Words above a setting, in lines of at most `WIDTH` characters. A setting alone has one space behind its `#`."""
    first, *rest = textwrap.wrap(text, WIDTH - len(pad) - 4, break_long_words=False, break_on_hyphens=False)
    return [f"{pad}# {first}", *(f"{pad}#   {line}" for line in rest)]


def _yaml(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, allow_unicode=True, default_flow_style=True, width=10_000)
    return text.removesuffix("...\n").strip()


def schema(json: Annotated[bool, typer.Option("--json", help="No difference: the schema is JSON")] = False) -> None:
    """Print the JSON schema of the configuration."""
    document = RunConfig.model_json_schema()
    if json:
        emit(document)
    else:
        typer.echo(jsonlib.dumps(document, indent=2, ensure_ascii=False))


def models(
    config: ConfigOption = None,
    set_: SetOption = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="Fetch what is not here yet")] = False,
    refresh: Annotated[bool, typer.Option("--refresh", help="Fetch again, and choose the source again")] = False,
    json: JsonOption = False,
) -> None:
    """List the models of a run, verify their bytes, and fetch them."""
    from tasks.inputs.models import forget, on_this_machine, resolve

    names = load_config(config, set_ or []).model_names
    say = Terminal(stderr=True).print
    rows = []
    for role, (name, revision) in names.items():
        if refresh and not Path(name).is_dir():
            forget(name, revision)
        files = resolve(name, revision, say=say) if fetch or refresh else on_this_machine(name, revision)
        row: dict[str, Any] = {"role": role, "name": name, "state": "verified" if files else "not fetched"}
        if files:
            row |= {"source": files.source, "digest": files.digest, "folder": str(files.folder)}
        rows.append(row)
    if json:
        emit({"ok": True, "models": rows})
        return
    out = Terminal()
    for row in rows:
        out.print(f"{row['role']:<9} {plain(row['name'])}: {row['state']}", soft_wrap=True)
        if "folder" in row:
            out.print(f"{'':<9} {plain(row['source'])}, digest {row['digest'][:12]}", soft_wrap=True)
            out.print(f"{'':<9} {plain(row['folder'])}", soft_wrap=True)

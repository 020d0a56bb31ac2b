"""Arguments and options that several verbs share, and how their texts are read."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer

from raft_errors import BadInput
from tasks.adapters.registry import Registry
from tasks.config import RunConfig
from tasks.store.finished import finished_runs
from tasks.store.manifest import Link
from tasks.store.store import Store
from tasks.upkeep.lineage import find_export

ConfigArgument = Annotated[
    Path | None, typer.Argument(help="YAML file; without one ./raft.yaml, or the built-in defaults", show_default=False)
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML file; without one ./raft.yaml, or the built-in defaults")
]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="section.field=value, may be repeated")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on standard output")]
ForceOption = Annotated[bool, typer.Option("--force", help="Build again what is in the store")]
KeepOption = Annotated[
    list[str] | None,
    typer.Option(
        "--keep",
        help="Accept a stage's finished result although other code made it (repeat, or a,b): a name, all (wherever "
        "only the code differs), or none (give up what was kept before)",
        show_default=False,
    ),
]
NoPrefectOption = Annotated[bool, typer.Option("--no-prefect", help="Run without Prefect: no history, starts faster")]
WhereOption = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        help="Only these passages: source=guides/*, title=..., page=3, or a column of a table; may be repeated",
    ),
]
AdapterArgument = Annotated[
    str | None,
    typer.Argument(
        help="Version number, NAME:NUMBER, beginning of an export's key, or a folder; default: the one in use, else "
        "that of the last finished run, else the newest",
        show_default=False,
    ),
]


def with_config_option(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb with `-c`/`--config` beside its positional configuration: every verb takes it in both ways.

    The positional one is the parameter `config`, `path` or `file`, a path or a list of them; a verb with none of them
    needs no configuration and takes the option for the sake of scripts.
    """
    parameters = inspect.signature(verb).parameters
    hints = get_type_hints(verb, include_extras=True)
    declared = [getattr(part, "param_decls", None) or () for hint in hints.values() for part in get_args(hint)]
    if any("--config" in names for names in declared):
        return verb
    place = next((name for name in ("config", "path", "file") if name in parameters), None)
    several = place is not None and "list" in str(get_args(hints[place])[0])
    same = "The same as the argument" if place else "No difference here, where no configuration is read"
    option: Any = Annotated[list[Path] | None if several else Path | None, typer.Option("--config", "-c", help=same)]

    @functools.wraps(verb)
    def both(*args: Any, config_file: Any = None, **values: Any) -> None:
        if config_file and place is not None:
            given = values.get(place)
            default = parameters[place].default
            if given not in (None, default) and not several:
                raise BadInput(f"Two configurations were given: {given} and --config {config_file}", do="give one")
            values[place] = [*(given or []), *config_file] if several else config_file
        if place is not None and values.get(place) is None and parameters[place].default is inspect.Parameter.empty:
            raise BadInput("No file was given", expected=f"{place.upper()}, or --config {place.upper()}")
        verb(*args, **values)

    signature = [p.replace(annotation=hints.get(name, p.annotation)) for name, p in parameters.items()]
    if place is not None and parameters[place].default is inspect.Parameter.empty:
        at = list(parameters).index(place)
        kind, *rest = get_args(hints[place])
        signature[at] = signature[at].replace(default=None, annotation=Annotated[kind | None, *rest])
    extra = inspect.Parameter("config_file", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
    both.__signature__ = inspect.Signature([*signature, extra])  # type: ignore[attr-defined]
    both.__annotations__ = {p.name: p.annotation for p in [*signature, extra]}
    return both


def kept_names(keep: list[str] | None, stages: Collection[str], force: bool = False) -> list[str]:
    """The values of `--keep`, which may be lists with commas.

    Args:
        stages: those that the command reaches.
    Raises:
        BadInput: a name is not among them, or `all` is combined with `--force`.
    """
    names = [name.strip() for text in keep or [] for name in text.split(",") if name.strip()]
    for name in names:
        if name not in (*stages, "all", "none"):
            choices = ", ".join((*stages, "all", "none"))
            raise BadInput(f"--keep {name}: this command reaches no such stage", expected=f"one of {choices}")
    if force and "all" in names:
        raise BadInput("--force and --keep all ask for opposite things", do="give one of the two")
    return names


def where_filter(texts: list[str] | None) -> dict[str, Any] | None:
    """`field=value` texts as a filter; a field named twice may have either value."""
    values: dict[str, list[Any]] = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals or not value.strip():
            raise BadInput(f"--where {text!r}", expected="field=value, e.g. source=guides/* or page=3")
        page = name.strip() == "page" and value.strip().isdigit()
        values.setdefault(name.strip(), []).append(int(value) if page else value.strip())
    return values or None


def chosen_adapter(store: Store, config: RunConfig, adapter: str | None) -> tuple[Link, Link | None]:
    """The export of the adapter that is meant, and its evaluation if the registry names one."""
    name, _, number = (adapter or "").rpartition(":")
    if adapter is None or (number.isdecimal() and len(number) < 6 and not Path(adapter).is_dir()):
        registry = Registry(store, name or config.name).read()
        version = registry.version(int(number)) if adapter else registry.in_use
        if version is not None:
            return version.stages["export"], version.stages.get("evaluate")
        for run in finished_runs(store, name or config.name):
            if "export" in run.results:
                return run.results["export"], run.results.get("evaluate")
    return find_export(store, adapter), None

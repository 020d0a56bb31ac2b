"""The verb `records`: builds the stage, shows records as the model will see them, and compares two data sets."""

from __future__ import annotations

import contextlib
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from data.nouns import Record, read_jsonl
from data.text.counts import counted
from data.text.shown import shown
from flows.cli.options import ConfigArgument, ForceOption, JsonOption, KeepOption, NoPrefectOption, SetOption
from flows.cli.output import Terminal, emit, warn
from flows.cli.verbs.run import build_to
from flows.ready import facts, ready
from raft_errors import BadInput
from tasks.build import kept
from tasks.config import load_config
from tasks.store.manifest import read_manifest
from tasks.store.store import Store, read_json

SPLITS = ("train", "validation", "test")


def records(
    config: ConfigArgument = None,
    set_: SetOption = None,
    show: Annotated[
        int | None,
        typer.Option("--show", min=1, max=1000, help="Show this many records, trained tokens between ⟦ and ⟧"),
    ] = None,
    diff: Annotated[
        tuple[str, str] | None,
        typer.Option("--diff", help="What changed between two data sets: folders, keys in the store, previous, latest"),
    ] = None,
    keep: KeepOption = None,
    force: ForceOption = False,
    no_prefect: NoPrefectOption = False,
    json: JsonOption = False,
) -> None:
    """Compose RAFT records. Builds what it needs first. --show and --diff look at what was built."""
    run_config = load_config(config, set_ or [])
    if diff:
        _diff(Store(Path(run_config.store)), diff, json)
        return
    if show is None:
        build_to(config, set_, "records", force, no_prefect, json, keep)
        return
    _show(config, set_, show, json)


def _show(config: Path | None, overrides: list[str] | None, count: int, as_json: bool) -> None:
    """Records as the trainer will see them, with the figures of the token check."""
    from jora_engine.files.tokenizer import Tokenizer
    from tasks.work.records import check_training_tokens

    run, built, stale = ready(config, overrides, "records")
    warn(stale)
    manifest = built["records"]
    rows = list(islice(read_jsonl(manifest.path("train.jsonl"), Record), count))
    tokenizer = Tokenizer.load(run.models["base"].folder, **run.models["base"].chat)
    samples = check_training_tokens(rows, tokenizer, run.config.records.max_tokens, samples=count).samples
    figures = read_json(manifest.path("preflight.json"))["figures"]
    if as_json:
        emit({"ok": True, **facts(stale), "samples": samples, "figures": figures, "folder": str(manifest.folder)})
        return
    out = Terminal()
    for number, (sample, row) in enumerate(zip(samples, rows, strict=True), 1):
        out.rule(f"record {number}: {row.metadata['label']}, oracle at {row.metadata['oracle_positions'] or 'none'}")
        out.print(shown(sample, lines=True), markup=False, soft_wrap=True)
    out.rule()
    for line in _figures(figures):
        out.print(line, markup=False, soft_wrap=True)
    out.print(f"card: {manifest.path('card.html')}", markup=False, soft_wrap=True)


def _figures(figures: dict[str, Any]) -> list[str]:
    length, trained_length = figures["length"], figures["trained_length"]
    return [
        f"{counted(figures['records'], 'record')} for training and validation, {counted(figures['tokens'], 'token')}, "
        f"of which {figures['trained_tokens']} are trained ({figures['trained_share']:.1%})",
        f"tokens per record: median {length['p50']}, most {length['max']}; trained: median {trained_length['p50']}, "
        f"most {trained_length['max']}",
        f"without label {figures['without_label']}, end not trained {figures['without_end']}, "
        f"cut {figures['cut']}, output not whole {figures['output_not_whole']}",
    ]


def _diff(store: Store, names: tuple[str, str], as_json: bool) -> None:
    from data.records.diff import diff_records

    before, after = (_data_set(store, name) for name in names)
    difference = diff_records(_read(before), _read(after))
    if as_json:
        emit({"ok": True, "before": str(before), "after": str(after), **difference.to_dict()})
        return
    for line in (f"{_named(before)} → {_named(after)}", *difference.lines()):
        Terminal().print(shown(line, lines=True), markup=False, soft_wrap=True)


def _named(folder: Path) -> str:
    """A data set in words: of the store by its day and the beginning of its key, else by its folder."""
    with contextlib.suppress(OSError, ValueError):
        manifest = read_manifest(folder)
        return f"records of {kept.day(manifest)} UTC ({manifest.key[:8]})"
    return str(folder)


def _data_set(store: Store, name: str) -> Path:
    """A folder with records: a path, the beginning of a key, or `latest` or `previous`."""
    if (Path(name) / "train.jsonl").is_file():
        return Path(name)
    folders = [manifest.folder for manifest in reversed(store.manifests("records"))]
    words = {"latest": folders[-1:], "previous": folders[-2:-1]}
    matches = words[name] if name in words else [f for f in folders if name and f.name.startswith(name)]
    if len(matches) != 1:
        keys = ", ".join(f.name[:12] for f in folders[-5:]) or "none"
        raise BadInput(
            f"{name!r} names {len(matches) or 'no'} data sets",
            expected=f"a folder with train.jsonl, previous, latest, or the beginning of one key (here: {keys})",
            do="correct it, or build the records first: raft records",
        )
    return matches[0]


def _read(folder: Path) -> list[Record]:
    files = [folder / f"{split}.jsonl" for split in SPLITS]
    return [record for file in files if file.is_file() for record in read_jsonl(file, Record)]

"""The verb `card`: writes an adapter's model card."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from data.nouns import Document, read_jsonl
from flows.cli.options import AdapterArgument, ConfigOption, JsonOption, SetOption, chosen_adapter
from flows.cli.output import Terminal, emit
from flows.plan import licences_of
from raft_errors import BadInput
from tasks.config import RunConfig, load_config
from tasks.inputs.licences import UNKNOWN, Licences, of_documents
from tasks.store.store import Store, read_json
from tasks.upkeep.lineage import Chain, trace
from tasks.work.model_card import README, model_card


def card(
    adapter: AdapterArgument = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="New folder for the adapter with its card, ready to upload")
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Write the adapter's model card with its results; with --out beside a copy of the adapter."""
    run_config = load_config(config, set_ or [])
    store = Store(Path(run_config.store))
    chain = trace(store, *chosen_adapter(store, run_config, adapter))
    text = _card(chain, run_config)
    if out is not None:
        if out.exists():
            raise BadInput(f"{out} exists already", do="name another folder")
        manifest = store.load(chain.export.stage, chain.export.key)
        if manifest is None:
            raise BadInput("The adapter's files are not whole in the store", do="build them again: raft export")
        shutil.copytree(manifest.path("adapter"), out)
        (out / README).write_text(text, encoding="utf-8")
    if json:
        emit({"ok": True, "card": text, "folder": str(out) if out else None})
    elif out is None:
        typer.echo(text)
    else:
        Terminal().print(f"Wrote {out}: the adapter, its contract and its card.", soft_wrap=True)


def _card(chain: Chain, config: RunConfig) -> str:
    licences = _licences(chain, config)
    training, evaluation = chain.step("train"), chain.step("evaluate")
    metrics = None
    if evaluation and evaluation.manifest:
        with contextlib.suppress(OSError, ValueError):
            metrics = read_json(evaluation.manifest.path("metrics.json"))
    return model_card(
        chain.contract,
        name=config.name,
        training=training.ingredients.get("config", {}) if training else {},
        figures=training.manifest.metrics if training and training.manifest else {},
        evaluation=metrics,
        evaluated=evaluation.link.digest if evaluation and metrics else "",
        licences=_sentences(licences),
        licence="" if licences.base == UNKNOWN else licences.base,
    )


def _licences(chain: Chain, config: RunConfig) -> Licences:
    """Of the models that the adapter names, and of the documents that its corpus held."""
    ingest = chain.step("ingest")
    documents: dict[str, int] = {}
    if ingest and ingest.manifest:
        with contextlib.suppress(OSError, ValueError):
            read = read_jsonl(ingest.manifest.path("documents.jsonl"), Document)
            documents = of_documents(read, config.licences.documents)
    return replace(licences_of(config), documents=documents)


def _sentences(licences: Licences) -> list[str]:
    counts = ", ".join(f"{name or 'none named'} ({count})" for name, count in licences.documents.items())
    named = {
        "Base model": licences.base,
        "Embedder": licences.embedder,
        "Teacher": licences.teacher,
        "Documents": counts or UNKNOWN,
    }
    return [*(f"{what}: {name}" for what, name in named.items() if name), *licences.conflicts(), *licences.gaps()]

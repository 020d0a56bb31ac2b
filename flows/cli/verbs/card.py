"""The verb `card`: writes an adapter's model card."""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path
from typing import Annotated

import typer
import yaml

from flows.cli.options import AdapterArgument, ConfigOption, JsonOption, SetOption, chosen_adapter
from flows.cli.output import Terminal, emit
from flows.licences import licences_of, lines
from raft_errors import BadInput
from tasks.config import RunConfig, load_config
from tasks.inputs.licences import UNKNOWN, Licences
from tasks.store.manifest import MANIFEST
from tasks.store.store import Store, read_json
from tasks.upkeep.lineage import Chain, trace
from tasks.work.model_card import README, model_card


def card(
    adapter: AdapterArgument = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="New folder for the adapter with its card, ready to upload")
    ] = None,
    config: ConfigOption = None,
    records: Annotated[
        bool, typer.Option("--records", help="The data-set card of the records that the adapter learned from")
    ] = False,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Write the adapter's model card with its results; with --out beside a copy of the adapter."""
    run_config = load_config(config, set_ or [])
    store = Store(Path(run_config.store))
    chain = trace(store, *chosen_adapter(store, run_config, adapter))
    if out is not None and out.exists():
        raise BadInput(f"{out} exists already", do="name another folder")
    folder = _folder(store, chain, "records" if records else "export") if records or out else None
    text = _records_card(chain, run_config, folder) if records and folder else _card(chain, run_config)
    if out is not None and folder is not None:
        shutil.copytree(folder if records else folder / "adapter", out)
        (out / MANIFEST).unlink(missing_ok=True)
        (out / README).write_text(text, encoding="utf-8")
    if json:
        emit({"ok": True, "card": text, "folder": str(out) if out else None})
    elif out is None:
        typer.echo(text)
    else:
        whole = "the records and their card" if records else "the adapter, its contract and its card"
        Terminal().print(f"Wrote {out}: {whole}.", soft_wrap=True)


def _folder(store: Store, chain: Chain, stage: str) -> Path:
    """The files of a step, checked."""
    step = chain.step(stage)
    manifest = store.load(step.link.stage, step.link.key) if step else None
    if manifest is None:
        what = "adapter" if stage == "export" else stage
        raise BadInput(f"The files of the {what} are not whole in the store", do=f"build them again: raft {stage}")
    return manifest.folder


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
        licences=lines(licences),
        licence="" if licences.base == UNKNOWN else licences.base,
    )


def _records_card(chain: Chain, config: RunConfig, records: Path) -> str:
    """The data-set card: what tells `datasets` the files, with the documents' licence, then figures and licences."""
    header = re.match(r"---\n(.*?)\n---", _text(records / README), re.DOTALL)
    licences = _licences(chain, config)
    fields: dict[str, object] = {"license": licences.of_all_documents.lower()} if licences.of_all_documents else {}
    fields |= {"task_categories": ["question-answering"], "tags": ["raft", "retrieval-augmented-generation"]}
    head = f"---\n{yaml.safe_dump(fields, sort_keys=False)}{header[1] if header else ''}\n---\n"
    named = "\n".join(f"- {line}" for line in lines(licences))
    return f"{head}\n{_text(records / 'card.md').strip()}\n\n## Licences\n\n{named}\n"


def _licences(chain: Chain, config: RunConfig) -> Licences:
    """Of the models that the adapter names, and of the documents that its corpus held."""
    ingest = chain.step("ingest")
    return licences_of(config, ingest.manifest if ingest else None)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""

"""The verb `explain`: draws the chain behind an adapter, and checks it byte by byte."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from data.prompting.contract import chat_of
from data.text.counts import counted
from flows.cli.options import AdapterArgument, ConfigOption, JsonOption, SetOption, chosen_adapter
from flows.cli.output import Terminal, emit, plain
from tasks.build.origin import elsewhere, in_words
from tasks.config import RunConfig, load_config
from tasks.inputs.models import ModelFiles, on_this_machine
from tasks.store.manifest import Link
from tasks.store.store import Store
from tasks.upkeep.lineage import (
    Chain,
    Finding,
    Step,
    built_at,
    kept_steps,
    made_by_other_code,
    trace,
    verify,
)


def explain(
    adapter: AdapterArgument = None,
    check: Annotated[bool, typer.Option("--verify", help="Recompute every digest from the bytes")] = False,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="A Mermaid flowchart instead of the tree")] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Show what an adapter was made from: corpus, chunks, index, questions, records, training, export, evaluation."""
    run_config = load_config(config, set_ or [])
    store = Store(Path(run_config.store))
    chain = trace(store, *chosen_adapter(store, run_config, adapter))
    findings = _findings(chain, store, run_config) if check else None
    making = _making(chain, store)
    broken = any(f.fault for f in findings or ())
    if json:
        verdict = {} if findings is None else {"holds": not broken, "findings": [f.__dict__ for f in findings]}
        lineage = chain.to_dict()
        for row in lineage["steps"]:
            row["kept"], row["differs"] = making.get((row["stage"], row["key"]), (False, []))
        emit({"ok": not broken, **lineage, **verdict})
    elif mermaid:
        typer.echo(flowchart(chain))
    else:
        out = Terminal()
        out.print(_tree(chain, making))
        if findings is not None:
            _tell(out, chain, findings)
    if broken:
        raise typer.Exit(1)


def _findings(chain: Chain, store: Store, config: RunConfig) -> list[Finding]:
    from flows.calls import STAGES
    from tasks.ingest import corpus_of

    names = dict(config.model_names)
    names["base"] = (chain.contract.get("base_model") or config.models.base, config.models.base_revision)
    chat = {"variables": {}, "prefill": "", **chat_of(chain.contract.get("prompt", {}))}

    @functools.cache
    def model(role: str) -> ModelFiles | None:
        files = on_this_machine(*names[role]) if role in names else None
        return files.with_chat(**chat) if files and role == "base" else files

    return verify(
        chain,
        store,
        stages=STAGES,
        models=model,
        corpus=lambda: corpus_of(config.corpus, config.ingest, store).digest,
    )


def _tell(out: Console, chain: Chain, findings: list[Finding]) -> None:
    faults = [f for f in findings if f.fault]
    for finding in findings:
        mark = "[red]✗[/red]" if finding.fault else "[yellow]·[/yellow]"
        out.print(f"{mark} [bold]{finding.step}[/bold]: {plain(finding.what)}", soft_wrap=True)
    files = sum(len(step.manifest.files) for step in chain.steps if step.manifest)
    if faults:
        out.print(f"[red]The chain does not hold: {len(faults)} of its links are broken.[/red]")
    else:
        out.print(
            f"[green]The chain holds[/green]: {counted(len(chain.steps), 'step')}, {counted(files, 'file')} "
            "read again, byte by byte."
        )


def _making(chain: Chain, store: Store) -> dict[tuple[str, str], tuple[bool, list[str]]]:
    """`{(stage, key): (was it kept, what differs)}` of the steps that this installation would make differently."""
    from flows.calls import STAGES

    kept_entries = kept_steps(chain, store)
    other = made_by_other_code(chain, STAGES)
    return {entry: (entry in kept_entries, words) for entry, words in other.items()}


def _tree(chain: Chain, making: Mapping[tuple[str, str], tuple[bool, list[str]]]) -> Tree:
    contract = chain.contract
    root = Tree(f"[bold]adapter {chain.export.key[:8]}[/bold] of {contract.get('base_model', 'an unknown base')}")
    corpus = next((step.outside["corpus"] for step in chain.steps if "corpus" in step.outside), None)
    if corpus:
        root.add(f"[bold]corpus[/bold]\ndigest {corpus}")
    for step in chain.steps:
        is_kept, differs = making.get((step.link.stage, step.link.key), (False, []))
        code = (
            [escape(f"code   {'kept: ' if is_kept else ''}made by other code: {'; '.join(differs)}")] if differs else []
        )
        root.add("\n".join([*_lines(step), *code]))
    return root


def _lines(step: Step) -> list[str]:
    manifest = step.manifest
    if manifest is None:
        return [f"[bold]{step.name}[/bold] [red]not in the store any more[/red]", f"digest {step.link.digest}"]
    facts = step.ingredients
    parents = [f"{name} {link.digest[:12]}" for name, link in step.inputs.items()]
    parents += [f"{name} {digest[:12]}" for name, digest in step.outside.items()]
    sections = {
        "": facts.get("config", {}),
        **{f"{name}.": section for name, section in facts.get("shared", {}).items()},
    }
    config = ", ".join(f"{at}{name}={_short(v)}" for at, section in sections.items() for name, v in section.items())
    models = ", ".join(f"{role} {digest[:12]}" for role, digest in facts.get("models", {}).items())
    lines = [
        f"[bold]{step.link.stage}[/bold] {escape(manifest.summary)}",
        f"digest {step.link.digest}",
        f"key    {step.link.key}, built {built_at(manifest)} in {manifest.seconds:.1f} s",
        f"from   {', '.join(parents) or 'nothing'}",
    ]
    machine, foreign = in_words(manifest.machine), elsewhere(manifest.machine)
    lines += [escape(f"on     {machine}{foreign and f' ({foreign})'}")] if machine else []
    lines += [escape(f"config {config}")] if config else []
    lines += [f"models {models}"] if models else []
    lines += [f"seed   {facts['seed']}"] if facts.get("seed") is not None else []
    return lines


def _short(value: Any) -> str:
    if isinstance(value, dict) and "sha256" in value:
        return f"sha256:{value['sha256'][:12]}"
    return str(value)


def flowchart(chain: Chain) -> str:
    """The chain as a Mermaid flowchart, which GitHub and many editors draw."""
    lines = ["flowchart TD"]
    for step in chain.steps:
        words = step.manifest.summary if step.manifest else "not in the store any more"
        safe = words.replace('"', "'").replace("<", "‹").replace(">", "›")
        lines.append(f'  {_node(step.link)}["<b>{step.link.stage}</b> {step.link.digest[:12]}<br/>{safe}"]')
        for name, digest in step.outside.items():
            lines.append(f'  {name}_{digest[:8]}(["{name} {digest[:12]}"]) --> {_node(step.link)}')
        lines += [f"  {_node(parent)} --> {_node(step.link)}" for parent in step.inputs.values()]
        for role, digest in step.ingredients.get("models", {}).items():
            lines.append(f'  {role}_{digest[:8]}[("{role} {digest[:12]}")] -.-> {_node(step.link)}')
    return "\n".join(dict.fromkeys(lines))


def _node(link: Link) -> str:
    return f"{link.stage}_{link.key[:8]}"

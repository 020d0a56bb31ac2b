"""The verb `export`: builds the stage, and tells which servers read an adapter as it is meant."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data.text.shown import shown
from flows.cli.options import ConfigArgument, ForceOption, JsonOption, KeepOption, NoPrefectOption, SetOption
from flows.cli.output import Terminal, emit, table, warn
from flows.cli.verbs.run import build_to
from flows.ready import facts, ready
from raft_errors import BadInput

if TYPE_CHECKING:
    from flows.run import Run
    from flows.walk import Built
    from jora_engine.adapters.consumers import Finding


def export(
    config: ConfigArgument = None,
    set_: SetOption = None,
    check: Annotated[
        str | None,
        typer.Option("--check", help="Build nothing: say what peft, vllm, lorax, tgi, sglang, llama.cpp or all read"),
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option("--adapter", help="With --check: another adapter of the base, a PEFT folder")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="With --check: write the adapter there in a form that all read"),
    ] = None,
    keep: KeepOption = None,
    force: ForceOption = False,
    no_prefect: NoPrefectOption = False,
    json: JsonOption = False,
) -> None:
    """Write the PEFT adapter and the merged model, and check that they agree with the engine.

    Builds what it needs before. --check looks at a finished adapter.
    """
    if check is None:
        if adapter or out:
            raise BadInput("--adapter and --out belong to --check", do="say for whom: --check all")
        build_to(config, set_, "export", force, no_prefect, json, keep)
        return
    _check(config, set_, check, adapter, out, json)


def _check(
    config: Path | None, set_: list[str] | None, whom: str, adapter: Path | None, out: Path | None, as_json: bool
) -> None:
    """The table of an adapter and the programs asked for. Exit code 1 where one of them would read it wrongly."""
    from jora_engine.adapters.canonical import write_canonical
    from jora_engine.adapters.consumers import CONSUMERS, OK, REFUSED, check_consumers, read_facts, verdict
    from jora_engine.files.weights import read_model_config

    consumers = CONSUMERS if whom == "all" else (whom,)
    if whom != "all" and whom not in CONSUMERS:
        raise BadInput(f"--check {whom}", expected=f"one of {', '.join(CONSUMERS)}, all")
    run, built, stale = ready(config, set_, "index" if adapter else "export")
    warn(None if adapter else stale)
    folder = adapter or built["export"].path("adapter")
    model = read_model_config(run.models["base"].folder)
    findings = write_canonical(folder, model, out) if out else check_consumers(read_facts(folder, model))
    verdicts = {name: verdict(findings, name) for name in consumers}
    asked = None
    if verdicts.get("llama.cpp") == OK:
        asked, agree = _ask_llama_cpp(run, built, out or folder)
        verdicts["llama.cpp"] = OK if agree else REFUSED
    if as_json:
        rows = [{"what": f.what, "verdicts": {n: f.verdicts[n] for n in consumers}} for f in findings]
        emit(
            {
                "ok": all(one == OK for one in verdicts.values()),
                **facts(None if adapter else stale),
                "adapter": str(out or folder),
                "verdicts": verdicts,
                "found": rows,
                **({"llama.cpp": asked} if asked else {}),
            }
        )
    else:
        _show(findings, consumers, verdicts, out or folder)
        if asked:
            Terminal().print(shown(f"llama.cpp: {asked}"), markup=False, soft_wrap=True)
    if any(one != OK for one in verdicts.values()):
        raise typer.Exit(1)


def _ask_llama_cpp(run: Run, built: Built, adapter: Path) -> tuple[str, bool]:
    """What llama.cpp itself says of the adapter on the base, where its extra is installed, and whether it is right."""
    from jora_engine.generation.llama_cpp import EXTRA, available

    if not available():
        return f"the rules alone were applied; with pip install 'jora-raft[{EXTRA}]' it is asked itself", True
    from jora_engine.generation.llama_cpp_check import compare_with_llama_cpp

    base = run.models["base"]
    try:
        told = compare_with_llama_cpp(base.folder, adapter, _chats(built), chat=base.chat)
    except BadInput as error:
        return f"the rules alone were applied, since {error.what}", True
    ties = f" ({told.near_ties} more part at a near tie)" if told.near_ties else ""
    return (
        f"asked itself (xllamacpp {told.version}, float32): {told.same_prompts} of {told.chats} chats give the "
        f"engine's tokens, {told.same_answers} of {told.chats} greedy answers are the engine's{ties}",
        told.agree,
    )


def _chats(built: Built) -> list[list[dict[str, str]]]:
    """Three prompts of the run's test records, or plain questions where it has none."""
    from data.nouns import Record, read_jsonl
    from data.prompting.contract import to_messages

    if "records" in built:
        rows = list(itertools.islice(read_jsonl(built["records"].path("test.jsonl"), Record), 3))
        if rows:
            return [to_messages(row) for row in rows]
    return [
        [{"role": "user", "content": text}] for text in ("What is the capital of France?", "Count from 1 to 12345.")
    ]


def _show(findings: list[Finding], consumers: tuple[str, ...], verdicts: dict[str, str], folder: Path) -> None:
    rows: list[tuple[Any, ...]] = [(shown(f.what), *(f.verdicts[name] for name in consumers)) for f in findings]
    rows.append(("in all", *(verdicts[name] for name in consumers)))
    console = Terminal()
    console.print(table("", ("the adapter has", *consumers), rows))
    console.print(shown(f"adapter: {folder}"), markup=False, soft_wrap=True)
    if "mended" in verdicts.values():
        console.print("mended: --out FOLDER writes it in a form that means the same and is read by all", markup=False)
    if "refused" in verdicts.values():
        console.print("refused: serve the merged model there", markup=False)

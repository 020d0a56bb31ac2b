"""The verb `ask`: asks the adapter, which answers from retrieved passages."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from data.text.shown import shown
from flows.cli.options import ConfigOption, JsonOption, SetOption, WhereOption, where_filter
from flows.cli.output import Terminal, emit, warn
from flows.ready import facts, open_search, ready
from raft_errors import BadInput

if TYPE_CHECKING:
    from flows.run import Run
    from flows.walk import Built
    from tasks.runtime.asking import Asked


def ask(
    question: Annotated[str, typer.Argument(help="The question")],
    k: Annotated[int | None, typer.Option("-k", min=1, max=50, help="Passages shown; default as in training")] = None,
    where: WhereOption = None,
    compare: Annotated[bool, typer.Option("--compare", help="Ask the base model too, with the same passages")] = False,
    base: Annotated[bool, typer.Option("--base", help="Ask the base model alone; needs no adapter yet")] = False,
    copy_quotes: Annotated[
        bool | None,
        typer.Option(
            "--copy-quotes/--free-quotes",
            help="Allow only quotes that stand in a passage word for word; default as ask.citation_error was "
            "calibrated, else free",
            show_default=False,
        ),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=8, max=4096, help="Longest answer")] = 256,
    config: ConfigOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Ask the adapter: it answers from retrieved passages, with quotes that are checked against them."""
    from data.prompting.contract import chat_of, template_from_contract
    from jora_engine.adapters.peft_folder import precision_of
    from tasks.runtime.asking import put

    if not question.strip():
        raise BadInput("The question is empty", expected="a question in words")
    if base and compare:
        raise BadInput("--base and --compare were both given", expected="one of them: --compare asks both models")
    run, built, stale = ready(config, set_, "index" if base else "export")
    warn(stale)
    contract = _contract(run, built)
    template = template_from_contract(contract)
    asked = put(question, open_search(run, built), template, contract, k=k, where=where_filter(where))
    if where and not asked.citations:
        raise BadInput(
            f"No passage passes --where {' '.join(where)}",
            expected="a filter that some passage of the corpus passes",
            do="correct the filter; `raft search` shows sources",
        )
    copied = bool(asked.citing.get("copy_quotes")) if copy_quotes is None else copy_quotes
    passages = [citation.to_dict() for citation in asked.citations]
    adapters: dict[str, Path | None] = {} if base else {"adapter": built["export"].path("adapter")}
    if base or compare:
        adapters["base"] = None
    model = run.models["base"]
    chat = chat_of(contract) if "export" in built else dict(model.chat)
    held = precision_of(None if base else built["export"].path("adapter"))  # the base that is compared with, too
    out = Terminal()
    answers = {}
    for name, adapter in adapters.items():
        if not asked.citations:
            answers[name] = asked.read(asked.refusal)
            continue
        if not json:
            out.print(f"[dim]{name} writes:[/dim]")
        show = None if json else _Stream(out)
        who = asked if adapter else dataclasses.replace(asked, citing={})  # of the base nothing is promised
        answers[name] = _answer(model.folder, chat, adapter, who, max_tokens, show, copied, held)
        if not json:
            out.print("\n")
    if json:
        first = answers[next(iter(adapters))]
        told = {"answers": answers, "passages": passages, **({"citing": asked.citing} if asked.citing else {})}
        emit({"ok": True, **facts(stale), "question": question, **first, **told})
        return
    for name, answer in answers.items():
        if compare:
            out.print(f"{name}:")
        out.print(shown(answer["answer"] or answer["text"], lines=True), markup=False, style="bold")
        for quote in answer["quotes"]:
            place = f" [{quote['passage']}]" if quote["passage"] else ""
            out.print(f'  "{shown(quote["text"])}"{place} ({_place_in_words(quote)})', markup=False, soft_wrap=True)
        if answer.get("withheld"):
            out.print(f"Withheld: {shown(answer['text'], lines=True)}", markup=False, style="dim")
        out.print()
    if asked.citing:
        out.print(_promise(asked.citing), markup=False, soft_wrap=True)
    out.print("Passages shown:" if passages else "No passage was found, so no model was asked.")
    for number, passage in enumerate(passages, 1):
        page = f", page {passage['page']}" if passage["page"] else ""
        place = f"characters {passage['start']}-{passage['end']}"
        name = f"{shown(passage['title'])} ({shown(passage['source'])}{page}, {place})"
        out.print(f"  [{number}] {name}", markup=False, soft_wrap=True)


def _contract(run: Run, built: Built) -> dict[str, Any]:
    """How to prompt: as the adapter was trained or, without one, as the records of this configuration would be."""
    from data.nouns import Chunk, read_jsonl
    from tasks.store.store import read_json
    from tasks.work.records import contract_of

    if "export" in built:
        return read_json(built["export"].path("adapter/raft.json"))["prompt"]
    return contract_of(run.config.records, read_jsonl(built["chunk"].path("chunks.jsonl"), Chunk))


def _promise(citing: Mapping[str, Any]) -> str:
    """What the adapter's answers are held to, and what that costs."""
    return (
        f"Of the answers given at most {citing['level']:.0%} are to cite wrongly (ask.citation_error): on "
        f"{citing['questions']} validation questions about {citing['documents']} documents {citing['coverage']:.0%} "
        f"were answered, {citing['error']:.1%} of these cited wrongly; the others are withheld."
    )


def _place_in_words(quote: Mapping[str, Any]) -> str:
    """Where a quote stands, in words."""
    if quote["verbatim"]:
        return "verbatim"
    return f"verbatim in [{quote['stands_in']}]" if quote["stands_in"] else "NOT in the passages"


class _Stream:
    """Prints what is new in a growing text."""

    def __init__(self, out: Console) -> None:
        self._out, self._printed = out, 0

    def __call__(self, number: int, text: str) -> None:
        self._out.print(shown(text[self._printed :], lines=True), end="", markup=False, style="dim", soft_wrap=True)
        self._printed = max(self._printed, len(text))


def _answer(
    base: Path,
    chat: Mapping[str, Any],
    adapter: Path | None,
    asked: Asked,
    max_tokens: int,
    show: Callable[[int, str], None] | None,
    copy_quotes: bool,
    precision: str,
) -> dict[str, Any]:
    """One model's answer, read back: final answer, quotes checked against the passages, the raw text.

    `show` receives the text while it is being written.
    """
    from data.prompting.copying import QuoteCopier, TokenBytes
    from jora_engine.generation.generator import Generator

    generator = Generator(base, adapter=adapter, chat=chat, precision=precision)
    prompt = generator.tokenizer.apply_chat_template(asked.messages(), add_generation_prompt=True)
    constrain = None
    if copy_quotes:
        copier = QuoteCopier(TokenBytes(generator.tokenizer.token_bytes()), asked.template, asked.texts)
        constrain = lambda _, ids: copier.allowed(ids)  # noqa: E731
    text = generator.generate([prompt], max_new_tokens=max_tokens, constrain=constrain, on_text=show)[0].text
    return asked.read(text)

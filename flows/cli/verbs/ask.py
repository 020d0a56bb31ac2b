"""The verb `ask`: asks the adapter, which answers from retrieved passages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from data.text.shown import shown
from flows.cli.options import ConfigOption, JsonOption, SetOption, WhereOption, where_filter
from flows.cli.output import Terminal, emit, warn
from flows.ready import facts, open_search, ready
from raft_errors import BadInput, RaftError

if TYPE_CHECKING:
    from flows.run import Run
    from flows.walk import Built
    from serving.asking import Asking

DTYPE, ROWS = "bfloat16", 8  # in which, and with how many rows, `raft serve` computes unless it is told otherwise


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
    from data.prompting.contract import chat_of
    from serving.asking import Asking

    if not question.strip():
        raise BadInput("The question is empty", expected="a question in words")
    if base and compare:
        raise BadInput("--base and --compare were both given", expected="one of them: --compare asks both models")
    run, built, stale = ready(config, set_, "index" if base else "export")
    warn(stale)
    contract = _contract(run, built)
    adapter = None if base else built["export"].path("adapter")
    asking = Asking(
        domain=run.config.name,
        index=built.get("index_adapted", built["index"]).key,
        adapter=None if adapter is None else str(adapter.resolve()),
        contract=contract,
        chat=chat_of(contract) if "export" in built else dict(run.models["base"].chat),
        names=["base"] if base else ["adapter", "base"] if compare else ["adapter"],
        question=question,
        k=k,
        where=where_filter(where),
        copy_quotes=copy_quotes,
        max_tokens=max_tokens,
    )
    out = Terminal()
    answers: dict[str, dict[str, Any]] = {}
    passages: list[dict[str, Any]] = []
    citing: dict[str, Any] = {}
    show: _Stream | None = None
    for event in _replies(run, built, asking):
        if "passages" in event:
            passages, citing = event["passages"], event["citing"]
            if where and not passages:
                raise BadInput(
                    f"No passage passes --where {' '.join(where)}",
                    expected="a filter that some passage of the corpus passes",
                    do="correct the filter; `raft search` shows sources",
                )
        elif "answer" in event:
            answers[event["name"]] = event["answer"]
            if show:
                out.print("\n")
            show = None
        elif out.is_terminal and not json:  # a file or a pipe gets the answer once, checked
            if show is None:
                out.print(f"[dim]{event['name']} writes:[/dim]")
                show = _Stream(out)
            show(event["text"])
    if json:
        first = next(iter(answers.values()))
        told = {"answers": answers, "passages": passages, **({"citing": citing} if citing else {})}
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
    if citing:
        out.print(_promise(citing), markup=False, soft_wrap=True)
    out.print("Passages shown:" if passages else "No passage was found, so no model was asked.")
    for number, passage in enumerate(passages, 1):
        page = f", page {passage['page']}" if passage["page"] else ""
        place = f"characters {passage['start']}-{passage['end']}"
        name = f"{shown(passage['title'])} ({shown(passage['source'])}{page}, {place})"
        out.print(f"  [{number}] {name}", markup=False, soft_wrap=True)


def _contract(run: Run, built: Built) -> dict[str, Any]:
    """How to prompt: as the adapter was trained or, without one, as the records of this configuration would be."""
    from data.nouns import Chunk, read_jsonl
    from data.prompting.contract import with_quote_weight
    from tasks.store.store import read_json
    from tasks.work.records import contract_of

    if "export" in built:
        return read_json(built["export"].path("adapter/raft.json"))["prompt"]
    contract = contract_of(run.config.records, read_jsonl(built["chunk"].path("chunks.jsonl"), Chunk))
    return with_quote_weight(contract, run.config.ask.quote_weight)


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

    def __call__(self, text: str) -> None:
        self._out.print(shown(text[self._printed :], lines=True), end="", markup=False, style="dim", soft_wrap=True)
        self._printed = max(self._printed, len(text))


def _replies(run: Run, built: Built, asking: Asking) -> Iterator[dict[str, Any]]:
    """The answers as they are written, by a running server of the project or by a model that is loaded now; says which
    in one line on standard error."""
    from jora_engine.adapters.peft_folder import precision_of
    from serving.local import NotAnswered, arithmetic, ask_server, running_servers

    numbers = arithmetic(DTYPE, precision_of(Path(asking.adapter) if asking.adapter else None))
    say = Terminal(stderr=True)
    why = ""
    for server in running_servers(run.store.root, asking.domain):
        if server.numbers != numbers:
            why = f"; the server on {server.url} computes in {server.numbers}"
            continue
        events = ask_server(server, asking)
        try:
            first = next(events)
        except NotAnswered as error:
            why = f"; not from the server on {server.url}: {error}"
            continue
        say.print(f"answered by the server on {server.url}", style="dim", markup=False, soft_wrap=True)
        yield first
        try:
            yield from events
        except ConnectionError as error:
            raise RaftError(str(error), do="ask again") from error
        return
    yield from _own_replies(run, built, asking, why)


def _own_replies(run: Run, built: Built, asking: Asking, why: str) -> Iterator[dict[str, Any]]:
    """The answers of a model that is loaded for them, by the engine that serves.

    Args:
        why: a running server does not answer, as the end of a sentence.
    """
    from data.prompting.contract import template_from_contract
    from jora_engine.adapters.peft_folder import precision_of
    from jora_engine.files.tokenizer import Tokenizer
    from jora_engine.generation.adapter_memory import prepare_adapter
    from jora_engine.generation.batching import Engine
    from jora_engine.generation.loaded import load_model
    from serving.asking import refusals, replies
    from serving.engine_loop import EngineLoop
    from tasks.runtime.asking import put

    template = template_from_contract(asking.contract)
    retriever = open_search(run, built)
    asked = put(asking.question, retriever, template, asking.contract, k=asking.k, where=asking.where)
    if not asked.citations:
        yield from refusals(asking, asked)
        return
    words = f"answered by a model loaded for this question{why}"
    Terminal(stderr=True).print(words, style="dim", markup=False, soft_wrap=True)
    base = run.models["base"].folder
    tokenizer = Tokenizer.load(base, **asking.chat)
    folder = Path(asking.adapter) if asking.adapter else None
    # the base that is compared with is held as the adapter's, too
    model = load_model(base, dtype=DTYPE, chat=asking.chat, precision=precision_of(folder))
    adapter = prepare_adapter(folder, model.config, DTYPE, precision=model.precision) if folder else None
    loop = EngineLoop(Engine(model, ROWS))
    loop.start()
    try:
        yield from replies(asking, asked, tokenizer, adapter, loop)
    finally:
        loop.stop()

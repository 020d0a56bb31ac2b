"""What is finished, for those who use it: never builds.

It is what the configuration asks for now, where that is built. Where a document or a setting has changed since, it is
the last finished run, with a word about what has changed and which command brings it up to date.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from data.prompting.contract import chat_of
from data.text.shown import few
from flows.calls import STAGES
from flows.finished import in_use, last_finished
from flows.run import Run
from flows.walk import Built, published
from raft_errors import BadInput, RaftError
from tasks.build import kept
from tasks.build.kept import differences
from tasks.build.stage import Request
from tasks.config import load_config
from tasks.ingest import corpus_id
from tasks.store.manifest import Manifest
from tasks.store.store import read_json

if TYPE_CHECKING:
    from retrieval.search import Retriever
    from tasks.retrieval import RetrievalConfig


@dataclass(frozen=True)
class Stale:
    """That what is used was finished before something changed.

    Attributes:
        finished: when, UTC.
        why: what has changed since, in words.
        do: the command that brings it up to date.
    """

    finished: str
    why: str
    do: str

    def __str__(self) -> str:
        return f"Note: {self.why}; this is what was built on {self.finished} UTC. `{self.do}` brings it up to date"


class NotBuilt(BadInput):
    """Nothing that fits the configuration was ever finished."""


class Ready(NamedTuple):
    """Results that belong together, and whether they are behind what the configuration asks for."""

    run: Run
    built: Built
    stale: Stale | None


def facts(stale: Stale | None) -> dict[str, Any]:
    """The same for programs."""
    if stale is None:
        return {"stale": False}
    return {"stale": True, "stale_because": stale.why, "finished": stale.finished, "do": stale.do}


def ready(config: Path | None, overrides: list[str] | None, until: str) -> Ready:
    """The finished stages up to `until`.

    Raises:
        NotBuilt: there are none; the message says which command makes them.
    """
    run = Run.of(load_config(config, overrides or []))
    return ready_of(run, until, command_of(until, config))


def command_of(until: str, config: Path | None) -> str:
    """The command that makes the results up to `until`."""
    return f"raft {'run' if until in ('export', 'evaluate') else until}" + (f" {config}" if config else "")


def ready_of(run: Run, until: str, command: str) -> Ready:
    """See `ready`.

    Args:
        command: what brings it up to date, for the messages.
    """
    asked: list[Request] = []
    trouble: RaftError | None = None
    try:
        # what is fitted serves as soon as it is there
        if until == "index" and _index(run) != until and (built := published(run, _index(run))):
            return Ready(run, built, None)
        if built := published(run, until, asked):
            return Ready(run, built, None)
        if until == "export" and (index := published(run, _index(run))) and (built := in_use(run, index)):
            return Ready(run, built, None)
    except RaftError as error:  # the documents cannot be read, or a file that the settings name
        trouble = error
    built = _before(run, until)
    if built is None and trouble is not None:
        raise trouble
    unfit = _unfit(run, built, until) if built else ""
    if built is None or unfit:
        raise NotBuilt(f"The stage {until} is not built for this configuration{unfit}", do=f"build it first: {command}")
    why = trouble.what if trouble else _changes(run, built, asked)
    return Ready(run, built, Stale(kept.day(built[until]), why, command))


def open_search(
    run: Run,
    built: Mapping[str, Manifest],
    *,
    where: RetrievalConfig | None = None,
    interactive: bool = True,
    remembered: bool = True,
) -> Retriever:
    """The retriever over what is finished: the one that was fitted to the domain, where there is one.

    Args:
        where: its settings, where they are not the run's own.
        interactive: for single questions; False where many are judged and their vectors kept.
        remembered: whether the vectors of queries are kept for the next time.
    """
    from tasks.runtime.retriever import open_retriever

    index = built.get("index_adapted", built["index"])
    cache = run.store.cache("questions") if remembered else None
    section = where or run.config.retrieval
    fitted = built.get("adapt")
    return open_retriever(
        section, index, built["chunk"], run.models, adapt=fitted, queries=cache, interactive=interactive
    )


def _index(run: Run) -> str:
    """The call whose index the run's passages come from."""
    return "index_adapted" if run.wants(STAGES["adapt"]) else "index"


def _before(run: Run, until: str) -> Built | None:
    """What was answered from before the change: the last run that went so far, or a newer index and the adapter in
    use."""
    whole = last_finished(run, until)
    if until != "export":
        return whole
    index = last_finished(run, _index(run))
    if index is None or (whole is not None and whole["index"].link == index["index"].link):
        return whole
    return in_use(run, index) or whole


def _unfit(run: Run, built: Built, until: str) -> str:
    """Why the last finished results cannot be used with the models of the configuration, or ""; a report uses none."""
    if until == "evaluate":
        return ""
    made_with = {role: digest for m in built.values() for role, digest in m.ingredients.get("models", {}).items()}
    for role, digest in made_with.items():
        if role not in run.models:  # a reranker that is set no more: the first search goes without it
            continue
        model = run.models[role]
        told_as_then = run.models.plain(role).with_chat(**_chat(built)) if role == "base" else model
        if digest not in (model.digest, told_as_then.digest):
            return f", and what was built last was built with another {role} than models.{role}"
    return ""


def _chat(built: Built) -> dict[str, Any]:
    """What the base's chat template was told when the results were made."""
    contract: dict[str, Any] = {}
    if "export" in built:
        contract = read_json(built["export"].path("adapter/raft.json"))["prompt"]
    elif "records" in built:
        contract = read_json(built["records"].path("contract.json"))
    return {"variables": {}, "prefill": "", **chat_of(contract)}


def _changes(run: Run, built: Built, asked: Sequence[Request]) -> str:
    """What first is not as it was when the results were made: the corpus, with its files, settings, or our own code.

    Args:
        asked: what the configuration asks for now, up to the first result that is not there.
    """
    for request in asked:
        before = built.get(request.name)
        if before is None or request.key() == before.key:
            continue
        words = differences(request, before)
        if "input corpus changed" in words.choices:
            return f"the corpus has changed{_files(run, before)}"
        if words.choices:
            return f"the configuration has changed ({'; '.join(words.choices[:3])})"
        if words.installation and request is asked[-1]:  # what was found counts, whoever made it
            installation = sorted(words.installation, key=lambda one: not one.startswith("code of"))
            return f"raft or one of its libraries has changed ({'; '.join(installation[:2])})"
    return f"the result of {asked[-1].name} has gone from the store, or was damaged"


def _files(run: Run, ingest: Manifest) -> str:
    """The files that have changed since an ingest, a few by name; "" where the store does not know its files."""
    recorded = run.store.sources.read(corpus_id(run.config.corpus, run.config.ingest))
    if recorded.ingest != ingest.key:
        return ""
    now = run.corpus().files
    names = sorted(n for n in {*now, *recorded.files} if now.get(n) != recorded.files.get(n))
    return f" ({few(names)})" if names else ""

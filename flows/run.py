"""What a run is made of: the configuration, the store, the models, and who is told of it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from raft_errors import RaftError
from tasks import ingest
from tasks.build.events import Reporter, Said, silent, voice_of
from tasks.build.stage import Request, Stage
from tasks.config import RunConfig
from tasks.inputs.corpus import Corpus
from tasks.inputs.models import ModelFiles, resolve
from tasks.store.locks import locked
from tasks.store.places import temporary_folder
from tasks.store.store import Store


class Models(Mapping[str, ModelFiles]):
    """The run's models by role, each resolved (and fetched, if need be) when it is first asked for.

    A role that the configuration names no model for (`reranker`) is not in it.
    """

    def __init__(self, config: RunConfig, find: Callable[..., ModelFiles | None]) -> None:
        self._wanted = config.model_names
        self._chat = (config.models.chat_template, config.models.prefill)
        self._find = find
        self._plain: dict[str, Any] = {}
        self._files: dict[str, Any] = {}

    def __getitem__(self, role: str) -> ModelFiles:
        if role not in self._files:
            files = self._plain[role] = self._find(*self._wanted[role])
            self._files[role] = files.with_chat(*self._chat) if files is not None and role == "base" else files
        return self._files[role]

    def plain(self, role: str) -> ModelFiles:
        """The model as its files are, whatever its chat template is told."""
        self[role]  # finds it
        plain: ModelFiles = self._plain[role]
        return plain

    def __contains__(self, role: object) -> bool:
        return role in self._wanted

    def name(self, role: str) -> str:
        return self._wanted[role][0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._wanted)

    def __len__(self) -> int:
        return len(self._wanted)


@dataclass(frozen=True)
class Run:
    """What a run is made of.

    Attributes:
        keep: stages whose finished result counts though other code made it (`tasks.build.kept`).
        asker: the models that questions are made with where these are not the run's own: of several bases that are
            compared none asks its own (`flows.bases`).
    """

    config: RunConfig
    store: Store
    models: Models
    reporter: Reporter
    keep: frozenset[str] = frozenset()
    asker: Models | None = None

    @classmethod
    def of(cls, config: RunConfig, reporter: Reporter | None = None, keep: Collection[str] = ()) -> Run:
        reporter = reporter or silent
        models = Models(config, functools.partial(resolve, say=voice_of(reporter)))
        return cls(config, store_of(config), models, reporter, frozenset(keep))

    def corpus(self) -> Corpus:
        """The documents as they are now."""
        return ingest.corpus_of(self.config.corpus, self.config.ingest, self.store)

    def request(self, stage: Stage, inputs: Mapping[str, Any], name: str = "") -> Request:
        """The request for one stage, given its inputs by parameter."""
        shared = {section: self.section(section) for section in stage.shared}
        models = self.asker if self.asker is not None and stage.name == "questions" else self.models
        return Request(stage, self.section(stage.name), inputs, models, self.config.seed, shared, name)

    def wants(self, stage: Stage) -> bool:
        """Whether the configuration asks for a stage's result."""
        shared = {section: self.section(section) for section in stage.shared}
        return stage.wanted is None or stage.wanted(self.section(stage.name), shared)

    def section(self, name: str) -> BaseModel:
        """The section of a stage, or one that stages share."""
        section = getattr(self.config, name, None)
        if not isinstance(section, BaseModel):
            raise RaftError(
                f"The flow has a stage {name}, and the configuration no section of that name",
                expected=f"a field `{name}: ...` in {type(self.config).__name__} (tasks/config.py)",
                do="add the stage's section there",
            )
        return section


def store_of(config: RunConfig) -> Store:
    """The store of a configuration, with the share behind it where there is one."""
    if config.share is None:
        return Store(Path(config.store), mode=config.store_mode)
    from tasks.store.share import Share

    return Store(Path(config.store), Share.at(config.share), config.store_mode)


@contextlib.contextmanager
def at_work(run: Run) -> Iterator[None]:
    """Nothing is deleted from the store during the block."""
    run.store.prepare()
    temporary_folder()
    if notice := run.store.notice:
        run.reporter(Said(notice))
    lock = run.store.running(shared=True)
    with (
        run.store.working(),
        locked(lock, on_wait=lambda who: run.reporter(Said(f"Waiting for {who} to tidy up"))),
    ):
        yield

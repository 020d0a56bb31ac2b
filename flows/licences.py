"""The licences behind a run: of its models by the configuration, and of its documents once they were read."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from data.nouns import Document, read_jsonl
from raft_errors import BadInput
from tasks.config import RunConfig
from tasks.inputs.licences import UNKNOWN, Licences, of_documents, of_model, of_teacher
from tasks.inputs.model_catalog import CATALOG
from tasks.inputs.models import on_this_machine
from tasks.store.manifest import Manifest


def licences_of(config: RunConfig, ingest: Manifest | None = None) -> Licences:
    """Of base, embedder and teacher, and of the documents that `ingest` holds; without it of no document."""
    given, models, asked = config.licences, config.models, config.questions
    base = given.base or of_model(models.base, _folder(models.base, models.base_revision))
    embedder = given.embedder or of_model(models.embedder, _folder(models.embedder, models.embedder_revision))
    teacher = ""
    if asked.file is None:
        local = asked.teacher == "local"
        teacher = given.teacher or (base if local else of_teacher(asked.teacher_model, asked.teacher_url))
    licences = Licences(base, embedder, teacher)
    if ingest is not None:
        with contextlib.suppress(OSError, ValueError):
            read = read_jsonl(ingest.path("documents.jsonl"), Document)
            return replace(licences, documents=of_documents(read, given.documents))
    return licences


def warnings_of(config: RunConfig, ingest: Manifest) -> list[str]:
    """What does not go together, and what is not known, a sentence each."""
    licences = licences_of(config, ingest)
    return [*licences.conflicts(), *licences.gaps()]


def lines(licences: Licences) -> list[str]:
    """For a card: whose licence it is and its name, then what does not go together and what is not known."""
    counts = ", ".join(f"{name or 'none named'} ({count})" for name, count in licences.documents.items())
    named = {
        "Base model": licences.base,
        "Embedder": licences.embedder,
        "Teacher": licences.teacher,
        "Documents": counts or UNKNOWN,
    }
    return [*(f"{what}: {name}" for what, name in named.items() if name), *licences.conflicts(), *licences.gaps()]


def _folder(name: str, revision: str | None) -> Path | None:
    try:
        files = on_this_machine(name, revision) if name not in CATALOG else None
    except BadInput:
        return None
    return files.folder if files else None

"""What a stage's work needs to know of its inputs: folders with a content digest, and the JSON files in them.

Results of earlier stages and models are read through these protocols, so that no result depends on how results are
kept and models are fetched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol


class NamedFile(Protocol):
    """A file of a stage's folder, by its path there."""

    @property
    def path(self) -> str: ...


class StageFiles(Protocol):
    """The result of an earlier stage: its folder, its figures, and what it was made from."""

    @property
    def stage(self) -> str: ...

    @property
    def digest(self) -> str: ...

    @property
    def folder(self) -> Path: ...

    @property
    def files(self) -> Sequence[NamedFile]: ...

    @property
    def metrics(self) -> dict[str, Any]: ...

    @property
    def ingredients(self) -> dict[str, Any]: ...

    def path(self, name: str) -> Path:
        """The file or folder `name` of the stage's folder."""
        ...


class ModelFolder(Protocol):
    """A model on this machine: a Hugging Face folder, the sha256 over its files, and where they came from.

    `chat` is how its tokenizer is loaded (`Tokenizer.load(folder, **chat)`): what its chat template is told.
    """

    @property
    def name(self) -> str: ...

    @property
    def folder(self) -> Path: ...

    @property
    def digest(self) -> str: ...

    @property
    def source(self) -> str: ...

    @property
    def chat(self) -> Mapping[str, Any]: ...


def read_json(path: Path) -> Any:
    """The parsed JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Writes indented, deterministic JSON."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

"""The manifest: what a stage leaves, and the only thing that stages pass to each other.

It is read here, and compared with the files beside it. The store decides where results lie and how they get there.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from tasks.store.hashing import FileHashes, digest_of, irregular, read_regular, read_sha256

MANIFEST = "manifest.json"
_NAME = r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$"  # of a folder, never of one above it


class FileEntry(BaseModel):
    """One file of a stage directory; `result=False` marks a file that only describes the build (times, curves)."""

    model_config = ConfigDict(frozen=True)
    path: str
    size: int
    sha256: str
    result: bool = True


class Link(BaseModel):
    """A result that another one was built from."""

    model_config = ConfigDict(frozen=True)
    stage: str = Field(pattern=_NAME)
    key: str = Field(pattern=_NAME)
    digest: str


class Manifest(BaseModel):
    """What a stage leaves, and the only thing that stages pass to each other.

    `digest` covers the result files (path and sha256), so equal results are equal wherever and whenever they were made.
    `ingredients` is what the key was computed from; `machine` is what computed it, which is not part of key or digest;
    `kept` names the stages behind it that a person accepted although other code had made them; `call` is what its flow
    called it, where that is not the stage's name; `checksum` covers the whole file, against damage (manifests of
    earlier versions have none); `folder` is derived from the store and never stored.
    """

    stage: str
    key: str
    digest: str
    files: list[FileEntry]
    summary: str = ""
    metrics: dict[str, Any] = {}
    lineage: dict[str, Link] = {}
    ingredients: dict[str, Any] = {}
    machine: dict[str, Any] = {}
    kept: list[str] = []
    call: str = ""
    seconds: float = 0.0
    checksum: str = ""
    _folder: Path = PrivateAttr(default=Path())
    _kept: tuple[str, ...] = PrivateAttr(default=())  # what differs, if this run accepts it although other code made it

    @model_validator(mode="after")
    def _is_whole(self) -> Manifest:
        if self.checksum and self.checksum != _checksum(self):
            raise ValueError(ALTERED)
        if odd := [name for name in _TABLES if not isinstance(self.ingredients.get(name, {}), dict)]:
            raise ValueError(f"ingredients.{odd[0]} is not a table")
        return self

    def to_json(self) -> bytes:
        """The content of the file."""
        self.checksum = _checksum(self)
        return self.model_dump_json(indent=1).encode()

    @property
    def folder(self) -> Path:
        return self._folder

    @property
    def link(self) -> Link:
        return Link(stage=self.stage, key=self.key, digest=self.digest)

    def path(self, name: str) -> Path:
        """The file or folder `name` of the stage directory."""
        return self._folder / name


ALTERED = "its checksum is not that of its words"
_TABLES = ("inputs", "config", "shared", "models", "code", "packages")


def _checksum(manifest: Manifest) -> str:
    later = set() if manifest.call else {"call"}  # manifests of earlier versions have no such field
    body = json.loads(manifest.model_dump_json(exclude={"checksum", *later}))
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


class Damage(ValueError):
    """A stage directory is not what its manifest says."""


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a stage directory, its files unchecked.

    Raises:
        OSError, ValueError: it is missing, not a regular file, or not a manifest.
    """
    manifest = Manifest.model_validate_json(read_regular(folder / MANIFEST))
    manifest._folder = folder
    return manifest


def verify(manifest: Manifest, hashes: FileHashes) -> None:
    """Checks that every file is there with the size and sha256 of the manifest.

    Raises:
        Damage: naming the first file that differs.
    """
    base = Path(os.path.realpath(manifest.folder))
    for entry in manifest.files:
        path = manifest.folder / entry.path
        try:
            status = path.lstat()
        except (OSError, ValueError) as error:
            raise Damage(f"{entry.path} is missing") from error
        if what := irregular(status):
            raise Damage(f"{entry.path} is {what}, not a file")
        if Path(entry.path).is_absolute() or os.path.realpath(path) != str(base / entry.path):
            raise Damage(f"{entry.path} lies outside of its folder")
        if status.st_size != entry.size:
            raise Damage(f"{entry.path} has {status.st_size} bytes, not {entry.size}")
    sums = hashes.sha256_many(manifest.folder / entry.path for entry in manifest.files)
    for entry in manifest.files:
        if sums[manifest.folder / entry.path] != entry.sha256:
            raise Damage(f"{entry.path} was altered")
    if manifest.digest != content_of(manifest.files):
        raise Damage(f"{MANIFEST} was altered")


def entries_of(folder: Path, describing: tuple[str, ...]) -> list[FileEntry]:
    """The files of a folder; those named in `describing` only describe the build."""
    entries = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        entry = FileEntry(path=name, size=path.stat().st_size, sha256=read_sha256(path), result=name not in describing)
        entries.append(entry)
    return entries


def content_of(files: list[FileEntry]) -> str:
    """The content digest of a result: over the paths and bytes of its files, except those that only describe it."""
    return digest_of({entry.path: entry.sha256 for entry in files if entry.result})

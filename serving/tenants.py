"""Who asks: the key of a request, and the documents that it may see.

A key may carry a filter on documents. It binds every search that is made with the key and every passage that is opened
with it; what the adapter has learnt from other documents it cannot take back.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raft_errors import BadInput

if TYPE_CHECKING:
    from retrieval.search import Retriever

SHORTEST = 16  # characters of a key
VISIBLE = re.compile("[!-~]+")


@dataclass(frozen=True)
class Tenant:
    """Whose request it is.

    Attributes:
        id: stands for the key wherever something is kept for one key alone; never the key.
        where: the filter that binds its searches; None for all documents.
    """

    id: str = ""
    where: Mapping[str, Any] | None = None

    def may_search(self, retriever: Retriever) -> bool:
        """Whether the filter means something for a corpus; one without its fields is closed."""
        return set(self.where or {}) <= set(retriever.fields)

    def check(self, retrievers: Iterable[Retriever]) -> None:
        """Raises `BadInput` where the filter means something for none of several corpora."""
        corpora = list(retrievers)
        if not any(map(self.may_search, corpora)):
            fields = sorted({field for retriever in corpora for field in retriever.fields})
            raise BadInput(
                f"A key has the filter {dict(self.where or {})}, which no domain's documents can be held against",
                expected=f"fields that are there: {', '.join(fields)}",
                do="correct the file of --keys",
            )

    def may_see(self, retriever: Retriever, chunk_id: str) -> bool:
        """Whether a passage of a corpus may be opened."""
        return self.may_search(retriever) and retriever.passes(chunk_id, self.where)


ANYBODY = Tenant()


@dataclass(frozen=True)
class Key:
    """A key that is accepted, with its filter."""

    text: str
    where: Mapping[str, Any] | None = None


class Keys:
    """The accepted keys; without any, everybody is let in, each under what they call themselves."""

    def __init__(self, keys: Sequence[Key | str]) -> None:
        accepted = [key if isinstance(key, Key) else Key(key) for key in keys]
        self._keys = [(key.text.encode(), Tenant(_id(key.text), key.where)) for key in accepted]

    def tenant(self, authorization: str) -> Tenant | None:
        """The tenant of an `Authorization` header; None where its key is not accepted."""
        if not self._keys:
            return Tenant(_id(authorization))
        kind, _, text = authorization.partition(" ")
        given = text.strip().encode("utf-8", "surrogateescape")
        # every key is compared, in constant time, so that the time tells nothing about them
        same = [tenant for key, tenant in self._keys if hmac.compare_digest(given, key)]
        return same[0] if same and kind.lower() == "bearer" else None


def _id(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def read_keys(file: Path | None) -> list[Key]:
    """The keys of a file: one a line, `#` begins a remark; of a YAML file entries of `key` and `where`.

    Raises:
        BadInput: it cannot be read, holds no key, or one that is too short, stands twice or has a filter of nothing.
    """
    if file is None:
        return []
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"--keys {file} cannot be read", expected="a text file with one key a line") from error
    if file.suffix in (".yaml", ".yml"):
        keys = _entries(file, text)
    else:
        lines = [line.strip() for line in text.splitlines()]
        keys = [Key(line) for line in lines if line and not line.startswith("#")]
    if not keys or min(len(key.text) for key in keys) < SHORTEST:
        raise BadInput(
            f"--keys {file} holds " + ("a key that is too short" if keys else "no key"),
            expected=f"keys of at least {SHORTEST} characters",
            do="make one with: openssl rand -hex 24",
        )
    if wrong := next((number for number, key in enumerate(keys, 1) if not VISIBLE.fullmatch(key.text)), None):
        raise BadInput(
            f"--keys {file}: key {wrong} holds something else than visible ASCII characters",
            expected="letters, digits and signs without a space, which is all that every client can send",
            do="correct it; a remark stands on a line of its own that begins with #",
        )
    if len({key.text for key in keys}) < len(keys):
        raise BadInput(f"--keys {file} holds one key twice", do="make another for one of the two")
    return keys


def _entries(file: Path, text: str) -> list[Key]:
    from tasks.inputs.yaml_text import NoYaml, parse_yaml

    expected = "a list of entries: `key: TEXT` and, for a part of the documents alone, `where: {FIELD: VALUE}`"
    try:
        entries = parse_yaml(text)
    except NoYaml as error:
        raise BadInput(f"--keys {file} cannot be read", expected=expected) from error
    keys = []
    for number, entry in enumerate(entries if isinstance(entries, list) else [None], 1):
        wrong = ""
        if not isinstance(entry, dict) or not isinstance(entry.get("key"), str) or entry.keys() - {"key", "where"}:
            wrong = "is no `key` with or without a `where`"
        elif "where" in entry and not _is_filter(entry["where"]):
            wrong = "has a `where` that says nothing"  # open to everything, it would be a leak
        if wrong:
            raise BadInput(f"--keys {file}: entry {number} {wrong}", expected=expected)
        keys.append(Key(entry["key"], entry.get("where")))
    return keys


def _is_filter(where: Any) -> bool:
    def plain(value: Any) -> bool:
        return isinstance(value, (str, int)) or (isinstance(value, list) and bool(value) and all(map(plain, value)))

    return isinstance(where, dict) and bool(where) and all(isinstance(f, str) and plain(v) for f, v in where.items())

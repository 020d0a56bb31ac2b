"""The key of a share: with one, whoever can write to the share can withhold results, but not forge them.

Each manifest on the share carries an HMAC-SHA256 over its whole content, which covers its files too, since it names
them by sha256. The key comes from the environment alone and is written nowhere. Several keys make a change of key
possible: the first one signs, all of them verify.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raft_errors import BadInput
from tasks.store.hashing import read_regular

VARIABLE, FILE_VARIABLE = "RAFT_SHARE_KEY", "RAFT_SHARE_KEY_FILE"
FIELD = "signature"
_LEAST_BYTES = 32
_PURPOSE = b"jora-raft share manifest 1\0"  # a signature made for another purpose is worthless here


def share_keys(environment: Mapping[str, str] = os.environ) -> tuple[bytes, ...]:
    """The keys from the environment, the one that signs first; none if neither variable is set.

    Raises:
        BadInput: an empty or short key, an unreadable file, or both variables.
    """
    names = [name for name in (VARIABLE, FILE_VARIABLE) if name in environment]
    if not names:
        return ()
    if len(names) == 2:
        raise _unusable(f"{VARIABLE} and {FILE_VARIABLE} are both set", "unset one of them")
    text = environment[names[0]]
    if names[0] == FILE_VARIABLE:
        try:
            text = read_regular(Path(text)).decode()
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "it is not text"
            raise _unusable(f"{FILE_VARIABLE}: {text} cannot be read ({why})", "correct the path") from error
    keys = tuple(word.encode() for word in text.split())
    if not keys or any(len(key) < _LEAST_BYTES for key in keys):
        # An empty variable does not mean "no key": a secret that failed to arrive must not open the share.
        what = "holds no key" if not keys else f"holds a key of less than {_LEAST_BYTES} bytes"
        raise _unusable(f"{names[0]} {what}", "make one, e.g. `openssl rand -hex 32`, or unset the variable")
    return keys


def signed(manifest: Mapping[str, Any], keys: Sequence[bytes]) -> dict[str, Any]:
    """The manifest with its signature by the first key."""
    return {**manifest, FIELD: _signature(manifest, keys[0])}


def is_signed(manifest: Mapping[str, Any], keys: Sequence[bytes]) -> bool:
    """Whether the manifest carries a signature by one of the keys over its whole content."""
    signature = manifest.get(FIELD)
    if not isinstance(signature, str) or not signature.isascii():
        return False
    return any(hmac.compare_digest(signature, _signature(manifest, key)) for key in keys)


def _signature(manifest: Mapping[str, Any], key: bytes) -> str:
    body = {name: value for name, value in manifest.items() if name != FIELD}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hmac.new(key, _PURPOSE + text.encode(), hashlib.sha256).hexdigest()


def _unusable(what: str, do: str) -> BadInput:
    return BadInput(what, expected=f"a secret of at least {_LEAST_BYTES} bytes without spaces, or several", do=do)

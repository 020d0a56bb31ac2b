"""How a program of the same user finds a running server of a project, and asks it.

Each server leaves a private file in the project's store: its address, its process and a nonce. The address alone proves
nothing, since a stranger's process may have the port by now: whoever answers there must show that it knows the nonce,
which it never says.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import json
import os
import secrets
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from serving.asking import Asking, Event
from tasks.store.access import make_folder

FOLDER = "servers"
ROUTE = "/raft/ask"
CONNECT_SECONDS = 2.0
SILENT_SECONDS = 600.0  # between two events of an answer


class NotAnswered(Exception):
    """A running server cannot answer this; the message says why, in words for the end of a sentence."""


@dataclass(frozen=True)
class Announcement:
    """What a server says of itself to its own user.

    Attributes:
        machine: its name, since a store may be shared by several.
        process: number of the process.
        nonce: known to the server and to whoever may read the file.
        numbers: in which it computes, as `arithmetic` names them.
    """

    url: str
    machine: str
    process: int
    nonce: str
    domains: tuple[str, ...]
    numbers: str


def arithmetic(dtype: str, precision: str) -> str:
    """The numbers that answers come from: the dtype, and how the base is held where it is quantised."""
    return dtype if precision == "bfloat16" else f"{dtype} on a base in {precision}"


def proof(nonce: str, challenge: str) -> str:
    """What only somebody who knows the nonce can answer to a challenge."""
    return hmac.new(nonce.encode(), challenge.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()


@contextlib.contextmanager
def announced(store: Path, own: Announcement) -> Iterator[None]:
    """Leaves the file for as long as the server serves; files of servers that are gone are removed."""
    folder = make_folder(store / FOLDER)
    for path in folder.glob("*.json"):
        other = _read(path)
        if other and other.machine == own.machine and not _runs(other.process):
            path.unlink(missing_ok=True)
    path = folder / f"{own.machine}-{own.process}.json"
    temporary = folder / f".{path.name}.{secrets.token_hex(4)}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, 0o600)  # whatever the umask and the store say
        json.dump(asdict(own), file)
    temporary.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def running_servers(store: Path, domain: str) -> list[Announcement]:
    """The servers of this user and machine that say they serve a domain of the store."""
    own = [_read(path) for path in sorted((store / FOLDER).glob("*.json"))]
    here = socket.gethostname()
    return [one for one in own if one and one.machine == here and _runs(one.process) and domain in one.domains]


def ask_server(server: Announcement, asking: Asking) -> Iterator[Event]:
    """The events of `serving.asking.replies`, from a server.

    Raises:
        NotAnswered: before the first event; it is not there, is another, or cannot answer this.
        ConnectionError: it goes away in the middle.
    """
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=CONNECT_SECONDS)
    with contextlib.closing(connection):
        try:
            challenge = secrets.token_hex(16)
            connection.request("GET", f"/health?challenge={quote(challenge)}")
            reply = _json(connection.getresponse().read())
            if not hmac.compare_digest(str(reply.get("proof")), proof(server.nonce, challenge)):
                raise NotAnswered("what answers at its address is another program")
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {server.nonce}"}
            if connection.sock is None:  # it says that it closes the connection, since it ends just now
                raise NotAnswered("it is stopping")
            connection.sock.settimeout(SILENT_SECONDS)
            connection.request("POST", ROUTE, asking.model_dump_json().encode(), headers)
            response = connection.getresponse()
            if response.status != 200:
                error = _json(response.read()).get("error") or {}
                raise NotAnswered(str(error.get("message") or f"it answers {response.status}").rstrip("."))
            lines = iter(response.readline, b"")
            first = json.loads(next(lines))
            if "error" in first:
                raise NotAnswered(str(first["error"]["message"]).rstrip("."))
        except (OSError, http.client.HTTPException, StopIteration, ValueError) as error:
            raise NotAnswered("it does not answer") from error
        yield first
        try:
            for line in lines:
                event = json.loads(line)
                if "error" in event:
                    raise ConnectionError(event["error"]["message"])
                if event.get("end"):
                    return
                yield event
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ConnectionError(f"the server went away in the middle of the answer ({error})") from error
        raise ConnectionError("the server went away in the middle of the answer")


def _json(body: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        value = json.loads(body)
        if isinstance(value, dict):
            return value
    return {}


def _read(path: Path) -> Announcement | None:
    """What a file says; None for one that others could have written or read."""
    try:
        with path.open(encoding="utf-8") as file:
            status = os.fstat(file.fileno())
            if status.st_uid != os.geteuid() or status.st_mode & 0o077:
                return None
            values = json.load(file)
        return Announcement(**{**values, "domains": tuple(values["domains"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True

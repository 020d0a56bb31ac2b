"""The log of what was decided about an adapter, night by night: one JSON line a decision, appended and synced.

`<store>/registry/NAME/decisions.jsonl`. A line that a crash cut short is passed over. A decision to train stands in
`open.json` beside it from the moment it is taken until its line is in the log, so that the night after a crash knows
what the dead one had begun.
"""

from __future__ import annotations

import datetime
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from raft_errors import RaftError
from tasks.adapters.policy import Action
from tasks.adapters.registry import root
from tasks.adapters.versions import Adapter, Moment, problems
from tasks.store.access import make_file, make_folder, write_whole
from tasks.store.hashing import read_regular
from tasks.store.manifest import Link
from tasks.store.store import Store

log = logging.getLogger("raft.tasks")

Result = Literal["nothing", "refreshed", "promoted", "held", "rejected", "rolled back", "the same adapter"]


class RetrainDecision(BaseModel):
    """One decision and what came of it.

    Attributes:
        action, reason: what the policy chose, and why.
        change: documents and passages that differ from the last training.
        start, start_reason: the version that training went on from (None = the base model).
        version: what was trained.
        result, why: what became of it: the gate's reason, or the smoke test's.
        corpus: digest of the corpus that was looked at.
        settings: digests of the sections that decide a training.
        stages: what was built.
        id: tells the decision from every other one; "" in lines of earlier releases.
    """

    model_config = ConfigDict(frozen=True)
    id: str = ""
    at: Moment
    action: Action
    reason: str
    result: Result
    why: str = ""
    change: dict[str, Any] | None = None
    start: int | None = None
    start_reason: str = ""
    version: int | None = None
    corpus: str
    settings: dict[str, str]
    stages: dict[str, Link] = {}
    seconds: float = 0.0


class Open(BaseModel):
    """A decision to train whose outcome is not in the log yet.

    Attributes:
        night: what is known of it; with the stage `gate` among its stages, the candidate is judged.
        forced: a person asked for it.
        events: how long the registry's history was when the candidate was judged; what follows is this decision's.
    """

    model_config = ConfigDict(frozen=True)
    night: RetrainDecision
    forced: bool = False
    events: int = 0

    @property
    def judged(self) -> bool:
        return "gate" in self.night.stages


def open_file(store: Store, name: str) -> Path:
    return root(store) / name / "open.json"


def note(store: Store, name: str, decision: Open) -> None:
    """Keeps an open decision durably, in place of the one before."""
    path = open_file(store, name)
    make_folder(path.parent)
    write_whole(path, decision.model_dump_json().encode() + b"\n")


def read_open(store: Store, name: str) -> Open | None:
    """The decision that is not in the log yet; None where there is none, or where only its removal was missed."""
    try:
        decision = Open.model_validate_json(read_regular(open_file(store, name)))
    except (FileNotFoundError, ValidationError):
        return None
    except OSError as error:
        raise _unusable(open_file(store, name), error) from error
    return None if any(n.id == decision.night.id for n in read_decisions(store, name)) else decision


def log_file(store: Store, name: str) -> Path:
    return root(store) / name / "decisions.jsonl"


def read_decisions(store: Store, name: str) -> list[RetrainDecision]:
    """All decisions, oldest first.

    Raises:
        RaftError: the log is no file, or cannot be read.
    """
    path = log_file(store, name)
    try:
        lines = read_regular(path).splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unusable(path, error) from error
    nights = []
    for number, line in enumerate(lines, 1):
        try:
            nights.append(RetrainDecision.model_validate_json(line))
        except ValidationError as error:
            if error.errors()[0]["type"] != "json_invalid":
                log.warning("%s, line %d is no decision (%s): passed over", path, number, problems(error))
            # else cut short by a crash: what it was about is decided again
    return nights


def _unusable(path: Path, error: OSError) -> RaftError:
    return RaftError(
        f"The decisions {path} cannot be used ({error.strerror})",
        expected="the file as it was written",
        do="restore it from a copy, or move it away: what it was about is then decided again",
    )


def days_since_training(nights: Sequence[RetrainDecision], adapter: Adapter) -> float | None:
    """Days since the last training; of the newest version where no night has trained yet; None for neither."""
    trained = [n.at for n in nights if n.action == "retrain"] or [v.created for v in adapter.versions]
    if not trained:
        return None
    return (datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(trained[-1])).total_seconds() / 86400


def append(store: Store, name: str, night: RetrainDecision) -> None:
    """Adds a decision durably, and closes it if it was open."""
    path = log_file(store, name)
    try:
        make_folder(path.parent)
        make_file(path)
        if path.exists():
            read_regular(path)
    except OSError as error:
        raise _unusable(path, error) from error
    with path.open("ab+") as file:
        size = file.seek(0, os.SEEK_END)
        if size and _last_byte(file, size) != b"\n":
            file.write(b"\n")
        file.write(night.model_dump_json().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    open_file(store, name).unlink(missing_ok=True)


def _last_byte(file: Any, size: int) -> bytes:
    file.seek(size - 1)
    return bytes(file.read(1))

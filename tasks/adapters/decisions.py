"""The log of the decisions about an adapter, night by night: one JSON line per decision, appended and synced.

`<store>/registry/NAME/decisions.jsonl`. A line that a crash cut short is ignored. A decision to train stands in
`open.json` beside it from the moment it is made until its line is in the log, so that the night after a crash knows
what the one before had begun.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from raft_errors import RaftError
from tasks.adapters.policy import Action
from tasks.adapters.registry import root
from tasks.adapters.versions import Adapter, Moment, problems
from tasks.store.access import make_folder, write_whole
from tasks.store.hashing import read_regular
from tasks.store.lines import append_line
from tasks.store.manifest import Link
from tasks.store.store import Store

log = logging.getLogger("raft.tasks")

Result = Literal["nothing", "refreshed", "promoted", "held", "rejected", "rolled back", "the same adapter"]


class RetrainDecision(BaseModel):
    """One decision and what came of it.

    Attributes:
        action, reason: the choice of the policy, and why.
        change: documents and passages that differ from the last training.
        start, start_reason: the version that training continued from (None = the base model), and why.
        version: the version that was trained.
        result, why: the outcome, and its reason as the gate or the smoke test gave it.
        corpus: digest of the corpus at the time.
        settings: digests of the sections that decide a training.
        stages: the results that were built.
        id: unique to the decision; "" in lines of earlier releases.
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
        night: the decision so far; once its stages include `gate`, the candidate has been judged.
        forced: whether a person asked for it.
        events: length of the registry's history when the candidate was judged; later events belong to this decision.
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
    """Stores an open decision durably, in place of the one before."""
    path = open_file(store, name)
    make_folder(path.parent)
    write_whole(path, decision.model_dump_json().encode() + b"\n")


def read_open(store: Store, name: str) -> Open | None:
    """The decision that is not in the log yet; None if there is none, or if only its removal was missed."""
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
        RaftError: the log is not a regular file, or cannot be read.
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
                log.warning("%s, line %d is not a decision (%s): ignored", path, number, problems(error))
            # else a crash cut it short: its decision will be made again
    return nights


def _unusable(path: Path, error: OSError) -> RaftError:
    return RaftError(
        f"The decisions {path} cannot be used ({error.strerror})",
        expected="the file as it was written",
        do="restore it from a copy, or move it away: the decisions in it are then made again",
    )


def days_since_training(nights: Sequence[RetrainDecision], adapter: Adapter) -> float | None:
    """Days since the last training, or since the newest version if no night has trained yet; None without either."""
    trainings = [n.at for n in nights if n.action == "retrain"] or [v.created for v in adapter.versions]
    if not trainings:
        return None
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(trainings[-1])
    return age.total_seconds() / 86400


def append(store: Store, name: str, night: RetrainDecision) -> None:
    """Adds a decision durably, and closes it if it was open."""
    path = log_file(store, name)
    try:
        append_line(path, night.model_dump_json().encode())
    except OSError as error:
        raise _unusable(path, error) from error
    open_file(store, name).unlink(missing_ok=True)

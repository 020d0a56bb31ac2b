"""Training state on disk: adapter and optimiser through orbax, the loop's counters as JSON, and a seal over both.

The seal holds the sha256 of every file, the job that the state belongs to and the machines that computed it. It is
written last, then the folder gets its name, so a kill leaves the state before. A state that is damaged or belongs to
another job is set aside and told, never gone on from and never in the way. Of several processes the first one keeps the
folder, which all of them see. Knows nothing of steps' meaning.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from jora_engine.training.machine import differences
from raft_errors import RaftError

log = logging.getLogger("raft.engine")

STATE, NOTES, SEAL = "state", "notes.json", "seal.json"
KEPT_ASIDE = 3  # states that were set aside; older ones go, or a disk that spoils every write would fill up
DIFFERENCES_TOLD = 3


class Checkpoints:
    """The newest `keep` states below `folder`, by step number. Saving is synchronous.

    Attributes:
        machines: descriptions of the machines that the state was computed on, this one last.
    """

    def __init__(
        self,
        folder: Path,
        keep: int = 1,
        *,
        job: Mapping[str, Any] | None = None,
        machine: Mapping[str, Any] | None = None,
        tell: Callable[[str], None] = log.warning,
    ) -> None:
        """Opens the folder, removing what a killed save left.

        Args:
            job: what decides the training's result (JSON values); states of another job are set aside.
            machine: what decides its rounding (JSON values); going on from a state of another machine is told.
            tell: hears in one line what became of a state that cannot be used, and of another machine.
        """
        logging.getLogger("absl").setLevel(logging.ERROR)  # orbax logs every save at INFO and WARNING
        self.folder, self.keep, self.tell = folder.absolute(), keep, tell
        self.aside = self.folder.with_name(f"{self.folder.name}.set-aside")
        self.job = json.loads(json.dumps(job or {}))  # as it comes back from a file: tuples are lists there
        self.machines: list[dict[str, Any]] = [json.loads(json.dumps(machine or {}))]
        self._orbax = ocp.Checkpointer(ocp.StandardCheckpointHandler())
        self._keeper = jax.process_index() == 0
        if self._keeper:
            self.folder.mkdir(parents=True, exist_ok=True)
            for partial in self.folder.glob(".*"):
                shutil.rmtree(partial, ignore_errors=True)
        _together("opened")

    def steps(self) -> list[int]:
        """Step numbers of the states that are there, ascending, looked at or not."""
        return sorted(int(p.name) for p in self.folder.iterdir() if p.name.isdecimal() and p.is_dir())

    def save(self, step: int, state: Any, notes: Mapping[str, Any]) -> None:
        """Saves a pytree of arrays and JSON notes as step `step`, then removes states beyond the newest `keep`."""
        partial, place = self.folder / f".{step}.partial", self.folder / str(step)
        try:
            if self._keeper:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
            _together("begun")
            self._orbax.save(partial / STATE, args=ocp.args.StandardSave(state))
            if self._keeper:
                _write_json(partial / NOTES, notes)
                seal = {"step": step, "job": self.job, "machines": self.machines, "files": digests(partial)}
                _write_json(partial / SEAL, {**seal, "seal": _digest(seal)})
                if place.exists():
                    self._set_aside(place, "a newer one takes its place")
                partial.rename(place)
        finally:
            if self._keeper:
                shutil.rmtree(partial, ignore_errors=True)
        for old in self.steps()[: -self.keep] if self._keeper else ():
            leaving = (self.folder / str(old)).rename(self.folder / f".{old}.removed")  # never half of a state
            shutil.rmtree(leaving, ignore_errors=True)
        _together("saved")

    def restore(self, like: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """(step, state, notes) of the newest state that is whole and of this job, else None.

        Newer ones are set aside, each told in one line. The state has the shapes and placement of `like`.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        unusable: dict[int, str] = {}
        newest = None
        for step in reversed(self.steps()):
            place = self.folder / str(step)
            try:
                seal = self._checked_seal(place, step)
                notes = json.loads((place / NOTES).read_text(encoding="utf-8"))
                state = self._orbax.restore(place / STATE, args=ocp.args.StandardRestore(abstract))
            except MemoryError:
                raise  # says nothing about the state
            except _Unusable as error:
                unusable[step] = str(error)
            except Exception as error:  # noqa: BLE001  orbax raises many kinds for a folder that it cannot read
                unusable[step] = f"it cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
            else:
                self._note_machines(step, seal["machines"])
                newest = step, state, notes
                break
        then = f"training goes on from step {newest[0]}" if newest else "training starts from the beginning"
        _together("read")
        for step, reason in sorted(unusable.items()) if self._keeper else ():  # ascending: the newest stay longest
            self._set_aside(self.folder / str(step), f"{reason}; {then}")
        _together("restored")
        return newest

    def close(self) -> None:
        self._orbax.close()

    def _checked_seal(self, place: Path, step: int) -> dict[str, Any]:
        """The seal of a state; `_Unusable` unless every file is as it was saved, by this job."""
        if not (place / SEAL).is_file():
            raise _Unusable("it has no digest (a version before made it, or it was not saved whole)")
        try:
            seal = json.loads((place / SEAL).read_text(encoding="utf-8"))
            whole = seal.pop("seal") == _digest(seal) and seal["step"] == step
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            whole = False
        if not whole:
            raise _Unusable(f"{SEAL} is not as it was saved")
        files, actual = seal["files"], digests(place)
        if changed := sorted(n for n in {*files, *actual} if files.get(n) != actual.get(n)):
            raise _Unusable(f"{changed[0]} is not as it was saved")
        if seal["job"] != self.job:
            words = differences(seal["job"], self.job)
            raise _Unusable(f"it belongs to another training ({_joined(words) or 'other settings'})")
        return seal

    def _note_machines(self, step: int, machines: list[dict[str, Any]]) -> None:
        here = self.machines[-1]
        if words := differences(machines[-1], here):
            self.tell(
                f"checkpoint {step} was computed elsewhere ({_joined(words)}): training goes on from it, but the bytes "
                "of a run on one machine cannot be promised"
            )
        self.machines = [m for m in machines if m != here] + [here]

    def _set_aside(self, place: Path, reason: str) -> None:
        try:
            self.aside.mkdir(exist_ok=True)
            before = sorted(p for p in self.aside.iterdir() if p.is_dir())
            number = 1 + max((int(p.name.split("-")[0]) for p in before if p.name.split("-")[0].isdecimal()), default=0)
            kept = place.rename(self.aside / f"{number:04d}-step-{place.name}")
        except OSError as error:
            raise RaftError(
                f"the checkpoint {place} cannot be used ({reason}) and cannot be moved to {self.aside} ({error})",
                expected="a work folder that can be written to",
                do="move it away by hand, or correct the folder's permissions",
            ) from error
        too_many = [*before, kept][:-KEPT_ASIDE]
        for oldest in too_many:
            shutil.rmtree(oldest, ignore_errors=True)
        more = f" (of those before the oldest was removed: {KEPT_ASIDE} are kept)" if too_many else ""
        self.tell(f"checkpoint {place.name} was set aside in {kept}: {reason}{more}")


class _Unusable(Exception):
    """Why a state is not gone on from."""


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file of a state by its name, the seal apart; what is no plain file is not opened."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != SEAL:
            with path.open("rb") as data:
                found[name] = hashlib.file_digest(data, "sha256").hexdigest()
        elif not path.is_dir() and name != SEAL:
            found[name] = "no plain file"
    return found


def _together(point: str) -> None:
    """Waits until all processes of the training are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"checkpoints {point}")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _joined(words: list[str]) -> str:
    more = len(words) - DIFFERENCES_TOLD
    return ", ".join(words[:DIFFERENCES_TOLD]) + (f" and {more} more" if more > 0 else "")


def _write_json(file: Path, value: Any) -> None:
    """The order of keys is kept: metrics are written to the results as they come back."""
    file.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8", newline="\n")

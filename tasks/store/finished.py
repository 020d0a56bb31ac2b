"""Which results belong together: the last finished runs of each domain, and the paths that always lead to the newest.

`<store>/runs/NAME.json` names the results of each run, so that what was finished is found again after its corpus or
settings have changed, and results of two runs are never mixed. `<store>/runs/NAME/` holds links to what people want
from the newest one (adapter, merged, records, report.html); `<store>/latest` leads to those of the domain that ran
last. A set of links is replaced as one. Results that are deleted take their run with them (`tidy`).
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.store import access
from tasks.store.hashing import read_regular
from tasks.store.locks import locked
from tasks.store.manifest import Link, Manifest
from tasks.store.store import Store

FOLDER = "runs"
LATEST = "latest"
_SETS = 2  # of links that stay: whoever has just followed the old path still gets there


class FinishedRun(BaseModel):
    """The results of one run of a domain, as far as it went.

    Attributes:
        sources: what its corpus was named by, local paths relative to the store.
        results: by the names of their calls, in the order of the flow.
        places: what people want from it, `{name: path relative to the store}`.
    """

    model_config = ConfigDict(frozen=True)
    sources: tuple[str, ...]
    results: dict[str, Link]
    places: dict[str, str] = {}


class _Runs(BaseModel):
    """The file: runs of one domain, the newest first, none of which a newer one covers."""

    runs: tuple[FinishedRun, ...] = ()


def finished_runs(store: Store, name: str) -> tuple[FinishedRun, ...]:
    """The finished runs of a domain that later ones do not cover, newest first; none where the file cannot be read."""
    try:
        return _Runs.model_validate_json(read_regular(file_of(store, name))).runs
    except (OSError, ValidationError):
        return ()


def note(
    store: Store,
    name: str,
    sources: tuple[str, ...],
    results: Mapping[str, Manifest | Link],
    places: Mapping[str, Path],
    *,
    latest: bool = True,
) -> str:
    """Writes down that a run of the domain has finished, and has the links lead to the newest one that has an adapter.

    Args:
        results: by the names of their calls.
        places: what people want from them, by the name of the link.
        latest: whether `latest` leads to this domain from now on.
    Returns:
        A sentence where the file system has no links, else "".
    """
    run = FinishedRun(
        sources=tuple(without_root(source, store) for source in sources),
        results={call: one if isinstance(one, Link) else one.link for call, one in results.items()},
        places={label: str(place.relative_to(store.root)) for label, place in places.items()},
    )
    before = finished_runs(store, name)
    if before and before[0] == run and _shown(store, name) == _wanted(before):
        return _lead_to(store, name) if latest else ""
    access.make_folder(store.root / FOLDER)
    with locked(store.lock(FOLDER, name)):
        older = [other for other in finished_runs(store, name) if not _covers(run, other)]
        return _write(store, name, (run, *older), latest=latest)


def needed(store: Store) -> dict[tuple[str, str], str]:
    """`{(stage, key): why}` of what the last finished runs of all domains consist of."""
    return {
        (link.stage, link.key): f"the last finished run of {path.stem}"
        for path in sorted((store.root / FOLDER).glob("[!.]*.json"))
        for run in finished_runs(store, path.stem)
        for link in run.results.values()
    }


def tidy(store: Store) -> None:
    """Forgets the runs of which a result is not there any more, and the links to them."""
    for path in sorted((store.root / FOLDER).glob("[!.]*.json")):
        with locked(store.lock(FOLDER, path.stem)):
            runs = finished_runs(store, path.stem)
            whole = [run for run in runs if all(store.folder(r.stage, r.key).is_dir() for r in run.results.values())]
            if len(whole) < len(runs):
                _write(store, path.stem, tuple(whole), latest=False)
    latest = store.root / LATEST
    if latest.is_symlink() and not latest.exists():
        latest.unlink(missing_ok=True)


def without_root(source: str, store: Store) -> str:
    """A local path as it leads there from the store, so that a project may be moved; a URL as it is."""
    return os.path.relpath(source, store.root) if Path(source).is_absolute() else source


def file_of(store: Store, name: str) -> Path:
    """The file of a domain's finished runs, which is replaced when one ends."""
    return store.root / FOLDER / f"{name}.json"


def _covers(newer: FinishedRun, older: FinishedRun) -> bool:
    """Whether nothing is looked for in the older run any more: of the same corpus, the newer one went as far."""
    return bool({*newer.sources} & {*older.sources}) and older.results.keys() <= newer.results.keys()


def _write(store: Store, name: str, runs: tuple[FinishedRun, ...], *, latest: bool = True) -> str:
    access.write_whole(file_of(store, name), _Runs(runs=runs).model_dump_json(indent=1).encode() + b"\n")
    try:
        _link(store, name, _wanted(runs))
    except OSError as error:
        return (
            f"The file system of {store.root} takes no links ({error.strerror}), so there is no {LATEST}/ in it: "
            "the results lie in the folders that are named here"
        )
    return _lead_to(store, name) if latest else ""


def _wanted(runs: tuple[FinishedRun, ...]) -> dict[str, str]:
    """The places of the newest run that went furthest for its user: one with an adapter, else the newest."""
    return next((run.places for run in runs if "adapter" in run.places), runs[0].places if runs else {})


def _shown(store: Store, name: str) -> dict[str, str]:
    """What the links lead to now."""
    places = {}
    with contextlib.suppress(OSError):
        for link in (store.root / FOLDER / name).iterdir():
            target = Path(os.path.realpath(link.parent)) / link.readlink()
            places[link.name] = os.path.relpath(target, os.path.realpath(store.root))
    return places


def _link(store: Store, name: str, places: Mapping[str, str]) -> None:
    """Puts a new set of links in the place of the old one, whole and at once."""
    folder, pointer = store.root / FOLDER, store.root / FOLDER / name
    fresh = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=folder))
    fresh.chmod(access.folder_mode(folder))
    try:
        for label, place in places.items():
            target = os.path.relpath(store.root / place, fresh)
            (fresh / label).symlink_to(target, target_is_directory=not Path(place).suffix)
    except OSError:
        access.remove(fresh)
        raise
    if places:
        _replace_link(pointer, fresh.name)
    else:
        pointer.unlink(missing_ok=True)
    others = [path for path in folder.glob(f".{name}.*/") if path.name != fresh.name]
    others.sort(key=lambda path: path.stat().st_mtime_ns)  # by a clock that may have been put back since
    for old in others[: 1 - _SETS] if places else [*others, fresh]:
        access.remove(old)


def _lead_to(store: Store, name: str) -> str:
    """Has `latest` lead to the links of this domain. In a store on a share that takes none, there is nothing to do."""
    with contextlib.suppress(OSError):
        pointer, target = store.root / LATEST, f"{FOLDER}/{name}"
        here = str(pointer.readlink()) if pointer.is_symlink() else ""
        if here != target and (store.root / target).is_dir() and (here or not os.path.lexists(pointer)):
            _replace_link(pointer, target)
    return ""


def _replace_link(pointer: Path, target: str) -> None:
    temporary = pointer.with_name(f".{pointer.name}")
    access.remove(temporary)
    temporary.symlink_to(target, target_is_directory=True)
    temporary.replace(pointer)
